"""Arrays out of an Orbax checkpoint, on the host."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.table import flatten, unflatten


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Keeps orbax from warning of what is meant: of a folder's layout, of a single process."""
  logger = logging.getLogger("absl")
  before = logger.level
  logger.setLevel(logging.ERROR)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      yield
  finally:
    logger.setLevel(before)


def restore_arrays(folder: Path, wanted: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The wanted arrays by path, whatever else the checkpoint holds.

  wanted: shapes by path. WeightsError with the reason alone, for the caller to say of what, where
  the checkpoint cannot be read or an array has another shape.
  """
  import orbax.checkpoint as ocp  # takes seconds, which only those who need it should wait

  item = unflatten(wanted)
  how = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), item)
  args = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
  try:
    with ocp.PyTreeCheckpointer() as reader, quiet():
      arrays = flatten(reader.restore(folder.absolute(), args=args))
  except Exception as error:  # orbax and tensorstore raise many kinds for a bad file
    reason = " ".join((str(error) or type(error).__name__).split())[:200]
    raise WeightsError(reason) from None
  for path, leaf in wanted.items():
    if path not in arrays or arrays[path].shape != leaf.shape:
      raise WeightsError(f"{path} is not as its meta says")
  return {path: np.asarray(arrays[path]) for path in wanted}
