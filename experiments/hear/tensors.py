"""Tensors of the caller's library in and out: PyTorch, TensorFlow or numpy, none of them needed."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from experiments.training.errors import UsageError

Library = Literal["torch", "tensorflow", "numpy"]
LIBRARIES = ("torch", "tensorflow", "numpy")


def library_of(tensor: Any) -> Library:
  """The library that a tensor belongs to; "numpy" for whatever numpy can read."""
  torch, tensorflow = (sys.modules.get(name) for name in LIBRARIES[:2])
  if torch is not None and isinstance(tensor, torch.Tensor):
    return "torch"
  if tensorflow is not None and tensorflow.is_tensor(tensor):
    return "tensorflow"
  return "numpy"


def to_numpy(audio: Any) -> Float32[np.ndarray, "b s"]:
  """Sounds as f32[n_sounds, samples]. Raises UsageError for another rank, or for whole numbers."""
  if library_of(audio) == "torch":
    audio = audio.detach().cpu()
  array = np.asarray(audio)
  if array.ndim != 2:
    raise UsageError(f"audio has shape {array.shape}; expected [n_sounds, samples] of mono audio")
  if not np.issubdtype(array.dtype, np.floating):
    raise UsageError(f"audio is {array.dtype}; expected floats in [-1, 1]")
  return array.astype(np.float32)


def like(audio: Any, array: np.ndarray) -> Any:
  """The array as a tensor of the library, and on the device, of `audio`."""
  match library_of(audio):
    case "torch":
      return sys.modules["torch"].from_numpy(np.array(array)).to(audio.device)
    case "tensorflow":
      return sys.modules["tensorflow"].convert_to_tensor(array)
  return array


def default_library() -> Library:
  """PyTorch where it is installed, else TensorFlow, else numpy."""
  for name in ("torch", "tensorflow"):
    if importlib.util.find_spec(name) is not None:
      return name  # type: ignore[return-value]
  return "numpy"


def base_class(library: str) -> type:
  """The class that a model has to be an instance of: both libraries' callers look."""
  if library not in LIBRARIES:
    raise UsageError(f"library is {library!r}; choose from {', '.join(LIBRARIES)}")
  if library == "torch":
    import torch

    return torch.nn.Module
  if library == "tensorflow":
    import tensorflow

    return tensorflow.Module
  return object
