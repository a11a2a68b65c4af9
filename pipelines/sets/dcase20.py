"""TAU Urban Acoustic Scenes 2020 Mobile (DCASE 2020, task 1A): ten scenes, ten devices.

Layout: meta.csv (tab: filename, scene_label, identifier, source_label), evaluation_setup/
fold1_train.csv and fold1_evaluate.csv (tab: filename, ...), the files in audio/. Classes are the
scenes in order of the alphabet. Source: reference text of MN and DyMN, sections 10.3 and 11.
"""

from __future__ import annotations

from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.sets.base import TrainingSet, folder_of, pick, read_table
from pipelines.sources import open_source

SECONDS = 10.0
_SPLITS = {"train": "fold1_train.csv", "test": "fold1_evaluate.csv"}


def dcase20(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """The published split; it has one fold."""
  if fold not in ("", "1"):
    raise DataError(f"dcase20: fold {fold!r}; the set is published with fold 1 alone")
  folder = folder_of(path, "dcase20", "meta.csv, evaluation_setup/ and audio/")
  columns = ("filename", "scene_label")
  scene = {
    row["filename"]: row["scene_label"]
    for row in read_table(folder / "meta.csv", columns, "dcase20", "\t")
  }
  classes = tuple(sorted(set(scene.values())))
  source = open_source(str(folder / "audio"), cfg)

  def part(which: str):
    table = folder / "evaluation_setup" / _SPLITS[which]
    names = [row["filename"] for row in read_table(table, ("filename",), "dcase20", "\t")]
    if strange := next((name for name in names if name not in scene), None):
      raise DataError(f"dcase20: {str(table)!r} lists {strange!r}, which meta.csv does not")
    wanted = [name.removeprefix("audio/") for name in names]
    return (pick(source, wanted, [scene[n] for n in names], classes, f"dcase20 {which}"),)

  parts = {which: part(which) for which in _SPLITS}
  return TrainingSet("dcase20", classes, "classes", parts, SECONDS)


def device_of(recording: str) -> str:
  """The device in the last part of a file's name: "a", "b", "c", or "s1" to "s6"."""
  return recording.rsplit("/", 1)[-1].rsplit(".", 1)[0].rsplit("-", 1)[-1]
