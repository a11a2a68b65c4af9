"""Weights and a few settings in, an `Embedder` out; and the fingerprint of the weights."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dasheng_jax.config import DashengConfig, unknown_name
from dasheng_jax.errors import WeightsError
from experiments.embedding.embedder import Embedder
from experiments.training.errors import UsageError

Dtype = Literal["float32", "bfloat16"]
# What timestamps of MN and DyMN are by default: window and hop of the HEAR wrapper, in seconds.
WINDOW_SECONDS, HOP_SECONDS = 0.16, 0.05
MOST_SECONDS = 3600.0  # of a window, which goes through the network in one piece


def open_embedder(
  weights: str,
  *,
  model: str = "",
  features: tuple[str, ...] = (),
  pooling: str = "",
  timestamps: bool = False,
  window: float | int | None = None,
  hop: float | int | None = None,
  dtype: Dtype = "float32",
  batch_seconds: float | int = 80.0,
) -> Embedder:
  """The embedder of a weight file or a Dasheng run.

  model: a name that implies the configuration; "" goes by the file's name, and takes what no MN or
  DyMN is named like for Dasheng. features, pooling: "" and () are the family's defaults. window and
  hop are in seconds. Raises UsageError for settings that the family does not have, ConfigError and
  WeightsError as the loaders do.
  """
  path = Path(weights).expanduser()
  if is_dasheng(path, model):
    odd = {"features": features, "window": window, "hop": hop}
    for flag, value in odd.items():
      if value not in ((), None):
        raise UsageError(f"--{flag} is for MN and DyMN; Dasheng has one embedding every 40 ms")
    return _dasheng(path, model, pooling or "mean", timestamps, dtype, batch_seconds)
  if not timestamps and not window is hop is None:
    raise UsageError("--window and --hop shape timestamps; add --timestamps")
  windows = None
  if timestamps:
    windows = (
      float(WINDOW_SECONDS if window is None else window),
      float(HOP_SECONDS if hop is None else hop),
    )
  return _mobile(path, model, features, pooling, windows, dtype, batch_seconds)


def is_dasheng(path: Path, model: str) -> bool:
  """Whether weights are of Dasheng and not of `mobile_jax`. UsageError for an unknown name."""
  import dasheng_jax
  import mobile_jax

  dashengs = {"dasheng", *dasheng_jax.MODELS, *dasheng_jax.SIZES}
  mobiles = {**mobile_jax.MODELS, **mobile_jax.ALL_SIZES}
  if model:
    if model not in dashengs and model not in mobiles:
      raise UsageError(f"--model: {unknown_name('model', model, sorted({*dashengs, *mobiles}))}")
    return model in dashengs
  return not _is_mobile(path)


def has_features(path: Path) -> bool:
  """Whether a file or folder is of MN or DyMN, whose feature sets can be chosen."""
  from mobile_jax.families import Tagger
  from mobile_jax.weights.load import read_model

  return not is_dasheng(path, "") and isinstance(read_model(path)[0], Tagger)


def _is_mobile(path: Path) -> bool:
  """Whether a file or folder says by its record, or else by its name, that it is of mobile_jax."""
  from dasheng_jax.weights.folder import is_weights_folder
  from dasheng_jax.weights.record import read_record
  from mobile_jax.families import FAMILIES
  from mobile_jax.weights.load import config_of, open_content

  if path.is_dir() and not is_weights_folder(path):
    return False  # a run of Dasheng
  try:
    config_of(path, None)
  except WeightsError:
    if not path.exists() or (path.is_file() and path.suffix not in (".pt", ".safetensors")):
      return False
  else:
    return True
  try:
    return read_record(path, open_content(path)).get("family") in FAMILIES
  except WeightsError:
    return False  # whoever reads it says what is wrong


def _mobile(
  path: Path,
  model: str,
  features: tuple[str, ...],
  pooling: str,
  windows: tuple[float, float] | None,
  dtype: Dtype,
  batch_seconds: float | int,
) -> Embedder:
  import mobile_jax
  from mobile_jax.embeddings import POOLINGS

  if pooling:
    _check_pooling(pooling, POOLINGS)
  cfg, variables = mobile_jax.read_model(path, name=model or None)
  return mobile_embedder(
    cfg, variables, features, pooling, windows=windows, dtype=dtype, batch_seconds=batch_seconds
  )


def mobile_embedder(
  cfg: Any,
  variables: dict,
  features: tuple[str, ...] = (),
  pooling: str = "",
  *,
  windows: tuple[float, float] | None = None,
  dtype: Dtype = "float32",
  batch_seconds: float | int = 80.0,
) -> Embedder:
  """The embedder of a configuration of mobile_jax.

  features, pooling: of MN and DyMN; () and "" are blocks and mel, and "avg". windows: (window, hop)
  in seconds where timestamps are wanted; families other than these two have steps of their own.
  """
  from experiments.embedding.mobile import MobileEmbedder
  from experiments.embedding.steps import StepEmbedder
  from mobile_jax.families import Tagger, family_of

  if not isinstance(cfg, Tagger):
    for flag, value in (("features", features), ("pooling", pooling)):
      if value:
        raise UsageError(f"--{flag} is for MN and DyMN; {family_of(cfg)} has one kind of embedding")
    if windows not in (None, (WINDOW_SECONDS, HOP_SECONDS)):
      raise UsageError(f"--window, --hop: are for MN and DyMN; {family_of(cfg)} has time steps")
    computed = cfg.with_compute(dtype=dtype)
    steps = StepEmbedder(
      computed, variables, timestamps=windows is not None, batch_seconds=batch_seconds
    )
    return _with_identity(steps, family_of(cfg), cfg, variables, dtype)
  if windows:
    least = cfg.mel.min_samples / cfg.mel.sample_rate
    if not least <= windows[0] <= MOST_SECONDS:
      raise UsageError(
        f"--window {windows[0]:g}: from {least:.3f} to {MOST_SECONDS:g} seconds (an hour)"
      )
    if not 1 / cfg.mel.sample_rate <= windows[1] <= MOST_SECONDS:
      raise UsageError(
        f"--hop {windows[1]:g}: give seconds, up to {MOST_SECONDS:g}, such as --hop {HOP_SECONDS}"
      )
  made = MobileEmbedder(
    cfg.with_compute(dtype=dtype),
    variables,
    features=features or ("blocks", "mel"),
    pooling=pooling or "avg",  # type: ignore[arg-type]
    timestamps=windows,
    batch_seconds=batch_seconds,
  )
  return _with_identity(made, family_of(cfg), cfg, variables, dtype)


def _dasheng(
  path: Path,
  model: str,
  pooling: str,
  timestamps: bool,
  dtype: Dtype,
  batch_seconds: float | int,
) -> Embedder:
  import dasheng_jax
  from experiments.evaluation.embed import POOLINGS

  _check_pooling(pooling, tuple(POOLINGS))
  try:
    cfg, variables = dasheng_jax.read_encoder(path)
  except WeightsError as error:
    if model or not path.is_file():
      raise
    raise WeightsError(
      f"{error}; if these are weights of mobile_jax, pass their name, as in --model mn10_as"
    ) from None
  return dasheng_embedder(
    cfg, variables, pooling, timestamps=timestamps, dtype=dtype, batch_seconds=batch_seconds
  )


def dasheng_embedder(
  cfg: DashengConfig,
  variables: dict,
  pooling: str = "mean",
  *,
  timestamps: bool = False,
  dtype: Dtype = "float32",
  batch_seconds: float | int = 80.0,
) -> Embedder:
  """The embedder of a Dasheng configuration and the variables of its encoder."""
  from experiments.embedding.dasheng import DashengEmbedder

  made = DashengEmbedder(
    cfg.with_compute(dtype=dtype),
    variables,
    pooling=pooling,
    timestamps=timestamps,
    batch_seconds=batch_seconds,
  )
  return _with_identity(made, "dasheng", cfg, variables, dtype)


def _check_pooling(pooling: str, known: tuple[str, ...]) -> None:
  if pooling not in known:
    raise UsageError(f"--pooling {pooling}: choose from {', '.join(known)}")


def _with_identity(made: Any, family: str, cfg: Any, variables: dict, dtype: Dtype) -> Embedder:
  made.settings = {
    "family": family,
    "weights": fingerprint(cfg, variables),
    "dtype": dtype,
    "sample_rate": made.sample_rate,
    **made.settings,
  }
  return made


def fingerprint(cfg: Any, variables: Mapping) -> str:
  """sha256 over the configuration and every array: the same for the same weights in any format.

  How a model is computed (`cfg.compute`) is left out.
  """
  from dasheng_jax.weights.table import flatten

  plain = dataclasses.replace(cfg, compute=type(cfg.compute)())
  digest = hashlib.sha256(repr(plain).encode())
  for path, x in sorted(flatten(variables).items()):
    array = np.ascontiguousarray(x)
    digest.update(f"{path} {array.dtype} {array.shape}".encode())
    digest.update(array.data)
  return digest.hexdigest()
