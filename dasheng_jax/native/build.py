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
import signal
import subprocess
import tempfile
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
NEEDS = "they need a C++17 compiler"
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

    False where the switch is 0, when the default backend is not the CPU, or when building or
    loading failed; the last is logged once, with the reason, and is final for the process. The
    first call in a fresh cache takes the seconds that compiling takes.
    """
    if os.environ.get(self.switch, "1") == "0" or jax.default_backend() != "cpu":
      return False
    try:
      self.load()
    except (OSError, RuntimeError) as problem:
      reason = " ".join(str(problem).split())[:300]
      # Compilers fail with a RuntimeError; an OSError is about the file or its folder.
      hint = "XDG_CACHE_HOME moves the cache" if isinstance(problem, OSError) else NEEDS
      logging.getLogger(self.package).warning(
        "no native kernels, XLA does their work: %s (%s; %s=0 silences this)",
        reason,
        hint,
        self.switch,
      )
      return False
    return True

  def load(self) -> None:
    """Registers the kernels, of the library in the cache or of one that is built now.

    A whole library that does not load stays where it is, and none is built in its place: its key
    covers all that goes into it, so a new one would be no better, and the fault may be this
    process's alone (a limit reached, a home mounted noexec) while others use the file.

    Raises RuntimeError if none can be built, OSError if the cache or the library is of no use.
    """
    folder = cache.cache_folder(self.package)
    keys: dict[str, str] = {}
    problems: dict[str, Exception] = {}
    not_loaded: list[OSError] = []
    for compiler in (compilers := _compilers()):
      try:
        keys[compiler] = self._key(compiler)
      except (OSError, RuntimeError) as problem:
        problems[compiler] = problem  # and it is not asked again: that may take long
        continue
      for path in cache.find(folder, keys[compiler]):
        try:
          _register(path, self.targets)
        except OSError as problem:
          not_loaded.append(problem)
          continue
        cache.mark_used(path)
        return
    if not_loaded:
      raise not_loaded[0]
    for compiler, key in keys.items():
      try:
        path = _build(self.sources(), compiler, folder, key)
      except (OSError, RuntimeError) as problem:
        problems[compiler] = problem
        continue
      with contextlib.suppress(OSError):
        cache.sweep(folder, now=path.stat().st_mtime)
      _register(path, self.targets)
      return
    raise problems[compilers[0]]

  def sources(self) -> list[pathlib.Path]:
    """Own and shared ones, headers included."""
    own = [*self.folder.glob("*.cc"), *self.folder.glob("*.h")]
    return sorted({*own, *(TOOLBOX / name for name in SHARED)})

  def _key(self, compiler: str) -> str:
    digest = hashlib.sha256()
    for path in self.sources():
      digest.update(path.name.encode() + path.read_bytes())
    for text in (*_flags(), _version(compiler), _processor(), jaxlib.__version__):
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


def _version(compiler: str) -> str:
  command = [compiler, "--version"]
  try:
    return subprocess.run(command, capture_output=True, timeout=TIMEOUT_SECONDS, **TEXT).stdout
  except subprocess.TimeoutExpired:
    raise _too_slow(compiler) from None
  except OSError as problem:
    raise RuntimeError(f"the C++ compiler {compiler} cannot be started: {problem}") from None


def _too_slow(compiler: str) -> RuntimeError:
  return RuntimeError(f"the C++ compiler {compiler} took more than {TIMEOUT_SECONDS:g} s")


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
  folder.mkdir(parents=True, exist_ok=True)
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
  name = commands[0][0]
  streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
  # Compilers start others, which hold the pipe too: each gets a group, to be killed as a whole.
  running = [subprocess.Popen(c, start_new_session=True, **streams, **TEXT) for c in commands]
  try:
    for process in running:
      _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
      if process.returncode != 0:
        first = next((line for line in errors.splitlines() if "error" in line), errors)
        raise RuntimeError(f"the C++ compiler {name} failed: {first}")
  except subprocess.TimeoutExpired:
    raise _too_slow(name) from None
  finally:
    for process in running:
      with process:  # closes the pipe and waits
        if process.poll() is None:
          with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)


def _register(path: pathlib.Path, targets: tuple[str, ...]) -> None:
  """OSError where the library cannot be loaded or lacks a target; then nothing is registered."""
  try:
    library = ctypes.CDLL(str(path))
  except OSError as problem:
    raise OSError(f"the library cannot be loaded: {problem}") from None
  try:
    handlers = {target: getattr(library, target) for target in targets}
  except AttributeError as problem:
    raise OSError(f"the library lacks an entry point: {problem}") from None
  for target, handler in handlers.items():
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler), platform="cpu")
