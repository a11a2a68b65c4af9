"""What the runs of a scaling study have learnt: loss on held-out audio, and k-NN accuracy.

The same clips, crops and masks for every run, whatever its seed, size and amount of data.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dasheng_jax.config import DashengConfig
from dasheng_jax.inference import embed
from dasheng_jax.mae import pretrain_loss
from dasheng_jax.weights.run import newest_step, read_autoencoder
from experiments.configs.pretrain import PretrainConfig
from experiments.evaluation.embed import embed_set
from experiments.evaluation.knn import knn_accuracy
from experiments.scaling_study.grid import Trial, fingerprint_of_training, hours_of_training
from experiments.scaling_study.launch import parameters, run_flops
from experiments.training import config_io, entry
from experiments.training.checkpoint_record import read_meta
from experiments.training.dasheng_task import for_evaluation
from experiments.training.entry import MAY_DIFFER, SUMMARY
from experiments.training.errors import RunError, UsageError
from experiments.training.keys import stream_key
from experiments.training.metrics import write_json
from pipelines import Dataset, evaluation_batches, open_dataset
from pipelines.tasks import LabelledSet

FILE = "held_out.json"
SEED = 0  # of the masks, and of the synthetic corpus


@dataclasses.dataclass(frozen=True)
class Point:
  """A finished run.

  Attributes:
    name: of the run.
    size: name of the model.
    encoder: its parameters.
    decoder: likewise.
    share: of the training audio.
    hours: of the recordings that were trained on.
    steps: of the run.
    seed: of the run.
    seen_hours: of the crops that were trained on, every one counted as often as it was shown.
    flops: operations of the run's matrix products.
    loss: masked reconstruction loss of the held-out clips.
    accuracy: k-NN accuracy by task.
  """

  name: str
  size: str
  encoder: int
  decoder: int
  share: float
  hours: float
  steps: int
  seed: int
  seen_hours: float
  flops: float
  loss: float
  accuracy: dict[str, float]


def finished(trial: Trial) -> bool:
  """Whether the folder of a run holds its end; UsageError where it is that of another run."""
  path = trial.folder / SUMMARY
  if not path.is_file():
    return False
  record = _read(trial.folder / "config.json")
  rows = config_io.diff(record, config_io.to_dict(trial.config))
  free = tuple(name.removeprefix("config.") for name in (*MAY_DIFFER, "config.knn"))
  wrong = [row for row in rows if not any(f"{row[0]}.".startswith(f"{name}.") for name in free)]
  if wrong:
    field, saved, asked = wrong[0]
    raise UsageError(
      f"--out {trial.folder.parent}: {trial.folder.name} was made with {field} {saved}, and "
      f"{asked} is asked for; name another folder, or remove this one"
    )
  check_audio(trial)
  return _read(path).get("steps") == trial.steps


def check_audio(trial: Trial) -> None:
  """UsageError where the folder holds a run that ended and had other recordings to train on.

  The configuration does not tell: the same source may hold more by now. A run that has not ended
  compares them itself when it goes on.
  """
  step = newest_step(trial.folder)
  if step is None or not (trial.folder / SUMMARY).is_file():
    return
  heard = read_meta(step.parent, int(step.name)).get("data")
  there = fingerprint_of_training(trial.config)
  if heard != there:
    raise UsageError(
      f"--out {trial.folder.parent}: {trial.folder.name} was trained on other recordings ({heard}) "
      f"than --source has now ({there}); name another folder, or remove this one"
    )


def _read(path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise RunError(f"{path}: cannot be read ({error}); remove the run's folder") from None


class Judge:
  """Evaluates runs, each once: what was found is kept in the run's folder."""

  def __init__(self, tasks: Sequence[LabelledSet], k: int):
    self._tasks, self._k = tuple(tasks), k

  def __call__(self, trial: Trial) -> Point:
    """The figures of a finished run."""
    path = trial.folder / FILE
    clips = {task.name: len(task) for task in self._tasks}
    exam = entry.fingerprint(_held_out(trial.config.data))
    settings = {"seed": SEED, "k": self._k, "tasks": clips, "held_out": exam}
    if path.is_file() and (found := _read(path)).get("settings") == settings:
      loss, accuracy = float(found["loss"]), found["accuracy"]
    else:
      model, variables = self._model(trial)
      loss = held_out_loss(model, variables, trial.config)
      accuracy = self._accuracy(model, variables)
      write_json(path, {"settings": settings, "loss": loss, "accuracy": accuracy})
    cfg, sizes = trial.config, parameters(trial)
    clips_seen = cfg.loop.steps * cfg.loop.batch_size
    return Point(
      *(trial.cell.name, trial.size, sizes["encoder"], sizes["decoder"]),
      *(trial.share, hours_of_training(cfg), trial.steps, trial.seed),
      *(clips_seen * cfg.data.crop_seconds / 3600, run_flops(trial), loss, accuracy),
    )

  def _model(self, trial: Trial) -> tuple[DashengConfig, dict]:
    step = newest_step(trial.folder)
    if step is None:
      raise RunError(f"{trial.folder}: has ended without a checkpoint; remove it to run it again")
    return read_autoencoder(step)

  def _accuracy(self, model: DashengConfig, variables: dict) -> dict[str, float]:
    encoder = {kind: halves["encoder"] for kind, halves in variables.items()}
    heard = functools.partial(embed, for_evaluation(model))
    found = {}
    for task in self._tasks:
      vectors = embed_set(heard, encoder, task, progress=False)
      found[task.name] = knn_accuracy(vectors, task.labels, task.groups, self._k).accuracy
    return found


def held_out_loss(model: DashengConfig, variables: dict, run: PretrainConfig) -> float:
  """Masked reconstruction loss of a run's held-out clips: a mean over all hidden patches."""
  total = counted = 0.0
  variables = jax.device_put(variables)
  with evaluation_batches(_held_out(run.data), run.loop.batch_size) as source:
    for index, batch in enumerate(source):
      rows = {name: jnp.asarray(batch[name]) for name in ("wave", "valid", "mask")}
      loss, weight = _loss(model, variables, rows, jnp.int32(index))
      total, counted = total + float(weight) * float(loss), counted + float(weight)
  if not counted:
    raise RunError(f"{run.workdir}: no held-out clip has anything to predict; raise --holdout")
  return total / counted


def _held_out(data) -> Dataset:
  """One copy of the held-out clips for all runs: their shares and seeds do not touch it."""
  return _open_held_out(dataclasses.replace(data, share=1.0, share_seed=0, weights=()))


@functools.lru_cache(maxsize=2)
def _open_held_out(data) -> Dataset:
  return open_dataset(data, "holdout", SEED)


@functools.partial(jax.jit, static_argnums=0)
def _loss(
  model: DashengConfig, variables: dict, rows: dict[str, jax.Array], index: jax.Array
) -> tuple[jax.Array, jax.Array]:
  key = stream_key(SEED, "eval", index)
  loss, (_, metrics) = pretrain_loss(
    model,
    variables["params"],
    variables["batch_stats"],
    rows["wave"],
    key,
    False,
    valid=rows["valid"],
    rows=rows["mask"],
  )
  return loss, metrics["counted"]


def as_numpy(points: Sequence[Point], *names: str) -> np.ndarray:
  """f64[n, names]: attributes of the points; `parameters` is encoder and decoder."""
  values = [
    [p.encoder + p.decoder if name == "parameters" else getattr(p, name) for name in names]
    for p in points
  ]
  return np.array(values, np.float64).reshape(len(points), len(names))
