"""Speed of the audio CNNs beside the released PyTorch code and ONNX Runtime, in one run.

    git clone https://github.com/fschmid56/EfficientAT
    python -m experiments.bench --originals EfficientAT --torch_python TORCH_VENV/bin/python

Every contender is a process of its own. A round takes every case and every contender in turn, so
that whatever else the machine does falls on all and rows can be compared too; medians are reported.
All run the same weights. Without --originals only this library is timed.
"""

import contextlib
import dataclasses
import datetime
import itertools
import json
import pathlib
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence

from experiments.benchmarks.contender import Contender, Skipped
from experiments.training import cli
from experiments.training.errors import UsageError
from mobile_jax.config import named
from pipelines.progress import Progress

PARTS = ("network", "mel", "tag", "train")


@dataclasses.dataclass(frozen=True)
class Bench:
  """Settings of bench."""

  # sizes by name
  models: tuple[str, ...] = ("mn04", "mn10", "dymn10")
  # clips of 10 s per call
  batches: tuple[int, ...] = (1, 8)
  # what is timed: "network" from log-mel, "mel", "tag" (both), "train" (forward and backward)
  parts: tuple[str, ...] = ("network", "mel")
  # checkout of the released PyTorch code; empty: this library alone
  originals: str = ""
  # Python that has torch and torchaudio (onnxruntime and onnx too, for that column)
  torch_python: str = sys.executable
  # threads of every contender
  threads: int = 2
  # rounds, and calls in each of them
  rounds: int = 7
  calls: int = 5
  # file that the figures are written to
  json: str = ""
  about: str = "networks beside the originals"


def main(cfg: Bench) -> int:
  """Measures, prints a table, and writes it as JSON if asked."""
  cases = _cases(cfg)
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
    contenders = _contenders(cfg, folder, stack)
    rows = _measure(cases, contenders, cfg)
  print(table(rows, [c.name for c in contenders]))
  if cfg.json:
    about = {
      "date": datetime.date.today().isoformat(),
      "machine": f"{platform.machine()}, {cfg.threads} threads",
      "python": platform.python_version(),
    }
    pathlib.Path(cfg.json).write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")
  return 0


def _cases(cfg: Bench) -> list[dict]:
  if odd := [part for part in cfg.parts if part not in PARTS]:
    raise UsageError(f"--parts {odd[0]}: choose from {', '.join(PARTS)}")
  if cfg.originals and not (pathlib.Path(cfg.originals) / "models").is_dir():
    raise UsageError(
      f"--originals {cfg.originals}: no checkout there; "
      "git clone https://github.com/fschmid56/EfficientAT"
    )
  if min((cfg.rounds, cfg.calls, cfg.threads, *cfg.batches), default=0) < 1:
    raise UsageError("--rounds, --calls, --threads and --batches must be positive")
  cases = []
  for part in cfg.parts:
    # The front end is the same for all models.
    for model in ("",) if part == "mel" else cfg.models:
      if model:
        named(model)
      cases += [{"part": part, "model": model, "batch": batch} for batch in cfg.batches]
  return cases


def _contenders(cfg: Bench, folder: str, stack: contextlib.ExitStack) -> list[Contender]:
  found = []
  if cfg.originals:
    worker = pathlib.Path(__file__).parent / "benchmarks" / "originals.py"
    originals = str(pathlib.Path(cfg.originals).resolve())
    for kind in ("torch", "onnxruntime"):
      command = [cfg.torch_python, str(worker), originals, kind, str(cfg.threads), folder]
      found.append(stack.enter_context(Contender(kind, command, cfg.threads)))
  for kernels in ("auto", "xla"):
    command = [sys.executable, "-m", "experiments.benchmarks.ours", kernels, folder]
    name = "ours" if kernels == "auto" else "ours, XLA alone"
    env = {"JAX_PLATFORMS": "cpu"}
    found.append(stack.enter_context(Contender(name, command, cfg.threads, env)))
  return found


def _measure(cases: Sequence[dict], contenders: Sequence[Contender], cfg: Bench) -> list[dict]:
  """Each case with the median and least milliseconds of each contender."""
  times: list[dict[str, list[float]]] = [{} for _ in cases]
  skipped: list[dict[str, str]] = [{} for _ in cases]
  turns = itertools.product(range(cfg.rounds), range(len(cases)), contenders)
  with Progress("bench", cfg.rounds * len(cases) * len(contenders), "turns") as progress:
    for _, row, contender in turns:
      if contender.name not in skipped[row]:
        try:
          ms = contender.time(cases[row], cfg.calls)
          times[row].setdefault(contender.name, []).extend(ms)
        except Skipped as reason:
          skipped[row][contender.name] = str(reason)
      progress.add()
  return [
    {
      **case,
      "median_ms": {name: statistics.median(ms) for name, ms in taken.items()},
      "least_ms": {name: min(ms) for name, ms in taken.items()},
      "skipped": reasons,
    }
    for case, taken, reasons in zip(cases, times, skipped, strict=True)
  ]


def table(rows: Sequence[dict], names: Sequence[str]) -> str:
  """Markdown: median milliseconds, and how many times as long as ours each takes."""
  lines = ["| case | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
  for row in rows:
    ours = row["median_ms"].get("ours")
    cells = []
    for name in names:
      ms = row["median_ms"].get(name)
      ratio = "" if ms is None or name == "ours" or not ours else f" ({ms / ours:.2f} x)"
      cells.append("-" if ms is None else f"{ms:.1f}{ratio}")
    title = f"{row['model']} {row['part']}, {row['batch']} clip(s)".strip()
    lines.append(f"| {title} | " + " | ".join(cells) + " |")
  return "\n".join(lines)


if __name__ == "__main__":
  cli.run_main(
    main,
    {"default": Bench()},
    prog="bench",
    default="default",
    description="Speed of the audio CNNs beside the released PyTorch code and ONNX Runtime.",
  )
