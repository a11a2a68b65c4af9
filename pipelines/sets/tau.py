"""What the sets of TAU Urban Acoustic Scenes share: their layout, their names, their devices.

    meta.csv                              tab: filename, scene_label, identifier, source_label
    evaluation_setup/fold1_train.csv      tab: filename, scene_label
    evaluation_setup/fold1_evaluate.csv   the same, of the test part; fold1_test.csv is not needed
    audio/                                what meta.csv lists; files in neither part stay unused

A file's name tells all that is known of it: scene-city-location-segment-device, and before the
device the number of the piece where recordings were cut. Classes and devices are numbered in order
of the alphabet; clips stand in that of meta.csv. Source: reference text of the scene models,
section 9.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.sets.base import RecordingDevices, TrainingSet, folder_of, pick, read_table
from pipelines.sources import Source, open_source

MAIN_DEVICE = "a"
# Three real devices, and six made from the first one: the training part lacks the last three.
GROUPS = {"real": ("a", "b", "c"), "seen": ("s1", "s2", "s3"), "unseen": ("s4", "s5", "s6")}
_SPLITS = {"train": "fold1_train.csv", "test": "fold1_evaluate.csv"}
_COLUMNS = ("filename", "scene_label", "source_label")
_NAME = re.compile(
  r"(?P<recording>(?P<scene>[^-]+)-(?P<city>[^-]+)-[^-]+-[^-]+)(?:-(?P<piece>\d+))?"
  r"-(?P<device>[a-z]\d*)"
)


class Name(NamedTuple):
  """What a file's name tells; piece is -1 where recordings are whole."""

  recording: str  # without piece and device
  scene: str
  city: str
  piece: int
  device: str


def parse_name(recording: str) -> Name | None:
  """The parts of a recording's id, with or without folder and suffix; None for another form."""
  match = _NAME.fullmatch(recording.rsplit("/", 1)[-1].split(".", 1)[0])
  if match is None:
    return None
  piece = int(match["piece"]) if match["piece"] else -1
  return Name(match["recording"], match["scene"], match["city"], piece, match["device"])


def device_of(recording: str) -> str:
  """The device in a recording's id: "a", "b", "c", or "s1" to "s6"; "" for another form."""
  name = parse_name(recording)
  return name.device if name else ""


def tau_set(path: str, cfg: DataConfig, fold: str, name: str, pieces: bool) -> TrainingSet:
  """The published split of one of the sets, in the order of meta.csv; it has one fold.

  Args:
    path: of its folder.
    cfg: as in `open_set`.
    fold: "" or "1".
    name: of the set, for messages.
    pieces: whether its recordings were cut.
  """
  if fold not in ("", "1"):
    raise DataError(f"{name}: fold {fold!r}; the set is published with fold 1 alone")
  folder = folder_of(path, name, "meta.csv, evaluation_setup/ and audio/")
  listed = _listed(folder / "meta.csv", name, pieces)
  classes = tuple(sorted({told.scene for told in listed.values()}))
  source = open_source(str(folder / "audio"), cfg)

  def part(which: str) -> tuple[Source, ...]:
    table = folder / "evaluation_setup" / _SPLITS[which]
    files = {row["filename"] for row in read_table(table, ("filename",), name, "\t")}
    if strange := min(files - listed.keys(), default=""):
      raise DataError(f"{name}: {str(table)!r} lists {strange!r}, which meta.csv does not")
    ordered = [file for file in listed if file in files]
    wanted = [file.removeprefix("audio/") for file in ordered]
    scenes = [listed[file].scene for file in ordered]
    return (pick(source, wanted, scenes, classes, f"{name} {which}"),)

  parts = {which: part(which) for which in _SPLITS}
  names = tuple(sorted({told.device for told in listed.values()}))
  devices = RecordingDevices(names, MAIN_DEVICE, GROUPS, device_of)
  return TrainingSet(name, classes, "classes", parts, devices=devices)


def _listed(path: Path, name: str, pieces: bool) -> dict[str, Name]:
  """{file: its name} in the order of meta.csv, whose columns must say what the names do."""
  form = "scene-city-location-segment-piece-device" if pieces else "...-location-segment-device"
  listed: dict[str, Name] = {}
  where = str(path)
  for line, row in enumerate(read_table(path, _COLUMNS, name, "\t"), start=2):
    file, place = row["filename"], f"{name}: {where!r} line {line}"
    told = parse_name(file)
    if told is None or (told.piece >= 0) != pieces:
      raise DataError(f"{place}: city and device cannot be read from {file!r}, expected {form}.wav")
    if (told.scene, told.device) != (row["scene_label"], row["source_label"]):
      raise DataError(
        f"{place}: scene_label {row['scene_label']!r} and source_label {row['source_label']!r} "
        f"contradict the name {file!r}"
      )
    if file in listed:
      raise DataError(f"{place}: {file!r} is listed twice")
    listed[file] = told
  return listed
