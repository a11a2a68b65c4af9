"""Weights in, probabilities out: one tagger or an ensemble, with few compiled programs."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Float32
from scipy.special import expit, softmax

import mobile_jax
from dasheng_jax.config import unknown_name
from dasheng_jax.errors import WeightsError
from experiments.embedding.mobile import with_reflected_end
from experiments.training.errors import UsageError
from mobile_jax.inference import alone, least_samples, log_mel
from mobile_jax.network import Config, infer
from mobile_jax.weights.load import config_of
from pipelines.decode import AUDIO_SUFFIXES

DEFAULT_MODEL = "mn10_as"
# Compiled programs that are kept; a folder of clips of many lengths needs one for each.
PROGRAMS = 64


class Member:
  """One network. Padding would change what it computes, so every shape has a program of its own.

  What decides the shape is the number of mel frames: clips of equally many share a program.
  """

  def __init__(self, cfg: Config, variables: dict, window: int):
    self.cfg, self.variables, self.window = alone(cfg), variables, window
    self._programs: collections.OrderedDict[tuple, Callable] = collections.OrderedDict()

  def logits(self, waves: Float32[np.ndarray, "b s"]) -> Float32[np.ndarray, "b classes"]:
    """Of clips of one length, each as if it were alone."""
    frames = self.cfg.mel.frames(waves.shape[1])
    # The one length that most windows have needs no detour.
    if waves.shape[1] != self.window:
      waves = np.stack([with_reflected_end(wave, self.cfg.mel) for wave in waves])
    return np.asarray(self._program(waves.shape, frames)(self.variables, waves))

  def _program(self, shape: tuple[int, ...], frames: int) -> Callable:
    key = (*shape, frames)
    if key not in self._programs:
      call = jax.jit(functools.partial(logits_of_frames, self.cfg, frames=frames))
      wave = jax.ShapeDtypeStruct(shape, np.float32)
      self._programs[key] = call.lower(self.variables, wave).compile()
      if len(self._programs) > PROGRAMS:
        self._programs.popitem(last=False)
    self._programs.move_to_end(key)
    return self._programs[key]


def logits_of_frames(
  cfg: Config, variables: dict, wave: Float[Array, "b s"], *, frames: int
) -> Float[Array, "b classes"]:
  """Logits from the first `frames` frames of the log-mel."""
  return infer(cfg, variables, log_mel(cfg, wave, frames)).logits


class Tagger:
  """Probabilities of an ensemble's mean logits (reference text, section 8).

  Those of tags are independent; those of classes, of which a clip has one, add up to 1.

  Args:
    members: networks of one sample rate and one number of classes, all of one objective.
    batch: clips that go through the networks side by side; fewer go one by one or are filled up,
      so that each length of clip has at most two programs.
  """

  def __init__(self, members: Sequence[Member], batch: int):
    self.members, self.batch = tuple(members), batch
    self.lengths: set[int] = set()

  @property
  def rate(self) -> int:
    """Sample rate in Hz."""
    return self.members[0].cfg.mel.sample_rate

  @property
  def classes(self) -> int:
    """Outputs per clip."""
    return self.members[0].cfg.classes

  @property
  def one_class(self) -> bool:
    """Whether a clip has one class, and not tags."""
    return self.members[0].cfg.objective == "classes"

  @property
  def min_samples(self) -> int:
    """The shortest clip that every front end takes."""
    return max(least_samples(member.cfg) for member in self.members)

  def probabilities(self, waves: Float32[np.ndarray, "n s"]) -> Float32[np.ndarray, "n classes"]:
    """Of n clips of one length in [-1, 1] at `rate`; n is at least 1.

    NaN where a logit is not finite, as huge samples make it: an overflow is no probability of 1.
    """
    self.lengths.add(waves.shape[1])
    found = []
    for first in range(0, len(waves), self.batch):
      rows = waves[first : first + self.batch]
      if len(rows) == 1 or 2 * len(rows) < self.batch:
        found += [self._logits(row[None]) for row in rows]
      else:
        filled = np.resize(rows, (self.batch, rows.shape[1]))
        found.append(self._logits(filled)[: len(rows)])
    logits = np.concatenate(found)
    probabilities = softmax(logits, axis=1) if self.one_class else expit(logits)
    return np.where(np.isfinite(logits), probabilities, np.float32(np.nan))

  def _logits(self, waves: np.ndarray) -> np.ndarray:
    return np.mean(np.stack([member.logits(waves) for member in self.members]), axis=0)


def open_tagger(
  weights: Sequence[str], models: Sequence[str], window_seconds: float, batch: int = 8
) -> tuple[Tagger, list[Path]]:
  """(tagger, weight files) of one or several weight files and model names.

  weights: files, or folders that hold a model's published file; none: the current folder.
  models: a name for all weights, a name for each, or none to go by the files' names (without
    weights: `DEFAULT_MODEL`).

  Raises UsageError for names and numbers that do not fit, WeightsError for files that do not.
  """
  pairs = _pairs(list(weights), list(models))
  members = []
  for path, name in pairs:
    cfg, variables = mobile_jax.read_model(path, name=name)
    window = round(window_seconds * cfg.mel.sample_rate)
    members.append(Member(cfg, variables, window))
  must_agree: dict[str, set[Any]] = {
    "sample rates": {member.cfg.mel.sample_rate for member in members},
    "numbers of classes": {member.cfg.classes for member in members},
    "objectives": {member.cfg.objective for member in members},
  }
  for what, kinds in must_agree.items():
    if len(kinds) > 1:
      raise UsageError(f"--weights: an ensemble needs one of these {what}: {sorted(kinds)}")
  return Tagger(members, batch), [path for path, _ in pairs]


def _pairs(weights: list[str], models: list[str]) -> list[tuple[Path, str | None]]:
  known = {**mobile_jax.ALL_SIZES, **mobile_jax.MODELS}
  for name in models:
    if name not in known:
      raise UsageError(f"--model: {unknown_name('model', name, known)}")
  if not weights:
    weights = ["."] * max(1, len(models))
    models = models or [DEFAULT_MODEL]
  if len(models) not in (0, 1, len(weights)):
    raise UsageError(
      f"--model: {len(models)} names for {len(weights)} weight files; give one for all or one each"
    )
  names: list[str | None] = [*models]
  if len(names) != len(weights):
    names = (names or [None]) * len(weights)
  files = [_file(Path(w).expanduser(), name) for w, name in zip(weights, names, strict=True)]
  return list(zip(files, names, strict=True))


def _file(path: Path, name: str | None) -> Path:
  """The weight file, which is known to exist."""
  published = mobile_jax.MODELS.get(name or "")
  if path.is_dir():
    if published is None:
      raise UsageError(f"--weights {path} is a folder; name a published --model, or a file")
    path = path / published.file
  if path.suffix.lower() in AUDIO_SUFFIXES:
    raise UsageError(f"--weights {path}: is a recording; files go before --weights, or behind --")
  if name is None:
    try:
      config_of(path, None)
    except WeightsError:
      raise UsageError(
        f"--weights {path}: no published file has this name; add --model, such as --model mn10_as"
      ) from None
  if published is not None and not path.is_file():
    raise WeightsError(
      f"{path}: no such weight file; download {published.file} from {published.url} "
      "and name it with --weights"
    )
  return path
