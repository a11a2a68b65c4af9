"""Anyone's model: a Python module with the HEAR 2021 interface, of PyTorch, TensorFlow or numpy.

    module:NAME, module:NAME:WEIGHTS

NAME is imported from where Python finds it, the current folder included, and has `load_model`,
`get_scene_embeddings` and, where timestamps are wanted, `get_timestamp_embeddings`
(https://hearbenchmark.com/hear-api.html). It is called with sounds of one length at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import sys
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from experiments.embedding.embedder import Embedding, check_long_enough
from experiments.training.errors import UsageError

MODULE = "module:"
MOST_ROWS = 32
_NEEDED = ("load_model", "get_scene_embeddings")
_OF_TIME = "get_timestamp_embeddings"


class ModuleEmbedder:
  """Scene and timestamp embeddings of a module with the HEAR interface.

  Args:
    spec: module:NAME or module:NAME:WEIGHTS; WEIGHTS is what its `load_model` is given.
    timestamps: whether they are wanted.
    batch_seconds: of audio in one call.

  Raises UsageError for a module that is not there or lacks a function, and for what comes back in
  another shape than the interface says.
  """

  def __init__(self, spec: str, *, timestamps: bool = False, batch_seconds: float | int = 40.0):
    name, _, weights = spec.removeprefix(MODULE).partition(":")
    self.spec, self.timestamps, self.batch_seconds = spec, timestamps, batch_seconds
    self.module = _imported(name, spec)
    missing = [f for f in (*_NEEDED, *((_OF_TIME,) if timestamps else ())) if not _has(self, f)]
    if missing:
      raise UsageError(f"{spec}: {name} has no function {missing[0]} (the HEAR 2021 interface)")
    path = os.path.expanduser(weights)
    if weights and not os.path.exists(path):
      raise UsageError(f"{spec}: there is no {weights}")
    self.model = self.module.load_model(path) if weights else self.module.load_model()
    self.sample_rate = int(self.model.sample_rate)
    self.settings: dict[str, Any] = {
      "family": "module",
      "module": name,
      "code": _digest(_sources(self.module)),
      "weights": _digest(_files(Path(path))) if weights else "",
      "sample_rate": self.sample_rate,
      "timestamps": timestamps,
    }

  def group(self, samples: int) -> Hashable:
    """The length: nothing is known of how the model would hear padding."""
    check_long_enough(samples, 1, self.sample_rate, "are needed")
    return samples

  def rows(self, group: Hashable) -> int:
    """Recordings of about `batch_seconds` in all."""
    assert isinstance(group, int)
    return max(1, min(MOST_ROWS, int(self.batch_seconds * self.sample_rate / group)))

  def embed(self, waves: Sequence[np.ndarray]) -> list[Embedding]:
    """One embedding per wave f32[s] of one length."""
    audio, count = np.stack(waves).astype(np.float32), len(waves)
    with _without_gradients(self.model):
      tensor = _tensor(audio, self.model)
      scenes = self._checked(self.module.get_scene_embeddings(tensor, self.model), "scene", count)
      if not self.timestamps:
        return [Embedding(scene) for scene in scenes]
      frames, times = self.module.get_timestamp_embeddings(tensor, self.model)
    frames, times = self._checked(frames, "timestamp", count), _numpy(times)
    return [Embedding(*one) for one in zip(scenes, frames, times, strict=True)]

  def _checked(self, made: Any, kind: str, count: int) -> np.ndarray:
    found, rank = _numpy(made), 2 if kind == "scene" else 3
    if found.ndim != rank or len(found) != count:
      raise UsageError(
        f"{self.spec}: {kind} embeddings of {count} sounds have shape {found.shape}; "
        f"the HEAR interface has {rank} axes, sounds first"
      )
    return found


def _has(embedder: ModuleEmbedder, function: str) -> bool:
  return callable(getattr(embedder.module, function, None))


def _imported(name: str, spec: str) -> ModuleType:
  # As `python -m` does: modules of the folder that the command runs in are found.
  here = os.getcwd()
  added = here not in sys.path
  if added:
    sys.path.insert(0, here)
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    raise UsageError(f"{spec}: {error}; install it, or name a module of this folder") from None
  except ValueError as error:  # an empty or relative name
    raise UsageError(f"{spec}: {error}; write {MODULE}NAME or {MODULE}NAME:WEIGHTS") from None
  finally:
    if added:
      sys.path.remove(here)


def _tensor(audio: np.ndarray, model: Any) -> Any:
  """What the interface calls a tensor: of the library whose module the model is."""
  torch, tensorflow = (sys.modules.get(name) for name in ("torch", "tensorflow"))
  if torch is not None and isinstance(model, torch.nn.Module):
    first = next(model.parameters(), None)
    return torch.from_numpy(audio).to("cpu" if first is None else first.device)
  if tensorflow is not None and isinstance(model, tensorflow.Module):
    return tensorflow.convert_to_tensor(audio)
  return audio


def _numpy(tensor: Any) -> np.ndarray:
  detached = tensor.detach().cpu() if hasattr(tensor, "detach") else tensor
  return np.asarray(detached, np.float32)


@contextlib.contextmanager
def _without_gradients(model: Any) -> Iterator[None]:
  torch = sys.modules.get("torch")
  if torch is None or not isinstance(model, torch.nn.Module):
    yield
    return
  model.eval()
  with torch.no_grad():
    yield


def _sources(module: ModuleType) -> list[Path]:
  """The Python files of a module's package, or its own file."""
  file = Path(module.__file__ or "")
  return sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]


def _files(path: Path) -> list[Path]:
  return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _digest(files: Sequence[Path]) -> str:
  digest = hashlib.sha256()
  for file in files:
    if file.is_file():
      digest.update(file.name.encode())
      with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
          digest.update(piece)
  return digest.hexdigest()
