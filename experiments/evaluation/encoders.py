"""Everything that can be evaluated, opened by one short text as an `Embedder`.

    encoder.safetensors, runs/night     a weight file, or the folder of a Dasheng run
    random:dasheng_small, random:mn04:7 a named configuration with fresh weights of seed 0, or 7
    random:runs/night                   fresh weights behind the input statistics of a Dasheng
    module:NAME, module:NAME:WEIGHTS    a Python module with the HEAR 2021 interface, anyone's
    log_mel, log_mel_50db               mean and deviation of the log-mel: nothing is learnt

What an encoder has to beat is opened as the encoder is, so every evaluation treats them alike. A
fresh Dasheng knows no input statistics: its normalisation passes raw decibels through. Where the
trained weights are at hand, the third form is the fairer comparison.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dasheng_jax.config import DashengConfig, unknown_name
from experiments.embedding.embedder import Embedder
from experiments.embedding.load import (
  HOP_SECONDS,
  WINDOW_SECONDS,
  dasheng_embedder,
  is_dasheng,
  mobile_embedder,
  open_embedder,
)
from experiments.embedding.module import MODULE, ModuleEmbedder
from experiments.evaluation.rivals import RIVAL_SPECS, RIVALS, LogMelEmbedder
from experiments.training.errors import UsageError

RANDOM = "random:"
FEATURES = ("blocks", "mel")  # of MN and DyMN, where not said otherwise


def open_encoder(
  spec: str, *, features: tuple[str, ...] = FEATURES, pooling: str = "", timestamps: bool = False
) -> Embedder:
  """The embedder of a spec.

  features: of MN and DyMN. pooling: of Dasheng's tokens over time. timestamps: whether frame
  embeddings are wanted too: one every 40 ms of Dasheng, every 50 ms of MN and DyMN (windows of
  160 ms), every time step of other networks, every 10 ms of the log-mel. Raises UsageError for an
  unknown name, and as the loaders do.
  """
  if spec in RIVAL_SPECS:
    return LogMelEmbedder(RIVALS[RIVAL_SPECS[spec]], timestamps=timestamps)
  if spec.startswith(MODULE):
    return ModuleEmbedder(spec, timestamps=timestamps)
  if spec.startswith(RANDOM):
    return _random(spec, features, pooling or "mean", timestamps)
  if is_dasheng(Path(spec).expanduser(), ""):
    return open_embedder(spec, pooling=pooling, timestamps=timestamps)
  import mobile_jax

  return _mobile(*mobile_jax.read_model(Path(spec).expanduser()), features, timestamps)


def name_of(spec: str, specs: Sequence[str]) -> str:
  """What tables call an encoder: the last part of a path where that tells it from the others."""
  if spec in RIVAL_SPECS:
    return RIVAL_SPECS[spec]
  if spec.startswith((RANDOM, MODULE)):
    return spec
  short = os.path.basename(os.path.normpath(spec))
  files = [s for s in specs if not s.startswith((RANDOM, MODULE))]
  return short if sum(os.path.basename(os.path.normpath(s)) == short for s in files) == 1 else spec


def _random(spec: str, features: tuple[str, ...], pooling: str, timestamps: bool) -> Embedder:
  import dasheng_jax
  import mobile_jax

  name, seed = _name_and_seed(spec)
  key = jax.random.key(seed)
  if os.path.exists(os.path.expanduser(name)):
    if not is_dasheng(Path(name).expanduser(), ""):
      raise UsageError(f"{spec}: give the name of a size, as in {RANDOM}mn04")
    dasheng, trained = dasheng_jax.read_encoder(name)
    variables = {**_fresh_dasheng(dasheng, key), "batch_stats": trained["batch_stats"]}
    return dasheng_embedder(dasheng, variables, pooling, timestamps=timestamps)
  if name in dasheng_jax.SIZES:
    cfg = dasheng_jax.named(name)
    return dasheng_embedder(cfg, _fresh_dasheng(cfg, key), pooling, timestamps=timestamps)
  if name in mobile_jax.ALL_SIZES:
    mobile = mobile_jax.named(name)
    variables = jax.jit(functools.partial(mobile_jax.init_variables, mobile))(key)
    return _mobile(mobile, variables, features, timestamps)
  known = [*dasheng_jax.SIZES, *mobile_jax.ALL_SIZES]
  raise UsageError(f"{spec}: {unknown_name('configuration', name, known)}")


def _mobile(cfg: Any, variables: dict, features: tuple[str, ...], timestamps: bool) -> Embedder:
  from mobile_jax.families import Tagger

  windows = (WINDOW_SECONDS, HOP_SECONDS) if timestamps else None
  chosen = features if isinstance(cfg, Tagger) else ()
  return mobile_embedder(cfg, variables, chosen, windows=windows)


def _fresh_dasheng(cfg: DashengConfig, key: jax.Array) -> dict:
  """The encoder's variables; the decoder is left out before it is made."""
  import dasheng_jax
  from dasheng_jax.inference import encoder_variables

  return jax.jit(lambda key: encoder_variables(dasheng_jax.init_variables(cfg, key)))(key)


def _name_and_seed(spec: str) -> tuple[str, int]:
  name, _, seed = spec.removeprefix(RANDOM).rpartition(":")
  if not name:
    return seed, 0
  if not seed.isdecimal() or int(seed) > np.iinfo(np.int32).max:
    raise UsageError(f"{spec}: {seed!r} is no seed; write {RANDOM}{name}:7, say")
  return name, int(seed)
