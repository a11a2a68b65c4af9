"""The HEAR 2021 interface: a model object, its loaders, and the two functions on it.

Specification: https://hearbenchmark.com/hear-api.html. Audio comes as tensors of PyTorch or
TensorFlow, or as numpy arrays, f32[n_sounds, samples] at the model's rate, and results go back as
the same. A sound's embedding does not depend on the other sounds of its call.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from dasheng_jax.errors import ConfigError, WeightsError
from experiments.embedding.dasheng import DashengEmbedder
from experiments.embedding.mobile import MobileEmbedder
from experiments.hear import tensors
from experiments.hear.table import HOP_MS, WINDOW_MS, Row
from mobile_jax.embeddings import POOLINGS, Pooling
from mobile_jax.families import family_of

LoadModel = Callable[..., Any]
# Of the windows of timestamps: what the front end takes, and an hour.
LEAST_MS, MOST_MS = 17, 3_600_000
# Environment variables stand in for keywords, because callers pass a path alone.
VARIABLES = {
  "model_file_path": "HEAR_WEIGHTS",
  "model": "HEAR_MODEL",
  "features": "HEAR_FEATURES",
  "pooling": "HEAR_POOLING",
  "window_ms": "HEAR_WINDOW_MS",
  "library": "HEAR_LIBRARY",
}


def mobile_loader(family: str) -> LoadModel:
  """`load_model` of "mn" or "dymn"."""

  def load_model(
    model_file_path: str = "",
    *,
    model: str = "",
    config: Any = None,
    features: tuple[str, ...] | list[str] = (),
    pooling: str = "",
    window_ms: float | int | None = None,
    library: str = "",
  ) -> Any:
    """The model of a weight file of MN or DyMN.

    Args:
      model_file_path: `.pt` or `.safetensors`.
      model: a name of `mobile_jax.MODELS` or `SIZES`; default: by the file's name.
      config: the configuration itself, in place of a name.
      features: as in `mobile_jax.load_embedder`; default: blocks and mel.
      pooling: as there; default: "avg".
      window_ms: what a timestamp sees; default: 160. There is one every 50 ms.
      library: "torch", "tensorflow" or "numpy": what the model is a module of. Default: the first
        that is installed.

    What is not given is taken from the environment: HEAR_WEIGHTS, HEAR_MODEL, HEAR_FEATURES (such
    as "blocks mel"), HEAR_POOLING, HEAR_WINDOW_MS, HEAR_LIBRARY. Raises ConfigError, by the name of
    the keyword or of the variable, for a pooling or a window that there is not.
    """
    import mobile_jax

    window = _window_ms(window_ms)
    pooled = _pooling(pooling)
    path = _weights(model_file_path)
    name = model or _variable("model") or None
    cfg, variables = mobile_jax.read_model(path, name=name, config=config)
    found = family_of(cfg)
    if found != family:
      raise ConfigError(f"{path}: is a {found} model; load it with experiments.hear.{found}")
    chosen = tuple(features) or tuple(_variable("features").split()) or ("blocks", "mel")
    made = MobileEmbedder(
      cfg,
      variables,
      features=chosen,
      pooling=pooled,
      timestamps=(window / 1000, HOP_MS / 1000),
    )
    size = mobile_jax.embeddings.embedding_size(cfg, chosen, pooled)
    return _model(made, size, library)

  return load_model


def table_loader(row: Row) -> LoadModel:
  """`load_model` of one row of `table.MODULES`; the path and the library alone can be chosen."""

  def load_model(model_file_path: str = "", *, library: str = "") -> Any:
    made = mobile_loader("mn")(
      model_file_path,
      model=row.checkpoint,
      features=row.features.split(),
      pooling=row.pooling,
      window_ms=row.window_ms,
      library=library,
    )
    if made.scene_embedding_size != row.size:
      raise WeightsError(
        f"{model_file_path}: gives {made.scene_embedding_size} numbers, this module has {row.size}"
      )
    return made

  return load_model


def dasheng_loader() -> LoadModel:
  """`load_model` of Dasheng."""

  def load_model(model_file_path: str = "", *, library: str = "") -> Any:
    """The model of a Dasheng weight file or run.

    Scenes are the mean of the tokens over time; timestamps are the tokens, at 20, 60, 100, ... ms.
    The arguments are those of `mobile_loader`'s function, HEAR_WEIGHTS and HEAR_LIBRARY too.
    """
    import dasheng_jax

    cfg, variables = dasheng_jax.read_encoder(_weights(model_file_path))
    made = DashengEmbedder(cfg, variables, timestamps=True)
    return _model(made, cfg.encoder.width, library)

  return load_model


def get_scene_embeddings(audio: Any, model: Any) -> Any:
  """f32[n_sounds, scene_embedding_size] of audio f32[n_sounds, samples]."""
  waves = tensors.to_numpy(audio)
  return tensors.like(audio, np.stack(model.embedder.scenes(waves)))


def get_timestamp_embeddings(audio: Any, model: Any) -> tuple[Any, Any]:
  """(f32[n_sounds, n, timestamp_embedding_size], centres f32[n_sounds, n] in ms)."""
  waves = tensors.to_numpy(audio)
  found = model.embedder.over_time(waves)
  embeddings, times = (np.stack(part) for part in zip(*found, strict=True))
  return tensors.like(audio, embeddings), tensors.like(audio, times)


def _model(embedder: Any, size: int, library: str) -> Any:
  chosen = library or _variable("library") or tensors.default_library()
  made = _class(chosen)()
  made.embedder = embedder
  made.sample_rate = int(embedder.sample_rate)
  made.scene_embedding_size = made.timestamp_embedding_size = int(size)
  return made


@functools.cache
def _class(library: str) -> type:
  """An empty module: the weights stay with JAX, and moving it to a device moves nothing."""
  return type("HearModel", (tensors.base_class(library),), {})


def _window_ms(given: float | int | None) -> float:
  """What a timestamp sees, in ms: the keyword, the variable, or the default."""
  value = given if given is not None else _variable("window_ms") or WINDOW_MS
  try:
    window = float(value)
  except (TypeError, ValueError):
    window = math.nan
  if not LEAST_MS <= window <= MOST_MS:
    name = "window_ms" if given is not None else VARIABLES["window_ms"]
    raise ConfigError(
      f"{name} is {value!r}; give milliseconds from {LEAST_MS} to {MOST_MS}, such as {WINDOW_MS}"
    )
  return window


def _pooling(given: str) -> Pooling:
  found = given or _variable("pooling") or "avg"
  if found not in POOLINGS:
    name = "pooling" if given else VARIABLES["pooling"]
    raise ConfigError(f"{name} is {found!r}; choose from {', '.join(POOLINGS)}")
  return found


def _weights(path: str) -> str:
  found = path or _variable("model_file_path")
  if not found:
    raise ConfigError("no weights: pass model_file_path, or set HEAR_WEIGHTS to a weight file")
  return found


def _variable(keyword: str) -> str:
  return os.environ.get(VARIABLES[keyword], "")
