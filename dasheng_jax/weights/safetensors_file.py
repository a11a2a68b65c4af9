"""`.safetensors` files in and out as dicts of numpy arrays, without PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dasheng_jax.errors import WeightsError


def read_safetensors(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """(arrays by name, the file's notes); WeightsError for a file that is damaged or no such file."""
  from safetensors import SafetensorError, safe_open

  try:
    with safe_open(path, framework="numpy") as file:
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
      return arrays, file.metadata() or {}
  except (SafetensorError, OSError, TypeError) as error:
    reason = str(error).splitlines()[0][:120]
    raise WeightsError(
      f"{path}: not a readable safetensors file ({reason}); download it again"
    ) from None


def write_safetensors(
  path: str | os.PathLike, arrays: Mapping[str, np.ndarray], notes: Mapping[str, str]
) -> None:
  """Writes a file whole or not at all; notes are text beside the arrays."""
  from safetensors.numpy import save_file

  path = Path(path)
  temporary = path.with_name(path.name + ".partial")
  try:
    save_file(dict(arrays), temporary, metadata={"format": "pt", **notes})
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
