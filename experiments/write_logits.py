r"""Stores what a teacher, or an ensemble of teachers, says of every recording of a set.

    python -m experiments.write_logits mn10_as_mAP_471.pt mn04_as_mAP_432.pt \
      --data.source audioset=FOLDER --out runs/logits

Logits of several teachers are averaged. A recording longer than a clip is heard clip by clip, and
its logits are the mean over these. What was begun goes on where it stopped. `dasheng:FILE` is a
self-supervised encoder with a linear probe, fitted across folds; see `experiments.teaching`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from experiments.configs.finetune import labelled_data
from experiments.configs.supervised import NO_SOURCE
from experiments.teaching.listeners import PROBE, Listener, open_listener
from experiments.teaching.store import LogitStore
from experiments.training import cli
from experiments.training.entry import fingerprint, say
from experiments.training.errors import UsageError
from pipelines import DataConfig, Dataset, evaluation_batches
from pipelines.progress import Progress
from pipelines.sets import TrainingSet, open_set
from pipelines.sources import Source
from pipelines.sources.selected import SelectedSource

_DATA = labelled_data(10.0)


@dataclasses.dataclass(frozen=True)
class WriteLogitsConfig:
  """Which teachers hear what."""

  about: str = ""
  # weight files, folders or names of mobile_jax.MODELS; or dasheng:FILE
  models: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
  out: str = ""  # folder of the logits
  fold: str = ""  # of a set with folds
  parts: tuple[str, ...] = ("train",)  # of the set that are heard; a probe is fitted on train alone
  recordings: int = 4096  # of a stored part; a stop loses the part that was being heard
  batch_size: int = 16  # clips heard at once
  folds: int = 5  # of a probe
  data: DataConfig = _DATA

  def __post_init__(self):
    for name in ("recordings", "batch_size"):
      if getattr(self, name) < 1:
        raise UsageError(f"--{name} {getattr(self, name)}: it must be at least 1")


def main(cfg: WriteLogitsConfig) -> None:
  """Writes the logits; prints where they are."""
  if not cfg.models:
    raise UsageError(f"name a teacher: MODELS...{cli.swallowed(cfg)}")
  if cfg.data.source == NO_SOURCE or len(cfg.data.source) != 1:
    raise UsageError("--data.source: name one labelled set, such as audioset=FOLDER")
  if not cfg.out:
    raise UsageError("--out: name the folder of the logits, e.g. --out runs/logits")
  labelled = open_set(cfg.data.source[0], cfg.data, cfg.fold)
  sources = [source for part in cfg.parts for source in labelled.heard(part)]
  listeners = [
    open_listener(spec, len(labelled.classes), labelled.objective, cfg.folds) for spec in cfg.models
  ]
  whole = [_dataset(cfg, [source], 32_000) for source in sources]
  store = LogitStore(
    Path(cfg.out),
    {
      "classes": list(labelled.classes),
      "models": list(cfg.models),
      "weights": [weights_digest(spec) for spec in cfg.models],
      "crop": cfg.data.crop,
      "set": labelled.name,
      "heard": [fingerprint(dataset) for dataset in whole],
      "seconds": cfg.data.crop_seconds,
      "folds": cfg.folds,
      "recordings": cfg.recordings,
    },
  )
  probed = {
    i: _probed(cfg, labelled, sources, listener)
    for i, listener in enumerate(listeners)
    if listener.probe is not None and store.finished < _count(sources, cfg.recordings)
  }
  total = sum(len(source.ids) for source in sources)
  number = done = unheard = 0
  with Progress("hearing", total, "recordings") as progress:
    for source in sources:
      for first in range(0, len(source.ids), cfg.recordings):
        rows = np.arange(first, min(first + cfg.recordings, len(source.ids)))
        if number >= store.finished:
          part = SelectedSource(source, rows)
          heard = [
            probed[i][done + rows - first] if i in probed else _hear(cfg, part, listener)
            for i, listener in enumerate(listeners)
          ]
          # What cannot be read is left out: readers take it for unknown to the teacher.
          mean = np.mean(heard, axis=0)
          known = np.flatnonzero(~np.isnan(mean).all(axis=1))
          unheard += len(rows) - len(known)
          store.add([str(part.ids[int(i)]) for i in known], mean[known])
          progress.add(len(rows))
        else:
          progress.skip(len(rows))
        number, done = number + 1, done + len(rows)
  if unheard:
    say(f"{unheard:,} recordings cannot be read and were left out")
  say(
    f"logits of {total - unheard:,} recordings and {len(labelled.classes)} classes are in {cfg.out}"
  )


def weights_digest(spec: str) -> str:
  """What tells two weight files of one name apart; the name itself where it is no path here."""
  path = Path(spec.removeprefix(PROBE))
  files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
  digest = hashlib.blake2b(spec.encode(), digest_size=12)
  for file in files:
    with file.open("rb") as content:
      digest.update(hashlib.file_digest(content, "blake2b").digest())
  return digest.hexdigest()


def _count(sources: list[Source], size: int) -> int:
  return sum(-(-len(source.ids) // size) for source in sources)


def _dataset(cfg: WriteLogitsConfig, sources: list[Source], rate: int) -> Dataset:
  data = dataclasses.replace(cfg.data, sample_rate=rate, holdout=0.0, order="global")
  return Dataset(data, sources)


def _hear(cfg: WriteLogitsConfig, source: Source, listener: Listener) -> np.ndarray:
  """What a teacher says of each recording of a source: the mean over its clips, f32[n, k].

  NaN where a recording cannot be read.
  """
  dataset = _dataset(cfg, [source], listener.rate)
  heard: list[np.ndarray] = []
  weights: list[np.ndarray] = []
  with evaluation_batches(dataset, cfg.batch_size) as batches:
    for batch in batches:
      heard.append(listener.hear(batch["wave"], batch["valid"]))
      weights.append(batch["mask"].astype(np.float64))
  clips = [dataset.clip(i).recording for i in range(len(dataset))]
  values, weight = (np.concatenate(x)[: len(clips)] for x in (heard, weights))
  total = np.zeros((len(source.ids), values.shape[1]))
  count = np.zeros(len(source.ids))
  np.add.at(total, clips, values * weight[:, None])
  np.add.at(count, clips, weight)
  with np.errstate(invalid="ignore"):
    return (total / count[:, None]).astype(np.float32)


def _probed(
  cfg: WriteLogitsConfig, labelled: TrainingSet, sources: list[Source], listener: Listener
) -> np.ndarray:
  """Logits of a probe for all recordings at once, which it needs to be fitted."""
  assert listener.probe is not None
  trained = [id(source) for source in labelled.heard("train")]
  everything = [*sources, *(s for s in labelled.heard("train") if s not in sources)]
  with Progress(f"embedding with {listener.name}", len(everything), "sources") as progress:
    embeddings = []
    for source in everything:
      embeddings.append(_hear(cfg, source, listener))
      progress.add()
  labels = [_labels(cfg, source) for source in everything]
  trainable = [np.full(len(source.ids), id(source) in trained) for source in everything]
  # Parts of one recording are heard alike, so they are judged by the same probe.
  ids = [str(name) for source in everything for name in getattr(source, "origins", source.ids)]
  vectors = np.concatenate(embeddings)
  heard = ~np.isnan(vectors).any(axis=1)
  logits = listener.probe(
    np.where(heard[:, None], vectors, 0.0),
    ids,
    np.concatenate(trainable) & heard,
    np.concatenate(labels),
  )
  logits[~heard] = np.nan
  return logits[: sum(len(source.ids) for source in sources)]


def _labels(cfg: WriteLogitsConfig, source: Source) -> np.ndarray:
  data = dataclasses.replace(cfg.data, crop="single", holdout=0.0, order="global")
  dataset = Dataset(data, [source])
  return dataset.labels_of(np.arange(len(dataset)))


if __name__ == "__main__":
  cli.run_main(
    main,
    {"default": WriteLogitsConfig(about="the training part of a set, ten-second clips")},
    prog="write_logits",
    default="default",
    description="Stores what a teacher, or an ensemble, says of every recording of a set.",
  )
