"""Compiles the C++ kernels on first use, keeps the library in the user's cache, and registers it.

The library is named by a hash of everything that went into it, the processor included: a home
directory shared by different machines holds one library for each, and none runs on the wrong one.
See `cache` for how it is kept.
"""

import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import logging
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jaxlib

from dasheng_jax.native import cache

TOOLBOX = pathlib.Path(__file__).parent
# What every library is made with.
SHARED = ("simd.h", "functions.h", "parallel.h", "memory.h", "gemm.h", "gemm.cc", "call.h")
COMPILERS = ("c++", "g++", "clang++")
# Contraction into fused multiply-adds is wanted; reordering of sums, infinities and NaNs is not up
# for trade, so no -ffast-math.
FLAGS = (
  "-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno",
  "-fno-trapping-math", "-w",
)  # fmt: skip
TIMEOUT_SECONDS = 120.0
# Compilers quote paths and sources in whatever encoding these have.
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "replace"}


@dataclasses.dataclass(frozen=True)
class Library:
  """The kernels of one package.

  Attributes:
    package: names the folder in the cache, the logger and the switch.
    folder: holds the sources; what all libraries share comes from the toolbox.
    targets: entry points, to be registered under these names.
  """

  package: str
  folder: pathlib.Path
  targets: tuple[str, ...]

  @property
  def switch(self) -> str:
    """The environment variable that leaves these kernels out where it is 0."""
    return f"{self.package.upper()}_NATIVE"

  @functools.cache  # noqa: B019 -- there is one of each, for good
  def available(self) -> bool:
    """True when the kernels are loaded, or could be built and loaded just now.

    False where the switch is 0, when the default backend is not the CPU, or when the build failed;
    the last is logged once, with the reason, and is final for the process. The first call in a
    fresh cache takes the seconds that compiling takes.
    """
    if os.environ.get(self.switch, "1") == "0" or jax.default_backend() != "cpu":
      return False
    try:
      self.load()
    except (OSError, RuntimeError, subprocess.SubprocessError) as problem:
      reason = " ".join(str(problem).split())[:300]
      logging.getLogger(self.package).warning(
        "no native kernels, XLA does their work: %s (they need a C++17 compiler; %s=0 silences "
        "this)",
        reason,
        self.switch,
      )
      return False
    return True

  def load(self) -> None:
    """Registers the kernels, of the library in the cache or of one that is built now.

    Raises RuntimeError, OSError or subprocess.TimeoutExpired with the reason if it cannot be built
    or loaded.
    """
    compilers = _compilers()
    for path in self._kept(compilers):
      try:
        _register(path, self.targets)
      except OSError:
        # Whole and of no use, as when it was linked against another machine's system libraries.
        cache.remove(path)
        continue
      cache.mark_used(path)
      return
    _register(self._built(compilers), self.targets)

  def sources(self) -> list[pathlib.Path]:
    """Own and shared ones, headers included."""
    own = [*self.folder.glob("*.cc"), *self.folder.glob("*.h")]
    return sorted({*own, *(TOOLBOX / name for name in SHARED)})

  def _kept(self, compilers: Sequence[str]) -> Iterator[pathlib.Path]:
    """The libraries in the cache that one of these compilers made for this machine."""
    for compiler in compilers:
      try:
        key = self._key(compiler)
      except OSError:
        continue  # what cannot be started has made none
      yield from cache.find(cache.cache_folder(self.package), key)

  def _built(self, compilers: Sequence[str]) -> pathlib.Path:
    """A library made by the first compiler that works; if none does, the first one's error."""
    problems: list[Exception] = []
    folder = cache.cache_folder(self.package)
    for compiler in compilers:
      try:
        folder.mkdir(parents=True, exist_ok=True)
        path = _build(self.sources(), compiler, folder, self._key(compiler))
      except (OSError, RuntimeError) as problem:
        problems.append(problem)
        continue
      with contextlib.suppress(OSError):
        cache.sweep(folder, now=path.stat().st_mtime)
      return path
    raise problems[0]

  def _key(self, compiler: str) -> str:
    digest = hashlib.sha256()
    for path in self.sources():
      digest.update(path.name.encode() + path.read_bytes())
    version = subprocess.run(
      [compiler, "--version"], capture_output=True, timeout=TIMEOUT_SECONDS, **TEXT
    ).stdout
    for text in (*_flags(), version, _processor(), jaxlib.__version__):
      digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:24]


def _compilers() -> list[str]:
  if platform.system() not in ("Linux", "Darwin"):
    raise RuntimeError(f"{platform.system()} is not supported")
  if platform.machine() not in ("x86_64", "aarch64", "arm64"):
    raise RuntimeError(f"{platform.machine()} processors are not supported")
  found = [path for name in COMPILERS if (path := shutil.which(name))]
  if not found:
    raise RuntimeError(f"none of {', '.join(COMPILERS)} is installed")
  return found


def _flags() -> tuple[str, ...]:
  return (*FLAGS, "-march=native" if platform.machine() == "x86_64" else "-mcpu=native")


def _processor() -> str:
  """What -march=native depends on: the model and its instruction sets."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text(**TEXT).splitlines()
  except OSError:
    return platform.processor() + platform.platform()
  wanted = ("model name", "flags", "CPU part", "Features")
  return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _build(
  sources: list[pathlib.Path], compiler: str, folder: pathlib.Path, key: str
) -> pathlib.Path:
  # Made beside its place and moved there whole: of two processes that build at once, both succeed.
  with tempfile.TemporaryDirectory(dir=folder, prefix=cache.BUILD) as name:
    work = pathlib.Path(name)
    kernels = work / "kernels.cc"
    # One unit for all kernels: their headers cost more than their code. The interface is another.
    parts = [os.fsencode(p) for p in sources if p.suffix == ".cc" and p.stem != "ffi"]
    kernels.write_bytes(b"".join(b'#include "%s"\n' % part for part in parts))
    (interface,) = (p for p in sources if p.name == "ffi.cc")
    include = [f"-I{place}" for place in {p.parent for p in sources}]
    include += ["-isystem", jax.ffi.include_dir()]
    units = {unit: str(work / f"{unit.stem}.o") for unit in (kernels, interface)}
    commands = [
      [compiler, *_flags(), *include, "-c", str(unit), "-o", made] for unit, made in units.items()
    ]
    _run_all(commands)
    linked = work / "kernels.so"
    _run_all([[compiler, "-shared", *units.values(), "-o", str(linked)]])
    return cache.place(linked, folder, key)


def _run_all(commands: list[list[str]]) -> None:
  """Runs compilers side by side; RuntimeError with what the first that fails says."""
  running = [
    subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **TEXT)
    for command in commands
  ]
  try:
    for process in running:
      _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
      if process.returncode != 0:
        first = next((line for line in errors.splitlines() if "error" in line), errors)
        raise RuntimeError(f"the C++ compiler {commands[0][0]} failed: {first}")
  finally:
    for process in running:
      if process.poll() is None:
        process.kill()
        process.communicate()


def _register(path: pathlib.Path, targets: tuple[str, ...]) -> None:
  """OSError where the library cannot be loaded or lacks a target; then nothing is registered."""
  library = ctypes.CDLL(str(path))
  try:
    handlers = {target: getattr(library, target) for target in targets}
  except AttributeError as problem:
    raise OSError(f"the library lacks an entry point: {problem}") from None
  for target, handler in handlers.items():
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler), platform="cpu")
