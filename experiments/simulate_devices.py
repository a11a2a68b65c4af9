r"""Makes a set in the layout of TAU Urban Acoustic Scenes 2022 Mobile, with simulated devices.

    python -m experiments.simulate_devices --source esc10=FOLDER --responses FOLDER --out FOLDER \
      --devices b=Altec_639.wav c=IR_STC4033_Ribbon.wav s1=IR_AKGD12.wav s4=Toshiba_BK5.wav

Device a hears the recordings as they are, every other one through the impulse response of its file.
A group of the set (a fold, a speaker) is the test part, and every device hears all of it; in the
training part device a hears everything, each of b, c and s1 to s3 a share, and s4 to s6 nothing.
Recordings are cut into pieces of a second, and silent pieces are left out. The responses that no
device is made of are copied to responses/, for augmentation.

Source: reference text of the scene models, sections 5.2 and 9.
"""

from __future__ import annotations

import csv
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.signal
import soundfile

from experiments.training import cli
from experiments.training.entry import say
from experiments.training.errors import UsageError
from pipelines import decode
from pipelines.impulse_response import read_responses
from pipelines.progress import Progress
from pipelines.tasks import LabelledSet, open_task

RATE = 32_000
MAIN = "a"
SEEN = ("b", "c", "s1", "s2", "s3")
UNSEEN = ("s4", "s5", "s6")
# Full scale over this is silence: less than a step of 16 bits.
_SILENCE = 2.0**-15


@dataclasses.dataclass(frozen=True)
class SimulateDevicesConfig:
  """What is heard through what."""

  about: str = ""
  source: str = ""  # NAME=FOLDER of spoken_digits, esc10 or esc50, or synthetic
  test: str = ""  # the group that is the test part; empty: the first
  responses: str = ""  # folder of microphones' impulse responses
  devices: tuple[str, ...] = ()  # each DEVICE=FILE of that folder; devices are b, c and s1 to s6
  share: float = 0.1  # of the training recordings that each of b, c and s1 to s3 hears besides a
  pieces: int = 10  # seconds of a recording that are kept
  seed: int = 0  # decides which recordings these are
  out: str = ""  # folder of the new set; it must not be there yet

  def __post_init__(self):
    if not 0 < self.share <= 1:
      raise UsageError(f"--share {self.share:g}: it must be more than 0, at most 1")
    if self.pieces < 1:
      raise UsageError(f"--pieces {self.pieces}: it must be at least 1")


class Row(NamedTuple):
  """A piece, as meta.csv has it."""

  filename: str
  scene_label: str
  identifier: str
  source_label: str


def main(cfg: SimulateDevicesConfig) -> None:
  """Writes the set; says how many pieces each part and device has."""
  for flag in ("source", "responses", "devices", "out"):
    if not getattr(cfg, flag):
      raise UsageError(
        f"--{flag} is missing: simulate_devices --source NAME=FOLDER --responses FOLDER "
        "--devices b=FILE s4=FILE --out FOLDER"
      )
  out = Path(cfg.out)
  if out.exists():
    raise UsageError(f"--out {out}: is there already; name a new folder")
  heard = _devices(cfg)
  labelled = open_task(cfg.source)
  groups = tuple(dict.fromkeys(labelled.groups))
  test = cfg.test or groups[0]
  if test not in groups:
    raise UsageError(f"--test {test}: {labelled.name} has the groups {', '.join(groups)}")
  parts = _parts(labelled, test, tuple(heard), cfg)
  (out / "audio").mkdir(parents=True)
  rows: dict[str, list[Row]] = {"train": [], "test": []}
  with Progress("hearing", len(labelled), "recordings") as progress:
    for i in range(len(labelled)):
      part = "test" if labelled.groups[i] == test else "train"
      wave = labelled.load(i, RATE)
      for device in parts[i]:
        for piece, content in _pieces(wave, heard[device], cfg.pieces):
          row = _row(labelled, i, piece, device)
          soundfile.write(out / row.filename, content, RATE, subtype="FLOAT")
          rows[part].append(row)
      progress.add(1)
  for part in rows:
    if not rows[part]:
      raise UsageError(f"--source {cfg.source}: nothing but silence in the {part} part")
  _write_tables(out, rows)
  _copy_others(cfg, out)
  for part, found in rows.items():
    counts = {device: sum(row.source_label == device for row in found) for device in heard}
    told = ", ".join(f"{device} {count:,}" for device, count in counts.items() if count)
    say(f"{part:5} {len(found):,} pieces: {told}")


