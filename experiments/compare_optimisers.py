r"""Trains one model once per optimiser on the same clips: loss curves, bytes, quantisation errors.

    python -m experiments.compare_optimisers --source DATA/spoken_digits DATA/esc10 \
      DATA/recordings --weights 36 3 1 --out runs/optimisers

Seed, clips and masks are the same for all, so what differs is the arithmetic. Two runs drift apart
from a rounding error alone; one with a learning rate that differs by a millionth shows how far.
Results are written after every run, and the same command goes on with the runs that are missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dasheng_jax.config import SIZES
from experiments.configs.pretrain import EXPERIMENTS, NO_SOURCE, PretrainConfig
from experiments.training import cli, config_io
from experiments.training.dasheng_task import dasheng_task
from experiments.training.errors import UsageError
from experiments.training.mesh import batch_sharding, make_mesh
from experiments.training.metrics import write_json
from experiments.training.optim import OptimConfig, make_optimiser
from experiments.training.paths import leaves_by_path, path_of
from experiments.training.pictures import compare_variants
from experiments.training.progress import ProgressLine
from experiments.training.quantise import Quantised, dequantise, dynamic_map, quantise
from experiments.training.state import TrainState, abstract_state, init_state
from experiments.training.step import compile_eval_step, compile_train_step
from experiments.training.task import Task
from pipelines import Dataset, batches, evaluation_batches, open_dataset, to_device

PLAIN = "AdamW, float32"
VARIANTS: dict[str, dict[str, Any]] = {
  PLAIN: {},
  "the same, learning rate + 1e-6": {},  # see `_variant`
  "AdamW, 8 bits": {"name": "adamw_8bit"},
  "bfloat16, stochastic": {"params": "bfloat16"},
  "bfloat16, float32 masters": {"params": "bfloat16_master"},
  "8 bits, bfloat16, stochastic": {"name": "adamw_8bit", "params": "bfloat16"},
}
LAST = 50  # steps over which the final training loss is averaged
EPS = 1e-8


@dataclasses.dataclass(frozen=True)
class CompareConfig:
  """What to train, on what, and where the results go."""

  source: tuple[str, ...] = NO_SOURCE  # as --data.source of pretrain
  weights: tuple[float, ...] = ()  # as --data.weights of pretrain
  experiment: str = "hour"  # named configuration of pretrain
  steps: int = 300
  warmup_steps: int = 30
  seeds: tuple[int, ...] = (42, 43)
  out: str = "runs/optimisers"  # folder of runs.json, results.json and loss.png


@dataclasses.dataclass(frozen=True)
class Trained:
  """One finished run.

  Attributes:
    losses: before each step.
    validation: loss on held-out clips at the end.
    step_seconds: median.
    moments: of a run with float32 moments, their errors in eight bits; see `moment_errors`.
  """

  losses: list[float]
  validation: float
  step_seconds: float
  moments: dict[str, dict[str, float]]

  @property
  def final(self) -> float:
    """Mean loss of the last steps."""
    return float(np.mean(self.losses[-LAST:]))


Runs = dict[str, dict[int, Trained]]  # by variant and seed


def main(cfg: CompareConfig) -> None:
  """Trains every variant with every seed and writes the results."""
  if cfg.source == NO_SOURCE:
    raise UsageError("--source: name folders of audio, manifests or shards (or synthetic:400)")
  if cfg.experiment not in EXPERIMENTS:
    raise UsageError(f"--experiment {cfg.experiment}: choose one of {', '.join(EXPERIMENTS)}")
  base = EXPERIMENTS[cfg.experiment]
  data = dataclasses.replace(base.data, source=cfg.source, weights=cfg.weights)
  out = Path(cfg.out)
  out.mkdir(parents=True, exist_ok=True)
  runs = _finished(cfg, out / "runs.json")
  with contextlib.closing(ProgressLine()) as progress:
    for seed in cfg.seeds:
      missing = [name for name in VARIANTS if seed not in runs.get(name, {})]
      if not missing:
        continue
      trainset, held_out = (open_dataset(data, part, seed) for part in ("train", "holdout"))
      for name in missing:
        variant = dataclasses.replace(base, optim=_variant(base.optim, name, cfg))
        run = _train(variant, cfg.steps, seed, trainset, held_out, progress, name)
        progress.message(
          f"seed {seed}  {name:30}  loss {run.final:.4f}  held out {run.validation:.4f}  "
          f"{run.step_seconds * 1e3:.0f} ms a step"
        )
        runs.setdefault(name, {})[seed] = run
        _write(cfg, runs, out)
  results = {
    "losses": _summary(runs),
    "bytes, this model": stored_bytes(base),
    "bytes, dasheng_1_2b": stored_bytes(PretrainConfig(model=SIZES["dasheng_1_2b"])),
    "moments": runs[PLAIN][cfg.seeds[0]].moments,
  }
  (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
  print(_text(results))


def _settings(cfg: CompareConfig) -> dict[str, Any]:
  """What decides the result of a single run."""
  return config_io.to_dict(dataclasses.replace(cfg, seeds=(), out=""))


def _finished(cfg: CompareConfig, path: Path) -> Runs:
  """The runs of an earlier command with the same settings."""
  if not path.is_file():
    return {}
  record = json.loads(path.read_text(encoding="utf-8"))
  if record["settings"] != _settings(cfg):
    raise UsageError(f"--out {cfg.out}: holds runs with other settings; name another folder")
  return {
    name: {int(seed): Trained(**run) for seed, run in of.items()}
    for name, of in record["runs"].items()
  }


def _write(cfg: CompareConfig, runs: Runs, out: Path) -> None:
  """Keeps the runs and draws the seeds that every variant begun so far has."""
  plain = {n: {s: dataclasses.asdict(run) for s, run in of.items()} for n, of in runs.items()}
  write_json(out / "runs.json", {"settings": _settings(cfg), "runs": plain})
  seeds = set.intersection(*(set(of) for of in runs.values()))
  curves = {n: np.mean([of[s].losses for s in sorted(seeds)], axis=0) for n, of in runs.items()}
  compare_variants(curves, out / "loss.png")


def _variant(optim: OptimConfig, name: str, cfg: CompareConfig) -> OptimConfig:
  rate = optim.peak_lr * (1 + 1e-6 * (name != PLAIN and not VARIANTS[name]))
  changes = {"peak_lr": rate, "warmup_steps": cfg.warmup_steps, **VARIANTS[name]}
  return dataclasses.replace(optim, **changes)


def _train(
  cfg: PretrainConfig,
  steps: int,
  seed: int,
  trainset: Dataset,
  held_out: Dataset,
  progress: ProgressLine,
  name: str,
) -> Trained:
  task, mesh = dasheng_task(cfg.model), make_mesh(devices=jax.devices()[:1])
  optimiser = make_optimiser(cfg.optim, steps, cfg.model.compute.kernels)
  rows, losses, seconds = cfg.loop.batch_size, [], []
  with jax.set_mesh(mesh):
    state = init_state(task, optimiser, mesh, seed)
    step_fn = compile_train_step(task, optimiser, mesh, seed)
    with batches(trainset, batch_size=rows, seed=seed, steps=steps) as source:
      for number, batch in enumerate(source):
        placed = _placed(batch, mesh)
        began = time.perf_counter()
        state, metrics = step_fn(state, placed)
        losses.append(float(metrics["loss"]))
        seconds.append(time.perf_counter() - began)
        progress.update(f"{name}: step {number + 1}/{steps}")
    eval_fn = compile_eval_step(task, optimiser, mesh, seed)
    total = counted = 0.0
    with evaluation_batches(held_out, rows) as source:
      for number, batch in enumerate(source):
        index = jax.device_put(np.int32(number), NamedSharding(mesh, PartitionSpec()))
        metrics = eval_fn(state, _placed(batch, mesh), index)
        weight = float(metrics["counted"])
        total, counted = total + weight * float(metrics["loss"]), counted + weight
  moments = moment_errors(state.opt_state, _stored(task, state)) if name == PLAIN else {}
  # The first step compiles.
  return Trained(losses, total / counted, float(np.median(seconds[1:])), moments)


def _stored(task: Task, state: TrainState) -> Any:
  """The shapes of 8-bit moments for the same parameters."""
  optimiser = make_optimiser(OptimConfig(name="adamw_8bit", warmup_steps=0), 1)
  return jax.eval_shape(lambda p: optimiser.init(p, task.param_axes), state.params)


def _placed(batch: Mapping[str, Any], mesh: jax.sharding.Mesh) -> Any:
  wanted = {k: batch[k] for k in ("wave", "valid", "mask") if k in batch}
  return to_device(wanted, batch_sharding(mesh))


def _summary(runs: Runs) -> dict[str, dict[str, float]]:
  """Means over the seeds; differences are to the plain run of the same seed, in percent."""
  rows = {}
  for name, of in runs.items():
    pairs = [(run, runs[PLAIN][seed]) for seed, run in of.items()]
    apart = [100 * (run.final / plain.final - 1) for run, plain in pairs]
    held = [100 * (run.validation / plain.validation - 1) for run, plain in pairs]
    rows[name] = {
      "train": float(np.mean([run.final for run in of.values()])),
      "train_percent": float(np.mean(apart)),
      "train_percent_worst": float(max(apart, key=abs)),
      "held_out": float(np.mean([run.validation for run in of.values()])),
      "held_out_percent": float(np.mean(held)),
      "held_out_percent_worst": float(max(held, key=abs)),
      "step_ms": 1e3 * float(np.median([run.step_seconds for run in of.values()])),
    }
  return rows


# --- bytes ---


def stored_bytes(cfg: PretrainConfig) -> dict[str, dict[str, float]]:
  """Bytes per parameter of parameters and moments, by variant; nothing is allocated."""
  rows = {}
  for name, changes in VARIANTS.items():
    optim = dataclasses.replace(cfg.optim, warmup_steps=0, **changes)
    state = abstract_state(dasheng_task(cfg.model), make_optimiser(optim, 1))
    count = sum(x.size for x in jax.tree.leaves(state.params))
    parts = {"parameters": state.params, "moments": state.opt_state}
    sizes = {part: _bytes(tree) / count for part, tree in parts.items()}
    rows[name] = {**sizes, "both_gb": sum(sizes.values()) * count / 1e9}
  return rows


def _bytes(tree: Any) -> int:
  return sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


# --- what eight bits do to real moments ---


def moment_errors(opt_state: Any, stored: Any) -> dict[str, dict[str, float]]:
  """Errors of storing the float32 moments of a run in eight bits, in several ways.

  With u = m / (sqrt(v) + eps) and u8 the same of stored moments: the mean of |u8 - u| and of
  |u8 - u| / |u|, over all values of arrays that are stored in eight bits and have u != 0.

  Args:
    opt_state: of a run with float32 moments.
    stored: the (perhaps abstract) one with 8-bit moments, for its boxes.
  """
  moments = leaves_by_path(jax.device_get(opt_state))
  nodes = jax.tree_util.tree_leaves_with_path(stored, is_leaf=lambda x: isinstance(x, Quantised))
  pairs = []
  for key_path, q in nodes:
    if isinstance(q, Quantised) and q.signed:
      path = path_of(key_path)  # the two states differ in nothing but the nodes
      pairs.append((moments[path], moments[path.replace("/mu/", "/nu/", 1)], q.box))
  return {name: _errors(pairs, store) for name, store in STORES.items()}


def _in_boxes(x: np.ndarray, box: tuple[int, ...], signed: bool) -> np.ndarray:
  codes, absmax = jax.jit(quantise, static_argnums=(1, 2))(x, box, signed)
  return np.asarray(dequantise(Quantised(codes, absmax, box, signed)))


def _flat(size: int | None, linear: bool) -> Callable[[np.ndarray, tuple[int, ...], bool], Any]:
  """Storing in consecutive blocks of the flattened array (None: the whole of it)."""

  def store(x: np.ndarray, box: tuple[int, ...], signed: bool) -> np.ndarray:
    flat = x.reshape(-1)
    width = size or flat.size
    rows = np.pad(flat, (0, -flat.size % width)).reshape(-1, width)
    scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    y = rows / scale
    if linear:
      top = 127 if signed else 255
      y = np.round(y * top) / top
    else:
      values = dynamic_map(signed)
      y = values[np.searchsorted((values[1:] + values[:-1]) / 2, y)]
    return (y * scale).reshape(-1)[: flat.size].reshape(x.shape)

  return store


STORES: dict[str, Callable[[np.ndarray, tuple[int, ...], bool], Any]] = {
  "dynamic, boxes that shards hold whole": _in_boxes,
  "dynamic, flat blocks of 256": _flat(256, False),
  "dynamic, flat blocks of 2,048": _flat(2048, False),
  "dynamic, one block per array": _flat(None, False),
  "linear, flat blocks of 2,048": _flat(2048, True),
  "linear, one block per array": _flat(None, True),
}


def _errors(pairs: list[tuple[np.ndarray, np.ndarray, tuple[int, ...]]], store: Any) -> Any:
  absolute, relative, vanished, largest = [], [], [], 0.0
  for m, v, box in pairs:
    m8, v8 = store(m, box, True), store(v, box, False)
    u, u8 = m / (np.sqrt(v) + EPS), m8 / (np.sqrt(v8) + EPS)
    some = u != 0
    off = np.abs(u8 - u)[some]
    absolute.append(off)
    relative.append(off / np.abs(u[some]))
    vanished.append(((v8 == 0) & (m8 != 0))[some])
    largest = max(largest, float(np.abs(u8).max()))
  return {
    "mean_absolute": float(np.concatenate(absolute).mean()),
    "mean_relative_percent": 100 * float(np.concatenate(relative).mean()),
    "median_relative_percent": 100 * float(np.median(np.concatenate(relative))),
    "v_lost_percent": 100 * float(np.concatenate(vanished).mean()),
    "largest_u": largest,
  }


def _text(results: Mapping[str, Any]) -> str:
  lines = []
  for title, table in (
    ("losses (percent: against float32, same seed)", results["losses"]),
    ("bytes per parameter, this model", results["bytes, this model"]),
    ("bytes per parameter, dasheng_1_2b", results["bytes, dasheng_1_2b"]),
    ("float32 moments of the run, stored in 8 bits", results["moments"]),
  ):
    columns = list(next(iter(table.values())))
    width = max(len(name) for name in table) + 2
    sizes = [max(len(c), 12) for c in columns]
    head = "  ".join(c.rjust(n) for c, n in zip(columns, sizes, strict=True))
    lines += ["", title, " " * width + head]
    for name, row in table.items():
      cells = "  ".join(f"{row[c]:.4g}".rjust(n) for c, n in zip(columns, sizes, strict=True))
      lines.append(name.ljust(width) + cells)
  return "\n".join(lines)


if __name__ == "__main__":
  sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
  cli.run_main(
    main,
    {"default": CompareConfig()},
    prog="compare_optimisers",
    default="default",
    description=(__doc__ or "").split("\n")[0],
  )
