r"""Scores taggers and scene models on a labelled set: one row each, and what lies behind it.

    python -m experiments.score runs/mine/export/model.safetensors --data.source esc50=FOLDER \
      --fold 1 --out runs/scores

Of every recording one clip of `data.crop_seconds` is heard (`data.crop` says which), or with
`--whole` all of it, as the released evaluation of sets with long recordings does. `--out` gets
scores.json and scores.md, and for each model classes.csv, where clips have one class confusion.png,
and where the set knows what recorded them devices.csv and devices.md.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.configs.finetune import labelled_data
from experiments.configs.supervised import NO_SOURCE
from experiments.evaluation.part_scores import score_of
from experiments.evaluation.scores import Scores
from experiments.supervised.devices import add_devices
from experiments.supervised.network import check_rate
from experiments.supervised.report import score_network, score_table, write_details
from experiments.training import cli
from experiments.training.entry import say
from experiments.training.errors import UsageError
from mobile_jax.inference import least_samples, tag
from mobile_jax.network import Config
from mobile_jax.weights.load import read_model
from pipelines import DataConfig, Dataset, decode
from pipelines.dataset import check_share
from pipelines.errors import BadAudio
from pipelines.progress import Progress
from pipelines.sets import TrainingSet, open_set

_DATA = labelled_data(10.0, "single")


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
  """Which models, on what."""

  about: str = ""
  # weight files, folders, or names of mobile_jax.MODELS
  models: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
  out: str = ""  # folder of the results; empty: the table is printed alone
  fold: str = ""  # of a set with folds
  part: str = "test"  # of the set
  whole: bool = False  # hear every recording at its own length
  # seconds; with --whole, lengths are filled up with silence to a multiple of this, because every
  # length is compiled for itself; 0 for none
  grid: float = 0.5
  batch_size: int = 32  # clips heard at once, but for --whole
  data: DataConfig = _DATA

  def __post_init__(self):
    if self.batch_size < 1 or not self.grid >= 0:
      raise UsageError("--batch_size must be at least 1, and --grid 0 or more seconds")


def main(cfg: ScoreConfig) -> None:
  """Prints a markdown table, a row for each model; writes `out` if asked."""
  if not cfg.models:
    raise UsageError(f"name a model: MODELS...{cli.swallowed(cfg)}")
  if cfg.data.source == NO_SOURCE or len(cfg.data.source) != 1:
    raise UsageError("--data.source: name one labelled set, such as esc50=FOLDER")
  labelled = open_set(cfg.data.source[0], cfg.data, cfg.fold)
  crop = "single" if cfg.whole else cfg.data.crop
  data = dataclasses.replace(cfg.data, holdout=0.0, crop=crop)
  dataset = Dataset(data, labelled.heard(cfg.part))
  add_devices(dataset, labelled)
  networks = {spec: read_model(spec) for spec in cfg.models}
  for spec, (model, _) in networks.items():
    if model.classes != len(labelled.classes):
      raise UsageError(
        f"{spec}: tells {model.classes} classes apart, {labelled.name} has {len(labelled.classes)}"
      )
    if not cfg.whole:
      check_rate(data, model)
  rows: list[tuple[str, Scores]] = []
  for spec, (model, variables) in networks.items():
    if cfg.whole:
      scores = score_whole(model, variables, dataset, labelled, cfg.grid)
    else:
      scores = score_network(model, variables, dataset, labelled, cfg.batch_size)
    rows.append((_short(spec, cfg.models), scores))
  table = score_table(rows)
  print(table)
  if cfg.out:
    _write(cfg, rows, table, labelled.classes)


def score_whole(
  model: Config, variables: dict, dataset: Dataset, labelled: TrainingSet, grid: float
) -> Scores:
  """The scores of a network that hears every recording at its own length, one by one."""
  forward = jax.jit(functools.partial(tag, model))
  rate = model.mel.sample_rate
  step = max(1, round(grid * rate))
  logits, kept = [], []
  with Progress("hearing", len(dataset), "recordings") as progress:
    for example in range(len(dataset)):
      clip = dataset.clip(example)
      source = dataset.sources[clip.source]
      try:
        found, its_rate = source.read(clip.recording, 0, int(source.frames[clip.recording]))
        decode.check_finite(found)
      except BadAudio as error:
        met = dataset.bad.add(dataset.recording_id(clip), str(error))
        check_share(met, dataset.recordings_found, dataset.cfg, dataset.lost)
        progress.add()
        continue
      wave = decode.resample(decode.mono(found), its_rate, rate)
      length = -(-max(len(wave), least_samples(model)) // step) * step
      padded = jnp.asarray(np.pad(wave, (0, length - len(wave))), jnp.float32)
      logits.append(np.asarray(forward(variables, padded[None])[0]))
      kept.append(example)
      progress.add()
  if not kept:
    raise UsageError(f"{dataset.sources[0].name}: none of its recordings can be read")
  examples = np.array(kept)
  given = {name: values_of(examples) for name, values_of in dataset.fields.items()}
  return score_of(labelled, np.concatenate(logits), given)


def _write(
  cfg: ScoreConfig, rows: list[tuple[str, Scores]], table: str, classes: tuple[str, ...]
) -> None:
  folder = Path(cfg.out)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "scores.md").write_text(table + "\n", encoding="utf-8")
  record = {name: scores.means for name, scores in rows}
  (folder / "scores.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
  for number, (name, scores) in enumerate(rows):
    end = "" if len(rows) == 1 else f"_{number}"
    write_details(scores, classes, folder, name, end)
  say(f"scores and pictures are in {folder}")


def _short(spec: str, specs: tuple[str, ...]) -> str:
  """The last part of a path, or all of it where that would not tell two models apart."""
  name = os.path.basename(os.path.normpath(spec))
  return name if sum(os.path.basename(os.path.normpath(s)) == name for s in specs) == 1 else spec


if __name__ == "__main__":
  cli.run_main(
    main,
    {"default": ScoreConfig(about="ten seconds of every recording of the test part")},
    prog="score",
    default="default",
    description="Scores taggers and scene models on a labelled set.",
  )
