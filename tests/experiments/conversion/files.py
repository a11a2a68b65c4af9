"""Weight files that the tests of conversion write, convert and look into."""

import json
import pathlib

import numpy as np
from safetensors.numpy import load_file, save_file

from experiments import convert_weights

WIDTH = 48


def convert(*paths, **settings) -> int:
  cfg = convert_weights.Convert(paths=tuple(map(str, paths)), **settings)
  return convert_weights.main(cfg)


def saved(path, state, **config) -> pathlib.Path:
  notes = {"config": json.dumps(config)} if config else None
  save_file({k: np.asarray(v, order="C") for k, v in state.items()}, path, notes)
  return path


def tensors_of(path) -> dict[str, np.ndarray]:
  """Every tensor of a written file or folder, under the names in it."""
  path = pathlib.Path(path)
  if path.is_dir():
    return {k: v for file in sorted(path.glob("*.safetensors")) for k, v in load_file(file).items()}
  return load_file(path)


def left_in(folder) -> set[str]:
  return {path.name for path in folder.iterdir()}
