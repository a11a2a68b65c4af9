"""The public evaluation packages as workers: where they are found, how to get them, their turns."""

from __future__ import annotations

import dataclasses
import datetime
import os
import pathlib
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from experiments.benchmarks.contender import Contender, Skipped
from experiments.training.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Package:
  """One of them.

  Attributes:
    name, version: as the package registry has them.
    worker: file of this folder that drives it.
    needs: what `pip install` gets it to run with, besides NumPy.
    beside: packages whose versions are recorded with its own.
  """

  name: str
  version: str
  worker: str
  needs: str
  beside: tuple[str, ...]

  @property
  def install(self) -> str:
    """The two commands; the package's own pins no longer install."""
    return f"pip install {self.needs}; pip install --no-deps {self.name}=={self.version}"


HEAR = Package(
  "heareval",
  "2021.1.3",
  "package_hear.py",
  "torch 'pytorch-lightning<2' 'torchmetrics<1' torchinfo more-itertools pandas scikit-learn "
  "sed_eval 'setuptools<82'",
  ("torch", "pytorch-lightning"),
)
XARES = Package(
  "xares",
  "0.1.3",
  "package_xares.py",
  "torch pytorch-ignite webdataset loguru tqdm scikit-learn",
  ("torch", "pytorch-ignite"),
)


def usable_cores() -> int:
  """Cores that this process may run on: XLA takes as many threads."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def about(threads: int) -> dict[str, Any]:
  """When and where a comparison ran; `threads` are those of the package."""
  return {
    "date": datetime.date.today().isoformat(),
    "machine": f"{platform.machine()}, {usable_cores()} cores",
    "device": jax.default_backend(),
    "jax": jax.__version__,
    "package_threads": threads,
  }


def worker_of(
  package: Package, torch_python: str, folders: Sequence[str], threads: int
) -> Contender:
  """A process for a package, on the CPU.

  torch_python: "" is the running Python. folders: searched for packages before others; relative to
  the current folder.
  """
  for folder in folders:
    if not pathlib.Path(folder).is_dir():
      raise UsageError(f"--package {folder}: no such folder; name those that hold {package.name}")
  worker = str(pathlib.Path(__file__).parent / package.worker)
  places = [str(pathlib.Path(folder).resolve()) for folder in folders]
  command = [torch_python or sys.executable, worker, str(threads), *places]
  return Contender(package.name, command, threads, {"CUDA_VISIBLE_DEVICES": ""})


def check(worker: Contender, package: Package, torch_python: str) -> dict[str, Any]:
  """Versions of what a worker runs on. Raises UsageError where it lacks something."""
  place = f"with the Python of --torch_python ({torch_python or sys.executable})"
  return ask(worker, package, {"versions": [package.name, *package.beside]}, place=place)


def ask(
  worker: Contender,
  package: Package,
  request: Mapping[str, Any],
  noted: Callable[[Any], None] | None = None,
  *,
  place: str = "with the Python of --torch_python",
) -> dict[str, Any]:
  """A worker's answer. Raises UsageError where it cannot, with what the package needs."""
  try:
    return worker.ask(request, noted)
  except Skipped as reason:
    raise UsageError(
      f"{package.name} does not run ({reason}): {package.install}, {place}, or into a folder for "
      "--package"
    ) from None


def check_output(path: str) -> None:
  """Makes the folder of a file before hours go into it. UsageError for a name without .json."""
  file = pathlib.Path(path)
  if file.suffix != ".json":
    raise UsageError(f"--out {path}: end the name in .json")
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UsageError(f"--out {path}: {error.strerror or error}") from None
