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

from experiments.embedding.embedder import Embedding
from experiments.training.errors import UsageError
from pipelines.errors import BadAudio

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
    wanted = (*_NEEDED, *((_OF_TIME,) if timestamps else ()))
    missing = [f for f in wanted if not callable(getattr(self.module, f, None))]
    if missing:
      raise UsageError(f"{spec}: {name} has no function {missing[0]} (the HEAR 2021 interface)")
    path = os.path.expanduser(weights)
    if weights and not os.path.exists(path):
      raise UsageError(f"{spec}: there is no {weights}")
    self.model = self.module.load_model(path) if weights else self.module.load_model()
    self.sample_rate = _rate(self.model, spec)
    self._sizes: dict[str, int] = {}
    self.settings: dict[str, Any] = {
      "family": "module",
      "module": name,
      "module_code": _digest(_sources(self.module)),
      "module_library": _library(self.model),
      "weights": _digest(_files(Path(path))) if weights else "",
      "sample_rate": self.sample_rate,
      "timestamps": timestamps,
    }

  def group(self, samples: int) -> Hashable:
    """The length: nothing is known of how the model would hear padding."""
    if not samples:
      raise BadAudio("is empty")
    return samples

  def rows(self, group: Hashable) -> int:
    """Recordings of about `batch_seconds` in all."""
    assert isinstance(group, int)
    return max(1, min(MOST_ROWS, int(self.batch_seconds * self.sample_rate / group)))

  def embed(self, waves: Sequence[np.ndarray]) -> list[Embedding]:
    """One embedding per wave f32[s] of one length."""
    scenes = self.scenes(waves)
    if not self.timestamps:
      return [Embedding(scene) for scene in scenes]
    found = self.over_time(waves)
    return [Embedding(scene, *timed) for scene, timed in zip(scenes, found, strict=True)]

  def scenes(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
    """f32[d] of each wave of one length."""
    with _without_gradients(self.model):
      made = self.module.get_scene_embeddings(self._tensor(waves), self.model)
    return list(self._checked(made, "scene", len(waves)))

  def over_time(self, waves: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(f32[n, d], centres f32[n] in ms) of each wave of one length."""
    with _without_gradients(self.model):
      made = self.module.get_timestamp_embeddings(self._tensor(waves), self.model)
    if not isinstance(made, tuple | list) or len(made) != 2:
      raise UsageError(f"{self.spec}: {_OF_TIME} gives no (embeddings, times in ms)")
    frames, times = self._checked(made[0], "timestamp", len(waves)), _numpy(made[1])
    if times.shape != frames.shape[:2]:
      raise UsageError(
        f"{self.spec}: times have shape {times.shape} beside embeddings of {frames.shape}; "
        "the HEAR interface has one for each"
      )
    return list(zip(frames, times, strict=True))

  def _tensor(self, waves: Sequence[np.ndarray]) -> Any:
    """What the interface calls a tensor: of the library whose module the model is."""
    audio = np.stack(waves).astype(np.float32)
    torch, tensorflow = _torch_of(self.model), _tensorflow_of(self.model)
    if torch:
      first = next(self.model.parameters(), None)
      return torch.from_numpy(audio).to("cpu" if first is None else first.device)
    return tensorflow.convert_to_tensor(audio) if tensorflow else audio

  def _checked(self, made: Any, kind: str, count: int) -> np.ndarray:
    found, rank = _numpy(made), 2 if kind == "scene" else 3
    if found.ndim != rank or len(found) != count or not found.size:
      raise UsageError(
        f"{self.spec}: {kind} embeddings of {count} sounds have shape {found.shape}; "
        f"the HEAR interface has {rank} axes, sounds first"
      )
    size = self._sizes.setdefault(kind, found.shape[-1])
    if found.shape[-1] != size:
      raise UsageError(f"{self.spec}: {kind} embeddings of {found.shape[-1]} numbers after {size}")
    return found


def _imported(name: str, spec: str) -> ModuleType:
  if not all(part.isidentifier() for part in name.split(".")):
    raise UsageError(f"{spec}: {name!r} is no module; write {MODULE}NAME or {MODULE}NAME:WEIGHTS")
  # As `python -m` does: modules of the folder that the command runs in are found.
  here = os.getcwd()
  added = here not in sys.path
  if added:
    sys.path.insert(0, here)
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name and f"{name}.".startswith(f"{error.name}."):
      raise UsageError(f"{spec}: {error}; install it, or name a module of this folder") from None
    raise UsageError(f"{spec}: {name} needs another one: {error}; install that") from None
  finally:
    if added:
      sys.path.remove(here)


def _rate(model: Any, spec: str) -> int:
  rate = getattr(model, "sample_rate", None)
  if not isinstance(rate, int | float | np.number) or rate <= 0 or rate != int(rate):
    raise UsageError(f"{spec}: sample_rate of its model is {rate!r}; it must be whole Hz")
  return int(rate)


def _torch_of(model: Any) -> Any:
  """PyTorch, if the model is one of its modules."""
  torch = sys.modules.get("torch")
  return torch if torch is not None and isinstance(model, torch.nn.Module) else None


def _tensorflow_of(model: Any) -> Any:
  """TensorFlow, if the model is one of its modules."""
  tensorflow = sys.modules.get("tensorflow")
  return tensorflow if tensorflow and isinstance(model, tensorflow.Module) else None


def _library(model: Any) -> str:
  found = _torch_of(model) or _tensorflow_of(model) or np
  return f"{found.__name__} {found.__version__}"


def _numpy(tensor: Any) -> np.ndarray:
  detached = tensor.detach().cpu() if hasattr(tensor, "detach") else tensor
  return np.asarray(detached, np.float32)


@contextlib.contextmanager
def _without_gradients(model: Any) -> Iterator[None]:
  torch = _torch_of(model)
  if torch is None:
    yield
    return
  model.eval()
  with torch.no_grad():
    yield


def _sources(module: ModuleType) -> list[Path]:
  """The Python files of a module's whole package; of a single file, those beside it too."""
  top = sys.modules.get(module.__name__.partition(".")[0], module)
  file = Path(top.__file__ or module.__file__ or "")
  folder = file.parent
  return sorted(folder.rglob("*.py") if file.name == "__init__.py" else folder.glob("*.py"))


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
