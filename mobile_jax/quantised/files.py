"""Integers of CP-Mobile in a .safetensors file, with the configuration in its notes."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.record import as_note, config_in, content_of, make_record, read_record
from dasheng_jax.weights.safetensors_file import open_safetensors, write_safetensors
from dasheng_jax.weights.table import flatten, unflatten
from mobile_jax.inference import log_mel
from mobile_jax.network import shapes
from mobile_jax.quantised.fold import fold
from mobile_jax.quantised.integer import Integers, convert, integer_logits
from mobile_jax.quantised.simulate import fresh_ranges
from mobile_jax.scene_config import CPMobileConfig

# The family in the record: no reader of float weights takes these for its own.
FAMILY = "cp_mobile_int8"


def integer_tag(
  cfg: CPMobileConfig, integers: Integers, wave: Float[Array, "b s"]
) -> Float[Array, "b classes"]:
  """Logits of waves f32[b, s] in [-1, 1] at 32 kHz, by integer arithmetic.

  The front end runs in float32. Raises ConfigError for a wave that it cannot take.
  """
  return integer_logits(cfg, integers, log_mel(cfg, wave))


def integer_shapes(cfg: CPMobileConfig) -> Integers:
  """Shapes and types of the integers of a configuration; nothing is allocated."""
  folded = jax.eval_shape(functools.partial(fold, cfg), shapes(cfg))
  ranges = jax.eval_shape(lambda: fresh_ranges(cfg))
  return jax.eval_shape(functools.partial(convert, cfg), folded, ranges)


def size_in_bytes(integers: Integers) -> int:
  """Of all arrays; shapes do as well."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(integers))


def write_integers(path: str | os.PathLike, cfg: CPMobileConfig, integers: Integers) -> Path:
  """Writes a file whole or not at all; its path."""
  arrays = {name: np.asarray(x) for name, x in flatten(integers).items()}
  write_safetensors(path, arrays, as_note(make_record(FAMILY, cfg)))
  return Path(path)


def read_integers(path: str | os.PathLike) -> tuple[CPMobileConfig, Integers]:
  """(configuration, integers) of a file of `write_integers`.

  WeightsError for a file that is absent, damaged, or of anything else.
  """
  path = Path(path)
  if not path.is_file():
    raise WeightsError(f"{path}: no such weight file")
  tensors, notes = open_safetensors(path)
  record = read_record(path, content_of(tensors, notes))
  cfg = config_in(record, {FAMILY: CPMobileConfig()}, path)
  if cfg is None:
    raise WeightsError(f"{path}: says of no network that its integers are of; write it anew")
  wanted = flatten(integer_shapes(cfg))
  _check(tensors, wanted, path)
  flat = {name: jnp.asarray(tensors[name].read()) for name in wanted}
  return cfg, unflatten(flat)


def _check(tensors: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
  if strange := sorted(set(tensors) ^ set(wanted)):
    where = "the file" if strange[0] in tensors else "the network"
    raise WeightsError(f"{path}: {strange[0]} is in {where} alone; foreign or damaged")
  for name, want in wanted.items():
    found = tensors[name]
    if (found.shape, found.dtype) != (want.shape, want.dtype.name):
      raise WeightsError(
        f"{path}: {name} is {found.dtype}{list(found.shape)}, not "
        f"{want.dtype.name}{list(want.shape)}; foreign or damaged"
      )