def _devices(cfg: SimulateDevicesConfig) -> dict[str, np.ndarray | None]:
  """The response of every device; None for the main one."""
  heard: dict[str, np.ndarray | None] = {MAIN: None}
  folder = Path(cfg.responses).expanduser()
  for spec in cfg.devices:
    device, _, name = spec.partition("=")
    if device not in (*SEEN, *UNSEEN) or device in heard or not name:
      raise UsageError(
        f"--devices {spec!r}: write DEVICE=FILE with {', '.join((*SEEN, *UNSEEN))}, each once"
      )
    heard[device] = read_responses(folder, RATE, (name,))[0]
  return heard


def _parts(
  labelled: LabelledSet, test: str, devices: Sequence[str], cfg: SimulateDevicesConfig
) -> list[list[str]]:
  """The devices that hear each recording."""
  training = np.flatnonzero(np.asarray(labelled.groups) != test)
  parts = [list(devices) if group == test else [MAIN] for group in labelled.groups]
  rng = np.random.default_rng(cfg.seed)
  # Shuffled, then by class: every n-th of them is a fair share of every class.
  order = rng.permutation(training)
  order = order[np.argsort(labelled.labels[order], kind="stable")]
  count = max(1, round(cfg.share * len(order)))
  for device in devices:
    if device in SEEN:
      first = rng.uniform()
      chosen = order[((np.arange(count) + first) * len(order) / count).astype(int)]
      for i in chosen:
        parts[i].append(device)
  return parts


def _pieces(
  wave: np.ndarray, response: np.ndarray | None, most: int
) -> Iterator[tuple[int, np.ndarray]]:
  """(number, second) of what a device hears, without those in which nothing sounds."""
  heard = wave
  if response is not None:
    heard = scipy.signal.fftconvolve(wave, response)[: len(wave)].astype(np.float32)
  for piece in range(min(most, len(wave) // RATE)):
    span = slice(piece * RATE, (piece + 1) * RATE)
    if np.abs(wave[span]).max() > _SILENCE:
      yield piece, heard[span]


def _row(labelled: LabelledSet, i: int, piece: int, device: str) -> Row:
  scene = labelled.classes[labelled.labels[i]].replace("-", "_")
  group = str(labelled.groups[i]).replace("-", "_")
  name = f"{scene}-group_{group}-{i}-0-{piece}-{device}.wav"
  return Row(f"audio/{name}", scene, f"group_{group}-{i}", device)


def _write_tables(out: Path, rows: dict[str, list[Row]]) -> None:
  folder = out / "evaluation_setup"
  folder.mkdir()
  both = [row for part in rows.values() for row in part]
  _write(out / "meta.csv", Row._fields, both)
  short = Row._fields[:2]
  _write(folder / "fold1_train.csv", short, [row[:2] for row in rows["train"]])
  _write(folder / "fold1_evaluate.csv", short, [row[:2] for row in rows["test"]])
  _write(folder / "fold1_test.csv", short[:1], [row[:1] for row in rows["test"]])


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
  with path.open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)


def _copy_others(cfg: SimulateDevicesConfig, out: Path) -> None:
  """The responses that are no device's."""
  taken = {spec.partition("=")[2] for spec in cfg.devices}
  (out / "responses").mkdir()
  for path in sorted(Path(cfg.responses).expanduser().iterdir()):
    if path.suffix.lower() in decode.AUDIO_SUFFIXES and path.name not in taken:
      shutil.copyfile(path, out / "responses" / path.name)


if __name__ == "__main__":
  cli.run_main(
    main,
    {
      "default": SimulateDevicesConfig(about="pieces of a second, a tenth from each further device")
    },
    prog="simulate_devices",
    default="default",
    description="Makes a set of scenes on simulated devices, in the layout of TAU 2022 Mobile.",
  )
