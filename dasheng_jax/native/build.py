"""Compiles the C++ kernels on first use, keeps the library in the user's cache, and registers it.

The library is named by a hash of everything that went into it, the processor included: a home
directory shared by different machines holds one library for each, and none runs on the wrong one.
"""

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

import jax
import jaxlib

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
      _register(self.path(), self.targets)
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

  def path(self) -> pathlib.Path:
    """The compiled library for this machine, built now if the cache lacks it.

    Raises RuntimeError or OSError with the reason if it cannot be built.
    """
    compiler = _compiler()
    flags = (*FLAGS, _machine_flag())
    path = cache_folder(self.package) / f"kernels-{self._key(compiler, flags)}.so"
    if not path.exists():
      _build(self.sources(), compiler, flags, path)
    return path

  def sources(self) -> list[pathlib.Path]:
    """Own and shared ones, headers included."""
    own = [*self.folder.glob("*.cc"), *self.folder.glob("*.h")]
    return sorted({*own, *(TOOLBOX / name for name in SHARED)})

  def _key(self, compiler: str, flags: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for path in self.sources():
      digest.update(path.name.encode() + path.read_bytes())
    version = subprocess.run(
      [compiler, "--version"], capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    ).stdout
    for text in (*flags, version, _processor(), jaxlib.__version__):
      digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:24]


def cache_folder(package: str) -> pathlib.Path:
  """Where compiled libraries are kept: `$XDG_CACHE_HOME/PACKAGE` or `~/.cache/PACKAGE`."""
  root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
  return pathlib.Path(root) / package


def _compiler() -> str:
  if platform.system() not in ("Linux", "Darwin"):
    raise RuntimeError(f"{platform.system()} is not supported")
  if platform.machine() not in ("x86_64", "aarch64", "arm64"):
    raise RuntimeError(f"{platform.machine()} processors are not supported")
  for name in COMPILERS:
    if found := shutil.which(name):
      return found
  raise RuntimeError(f"none of {', '.join(COMPILERS)} is installed")


def _machine_flag() -> str:
  return "-march=native" if platform.machine() == "x86_64" else "-mcpu=native"


def _processor() -> str:
  """What -march=native depends on: the model and its instruction sets."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return platform.processor() + platform.platform()
  wanted = ("model name", "flags", "CPU part", "Features")
  return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _build(
  sources: list[pathlib.Path], compiler: str, flags: tuple[str, ...], path: pathlib.Path
) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  # Made beside its place and moved there whole: of two processes that build at once, both succeed.
  with tempfile.TemporaryDirectory(dir=path.parent, prefix="build-") as folder:
    work = pathlib.Path(folder)
    kernels = work / "kernels.cc"
    # One unit for all kernels: their headers cost more than their code. The interface is another.
    kernels.write_text(
      "".join(f'#include "{p}"\n' for p in sources if p.suffix == ".cc" and p.stem != "ffi")
    )
    (interface,) = (p for p in sources if p.name == "ffi.cc")
    include = [f"-I{folder}" for folder in {p.parent for p in sources}]
    include += ["-isystem", jax.ffi.include_dir()]
    units = (kernels, interface)
    objects = [str(work / f"{unit.stem}.o") for unit in units]
    running = [
      subprocess.Popen(
        [compiler, *flags, *include, "-c", str(unit), "-o", made],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
      )
      for unit, made in zip(units, objects, strict=True)
    ]
    try:
      for process in running:
        _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
        _check(process.returncode, errors)
    finally:
      for process in running:
        if process.poll() is None:
          process.kill()
          process.communicate()
    linked = work / path.name
    done = subprocess.run(
      [compiler, "-shared", *objects, "-o", str(linked)],
      capture_output=True,
      text=True,
      timeout=TIMEOUT_SECONDS,
    )
    _check(done.returncode, done.stderr)
    os.replace(linked, path)


def _check(status: int, errors: str) -> None:
  if status != 0:
    first = next((line for line in errors.splitlines() if "error" in line), errors)
    raise RuntimeError(f"the C++ compiler failed: {first}")


def _register(path: pathlib.Path, targets: tuple[str, ...]) -> None:
  handlers = ctypes.CDLL(str(path))
  for target in targets:
    jax.ffi.register_ffi_target(
      target, jax.ffi.pycapsule(getattr(handlers, target)), platform="cpu"
    )
