r"""What a trained DyMN loses when one part of its dynamics is disturbed, and what its Dy-ReLUs do.

    python -m experiments.inspect_dymn dymn10_as.pt --data.source audioset=FOLDER --out runs/inspect

Any checkpoint on any labelled set. Leaves a table (table.md, table.json), a picture of what is left
after every disturbance (disturbed.png, table XII of the paper), and the input-output mapping of the
Dy-ReLUs, block by block, over the clips of the set (dyrelu.png, its figure 6).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.configs.finetune import labelled_data
from experiments.configs.supervised import NO_SOURCE
from experiments.evaluation.part_scores import score_of
from experiments.evaluation.report import markdown_table
from experiments.evaluation.scores import Scores
from experiments.inspection.pictures import draw_left, draw_relus
from experiments.supervised.network import check_rate
from experiments.training import cli
from experiments.training.entry import say
from experiments.training.errors import UsageError
from mobile_jax.config import DyMNConfig
from mobile_jax.inference import log_mel
from mobile_jax.inspection import (
  DISTURBANCES,
  UNDISTURBED_PAPER,
  applies,
  disturbed,
  relu_coefficients,
)
from mobile_jax.network import infer
from mobile_jax.weights.load import read_model
from pipelines import DataConfig, Dataset, evaluation_batches
from pipelines.progress import Progress
from pipelines.sets import open_set

_DATA = labelled_data(10.0, "single")


@dataclasses.dataclass(frozen=True)
class InspectConfig:
  """Which network, on what."""

  about: str = ""
  # one weight file, folder, or name of mobile_jax.MODELS
  weights: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
  out: str = ""  # folder of the table and the pictures
  fold: str = ""  # of a set with folds
  part: str = "test"  # of the set
  clips: int = 0  # the first so many of it; 0 for all
  batch_size: int = 32  # clips that are shuffled among each other
  seed: int = 0  # of the shuffles
  data: DataConfig = _DATA

  def __post_init__(self):
    if self.batch_size < 2:
      raise UsageError(f"--batch_size {self.batch_size}: at least 2 clips can change places")
    if self.clips < 0:
      raise UsageError(f"--clips {self.clips}: give 0 for all, or a number of clips")


def main(cfg: InspectConfig) -> None:
  """Scores the network as it is and with every disturbance it can have; writes what it found."""
  if len(cfg.weights) != 1:
    raise UsageError(f"name one weight file of a DyMN{cli.swallowed(cfg)}")
  if cfg.data.source == NO_SOURCE or len(cfg.data.source) != 1:
    raise UsageError("--data.source: name one labelled set, such as audioset=FOLDER")
  if not cfg.out:
    raise UsageError("--out: name the folder of the results, e.g. --out runs/inspect")
  labelled = open_set(cfg.data.source[0], cfg.data, cfg.fold)
  model, variables = read_model(cfg.weights[0])
  if not isinstance(model, DyMNConfig):
    raise UsageError(f"{cfg.weights[0]}: is an MN, which has nothing dynamic to disturb")
  if model.classes != len(labelled.classes):
    raise UsageError(
      f"{cfg.weights[0]}: tells {model.classes} classes apart, {labelled.name} has "
      f"{len(labelled.classes)}"
    )
  check_rate(cfg.data, model)
  dataset = Dataset(cfg.data, labelled.part(cfg.part))
  names = ["", *(name for name in DISTURBANCES if applies(name, model))]
  logits, given, coefficients = _heard(cfg, model, variables, dataset, names)
  rows = {name: score_of(labelled, x, given) for name, x in logits.items()}
  folder = Path(cfg.out)
  folder.mkdir(parents=True, exist_ok=True)
  table = _table(rows)
  (folder / "table.md").write_text(table + "\n", encoding="utf-8")
  record = {name or "undisturbed": scores.means for name, scores in rows.items()}
  (folder / "table.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
  draw_left(_left(rows), folder / "disturbed.png")
  if coefficients:
    draw_relus({_block(path): x for path, x in coefficients.items()}, folder / "dyrelu.png")
  print(table)
  say(f"table and pictures are in {folder}")


def _heard(
  cfg: InspectConfig, model: DyMNConfig, variables: dict, dataset: Dataset, names: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
  """({disturbance: logits f32[clips, k]}, labels of the clips, Dy-ReLUs of the first batch).

  Every batch is heard in all ways before the next is read. Where the last one has room left, its
  first clips stand there again: a shuffle must not bring in silence.
  """
  most = min(cfg.clips or len(dataset), len(dataset))
  if most < 2:
    raise UsageError(f"{dataset.sources[0].name}: {most} clip(s); two or more can be shuffled")
  front_end = jax.jit(functools.partial(log_mel, model))
  programs = {name: jax.jit(_program(model, name)) for name in names}
  base = jax.random.key(cfg.seed)
  logits: dict[str, list[np.ndarray]] = {name: [] for name in names}
  given: list[dict[str, np.ndarray]] = []
  coefficients: dict[str, np.ndarray] = {}
  with (
    Progress("hearing", most, "clips") as progress,
    evaluation_batches(dataset, min(cfg.batch_size, most)) as batches,
  ):
    for number, batch in enumerate(batches):
      real = np.flatnonzero(batch["mask"])[: most - progress.done]
      if len(real):
        mel = front_end(jnp.asarray(batch["wave"][np.resize(real, len(batch["mask"]))]))
        if not coefficients:
          coefficients = jax.device_get(relu_coefficients(model, variables, mel))
        for name, program in programs.items():
          found = program(variables, mel, jax.random.fold_in(base, number))
          logits[name].append(np.asarray(found)[: len(real)])
        given.append({name: batch[name][real] for name in dataset.fields})
      progress.add(len(real))
      if progress.done >= most:
        break
  if not given:
    raise UsageError(f"{dataset.sources[0].name}: none of its recordings can be read")
  labels = {name: np.concatenate([part[name] for part in given]) for name in given[0]}
  return {name: np.concatenate(parts) for name, parts in logits.items()}, labels, coefficients


def _program(model: DyMNConfig, name: str) -> Callable[[dict, jax.Array, jax.Array], jax.Array]:
  """(variables, log-mel, key) -> logits under a disturbance, or with "" under none."""

  def run(variables: dict, mel: jax.Array, key: jax.Array) -> jax.Array:
    if not name:
      return infer(model, variables, mel).logits
    with disturbed(name, key):
      return infer(model, variables, mel).logits

  return run


def _table(rows: dict[str, Scores]) -> str:
  first = next(iter(rows[""].means))
  cells = [["undisturbed", "", *rows[""].row(), "100 %", "100 %"]]
  for name, scores in rows.items():
    if not name:
      continue
    row = DISTURBANCES[name]
    left = _share(scores.means[first], rows[""].means[first])
    cells.append(
      [row.part, row.what, *scores.row(), f"{left:.0%}", f"{row.paper / UNDISTURBED_PAPER:.0%}"]
    )
  header = ["part", "disturbance", *rows[""].means, f"{first} left", "mAP left in the paper"]
  return markdown_table(header, cells)


def _left(rows: dict[str, Scores]) -> dict[str, tuple[float, float]]:
  """{disturbance: (share of the first figure that is left, that of the paper)}."""
  first = next(iter(rows[""].means))
  whole = rows[""].means[first]
  return {
    f"{DISTURBANCES[name].part}\n{DISTURBANCES[name].what}": (
      _share(scores.means[first], whole),
      DISTURBANCES[name].paper / UNDISTURBED_PAPER,
    )
    for name, scores in rows.items()
    if name
  }


def _share(part: float, whole: float) -> float:
  """What is left of a score; all of it where there was none to lose."""
  return part / whole if whole else 1.0


def _block(path: str) -> str:
  """The block that a Dy-ReLU stands in: block_3/relu_depthwise is block 3."""
  found = re.search(r"block_(\d+)/relu_(\w+)", path)
  if not found:
    return path
  return f"block {found[1]}" + ("" if found[2] == "depthwise" else f", {found[2]}")


if __name__ == "__main__":
  cli.run_main(
    main,
    {"default": InspectConfig(about="the test part of a set")},
    prog="inspect_dymn",
    default="default",
    description="What a trained DyMN loses when one part of its dynamics is disturbed.",
  )
