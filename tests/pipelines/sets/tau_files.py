"""Small sets in the layout of TAU Urban Acoustic Scenes, for tests."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import soundfile

from tests.pipelines.conftest import tone


def write_tables(folder: Path, listed: Sequence[str], parts: Mapping[str, Sequence[str]]) -> None:
  """meta.csv and the lists of the split, of files named without folder and suffix."""
  setup = folder / "evaluation_setup"
  setup.mkdir(parents=True, exist_ok=True)
  rows = [[n, n.split("-")[0], "-".join(n.split("-")[1:3]), n.rsplit("-")[-1]] for n in listed]
  _write(folder / "meta.csv", "filename scene_label identifier source_label", rows)
  for part, names in parts.items():
    rows = [[n, n.split("-")[0]] for n in names]
    _write(setup / f"fold1_{part}.csv", "filename scene_label", rows)


def write_audio(
  folder: Path, names: Sequence[str], seconds: float = 0.1, rate: int = 44_100
) -> None:
  """A tone of its own for each file."""
  (folder / "audio").mkdir(parents=True, exist_ok=True)
  for number, name in enumerate(names):
    soundfile.write(folder / "audio" / f"{name}.wav", tone(number, seconds, rate), rate)


def _write(path: Path, head: str, rows: Sequence[Sequence[str]]) -> None:
  lines = [head.split(), *([f"audio/{name}.wav", *rest] for name, *rest in rows)]
  path.write_text("".join("\t".join(line) + "\n" for line in lines))
