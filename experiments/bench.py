r"""Speed of the models beside the released PyTorch code and ONNX Runtime, in one run.

    git clone https://github.com/fschmid56/EfficientAT
    python -m experiments.bench --originals EfficientAT --torch_python TORCH_VENV/bin/python
    git clone https://github.com/fschmid56/cpjku_dcase23
    python -m experiments.bench --models cp_mobile_32 --originals cpjku_dcase23 \
      --parts network tag step --batches 1 32 --torch_python TORCH_VENV/bin/python
    python -m experiments.bench --models dasheng_base --torch_python TORCH_VENV/bin/python
    python -m experiments.bench --models dasheng_1_2b --parts step --batches 64 --platform gpu \
      --dtype bfloat16 --chip h100 --torch_python TORCH_VENV/bin/python

Every contender is a process of its own. A round takes every case and every contender in turn, so
that whatever else the machine does falls on all and rows can be compared too; medians are reported.
The CNNs run the same weights everywhere, Dasheng drawn ones. The PyTorch side of the CNNs needs
--originals, that of Dasheng the package `dasheng` in TORCH_VENV; without them, this library alone.
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
from typing import Literal

from dasheng_jax import config as dasheng
from dasheng_jax.config import unknown_name
from experiments.benchmarks.contender import Contender, Skipped
from experiments.planning.chips import CHIPS
from experiments.planning.formulas import clip_flops
from experiments.training import cli
from experiments.training.errors import UsageError
from mobile_jax.config import SIZES, DyMNConfig, MNConfig
from mobile_jax.scene_config import SCENE_SIZES, SECONDS
from pipelines.progress import Progress

# What can be timed, of the CNNs and of Dasheng.
PARTS = ("network", "mel", "tag", "train", "step")
DASHENG_PARTS = ("embed", "step")


@dataclasses.dataclass(frozen=True)
class Bench:
  """Settings of bench."""

  # sizes by name; those that begin with dasheng are timed in parts of their own
  models: tuple[str, ...] = ("mn04", "mn10", "dymn10")
  # clips per call
  batches: tuple[int, ...] = (1, 8)
  # what is timed: of CNNs "network" from log-mel, "mel", "tag" (both), "train" (forward and
  # backward); of Dasheng "embed" from waves; of all "step" (a whole training step, from waves to
  # updated weights); empty: "network" and "mel", or both of Dasheng's
  parts: tuple[str, ...] = ()
  # length of Dasheng's clips
  seconds: float = 10.0
  # type of Dasheng's matrix products, on both sides
  dtype: Literal["float32", "bfloat16"] = "float32"
  # of Dasheng's training step
  optimiser: str = "adamw"
  # what the backward pass of Dasheng computes again
  remat: Literal["none", "block", "dots"] = "none"
  # attention of Dasheng: plain products, or the fused kernel of NVIDIA GPUs
  attention: Literal["xla", "cudnn"] = "xla"
  # where Dasheng runs; the CNNs are timed on the CPU
  platform: Literal["cpu", "gpu"] = "cpu"
  # accelerator whose peak the share of it (MFU) is taken of, such as h100; empty: no such column
  chip: str = ""
  # checkout of the released PyTorch code: EfficientAT for MN and DyMN, cpjku_dcase23 for CP-Mobile
  # and CP-ResNet; empty: this library alone
  originals: str = ""
  # Python that has torch and torchaudio (onnxruntime and onnx too, for that column), and for
  # Dasheng einops and the package dasheng
  torch_python: str = ""
  # threads of every contender
  threads: int = 2
  # rounds, and calls in each of them
  rounds: int = 7
  calls: int = 5
  # file that the figures are written to
  json: str = ""
  about: str = "models beside the originals"


def main(cfg: Bench) -> int:
  """Measures, prints a table, and writes it as JSON if asked."""
  cases = _cases(cfg)
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
    contenders = _contenders(cfg, cases, folder, stack)
    rows = _measure(cases, contenders, cfg)
  print(table(rows, [c.name for c in contenders]))
  if speeds := pace(rows, cfg.chip):
    print("\n" + speeds)
  if cfg.json:
    about = {
      "date": datetime.date.today().isoformat(),
      "machine": f"{platform.machine()}, {cfg.threads} threads, {cfg.platform}",
      "python": platform.python_version(),
    }
    pathlib.Path(cfg.json).write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")
  return 0


def _cases(cfg: Bench) -> list[dict]:
  known = dict.fromkeys((*PARTS, *DASHENG_PARTS))
  if odd := [part for part in cfg.parts if part not in known]:
    raise UsageError(f"--parts {odd[0]}: choose from {', '.join(known)}")
  if min((cfg.rounds, cfg.calls, cfg.threads, cfg.seconds, *cfg.batches), default=0) <= 0:
    raise UsageError("--rounds, --calls, --threads, --seconds and --batches must be positive")
  if cfg.chip and cfg.chip not in CHIPS:
    raise UsageError(f"--chip {cfg.chip}: choose from {', '.join(CHIPS)}")
  large = [name for name in cfg.models if _of_dasheng({"model": name})]
  small = [name for name in cfg.models if name not in large]
  for name in small:
    if name not in _CNNS:
      raise UsageError(unknown_name("model", name, _CNNS))
  if cfg.originals:
    _check_checkout(cfg.originals, small)
  for name in large:
    dasheng.named(name)
  settings = {"seconds": cfg.seconds, "dtype": cfg.dtype, "optimiser": cfg.optimiser}
  settings |= {"remat": cfg.remat, "attention": cfg.attention}
  cases: list[dict] = []
  usual = (("network", "mel") if small else ()) + (DASHENG_PARTS if large else ())
  for part in cfg.parts or usual:
    # The front end is the same for all MN and DyMN.
    chosen = small if part in PARTS else []
    if part == "mel":
      chosen = list(dict.fromkeys("" if name in SIZES else name for name in small))
    ours: list[dict] = [{"part": part, "model": model, **_shapes(model)} for model in chosen]
    theirs = large if part in DASHENG_PARTS else []
    ours += [{**settings, "part": part, "model": model} for model in theirs]
    cases += [{**case, "batch": batch} for case in ours for batch in cfg.batches]
  if not cases:
    raise UsageError(f"--parts {' '.join(cfg.parts)}: of none of {', '.join(cfg.models)}")
  return cases


# Those whose released code is timed beside ours.
_CNNS = {**SIZES, **SCENE_SIZES}
# A file that a checkout for a network must have, and where it comes from.
_CHECKOUTS = {
  True: ("models/mn/model.py", "https://github.com/fschmid56/EfficientAT"),
  False: ("models/cp_mobile_clean.py", "https://github.com/fschmid56/cpjku_dcase23"),
}


def _check_checkout(folder: str, models: Sequence[str]) -> None:
  for name in models:
    file, address = _CHECKOUTS[name in SIZES]
    if not (pathlib.Path(folder) / file).is_file():
      raise UsageError(
        f"--originals {folder}: no checkout with {name}; git clone {address}, and time MN and DyMN "
        "apart from the scene models"
      )


def _shapes(model: str) -> dict:
  """What the contenders have to know of a network, or "" of the front end of MN and DyMN."""
  cfg = _CNNS[model or "mn10"]
  mel = cfg.mel
  samples = int(mel.sample_rate * (10.0 if isinstance(cfg, MNConfig | DyMNConfig) else SECONDS))
  return {
    "samples": samples,
    "log_mel": (mel.mel_bins, mel.frames(samples)),
    "classes": cfg.classes,
    "objective": cfg.objective,
    "front_end": {
      "n_mels": mel.mel_bins,
      "win_length": mel.win_length,
      "hopsize": mel.hop_length,
      "n_fft": mel.n_fft,
      "freqm": mel.freq_mask,
      "timem": mel.time_mask,
      "fmin_aug_range": mel.fmin_range,
      "fmax_aug_range": mel.fmax_range,
    },
  }


def _contenders(
  cfg: Bench, cases: Sequence[dict], folder: str, stack: contextlib.ExitStack
) -> list[Contender]:
  found = []

  def add(name: str, command: list[str], env: dict[str, str] | None = None) -> None:
    found.append(stack.enter_context(Contender(name, command, cfg.threads, env)))

  workers = pathlib.Path(__file__).parent / "benchmarks"
  torch_python = cfg.torch_python or sys.executable
  if not all(_of_dasheng(case) for case in cases):
    if cfg.originals:
      originals = str(pathlib.Path(cfg.originals).resolve())
      for kind in ("torch", "onnxruntime"):
        worker = str(workers / "originals.py")
        add(kind, [torch_python, worker, originals, kind, str(cfg.threads), folder])
    for kernels, name in (("auto", "ours"), ("xla", "ours, XLA alone")):
      command = [sys.executable, "-m", "experiments.benchmarks.ours", kernels, folder]
      add(name, command, {"JAX_PLATFORMS": "cpu"})
  if any(_of_dasheng(case) for case in cases):
    if cfg.torch_python:
      worker = str(workers / "originals_dasheng.py")
      add("torch, dasheng", [torch_python, worker, str(cfg.threads), cfg.platform])
    kinds = {"scan": "ours, scanned", "unrolled": "ours, unrolled"}
    if cfg.platform == "cpu":
      kinds["xla"] = "ours, XLA alone"
    for stacked, name in kinds.items():
      command = [sys.executable, "-m", "experiments.benchmarks.ours_dasheng", stacked]
      add(name, command, {"JAX_PLATFORMS": "cuda" if cfg.platform == "gpu" else "cpu"})
  return found


def _of_dasheng(case: dict) -> bool:
  return case["model"].startswith("dasheng")


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
  """Markdown: median milliseconds, and how many times as long as our quickest each takes."""
  lines = ["| case | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
  for row in rows:
    own = [ms for name, ms in row["median_ms"].items() if name.startswith("ours")]
    ours = row["median_ms"].get("ours") or min(own, default=None)
    cells = []
    for name in names:
      ms = row["median_ms"].get(name)
      ratio = "" if ms is None or ms == ours or not ours else f" ({ms / ours:.2f} x)"
      cells.append("-" if ms is None else f"{ms:.1f}{ratio}")
    title = f"{row['model']} {row['part']}, {row['batch']} clip(s)".strip()
    lines.append(f"| {title} | " + " | ".join(cells) + " |")
  return "\n".join(lines)


def pace(rows: Sequence[dict], chip: str = "") -> str:
  """Markdown of Dasheng's rows: clips and operations per second, and the share of a chip's peak.

  Operations are those that training or inference needs, `planning.formulas.clip_flops`: what remat
  computes again does not count. "" without such rows.
  """
  peak = f" | share of {chip}" if chip else ""
  lines = [
    f"| case | who | clips/s | TFLOP/s{peak} |",
    "| --- | --- | ---: | ---: |" + (" ---: |" if chip else ""),
  ]
  for row in rows:
    if not _of_dasheng(row):
      continue
    flops = _flops(row)
    for name, ms in row["median_ms"].items():
      clips = 1e3 * row["batch"] / ms
      share = f" {clips * flops / CHIPS[chip].peak_flops:.1%} |" if chip else ""
      title = f"{row['model']} {row['part']}, {row['batch']} clip(s)"
      lines.append(f"| {title} | {name} | {clips:.2f} | {clips * flops / 1e12:.3f} |{share}")
  return "\n".join(lines) if len(lines) > 2 else ""


def _flops(row: dict) -> float:
  """Operations of a clip: of training, or of the encoder over all tokens."""
  cfg = dasheng.named(row["model"])
  samples = int(row["seconds"] * cfg.mel.sample_rate)
  if row["part"] == "step":
    return clip_flops(cfg, samples).model
  shape, tokens = cfg.encoder, cfg.patches(samples)
  chunk = min(tokens, shape.positions)
  block = (8 + 4 * shape.mlp_ratio) * shape.width**2 + 4 * chunk * shape.width
  return tokens * (2.0 * cfg.patch_size * shape.width + shape.depth * block)


if __name__ == "__main__":
  cli.run_main(
    main,
    {"default": Bench()},
    prog="bench",
    default="default",
    description="Speed of the models beside the released PyTorch code and ONNX Runtime.",
  )
