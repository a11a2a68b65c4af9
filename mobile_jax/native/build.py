"""Compiles the C++ kernels on first use, keeps the library in the user's cache, and registers it.

The library is named by a hash of everything that went into it, the processor included: a home
directory shared by different machines holds one library for each, and none runs on the wrong one.
"""

import ctypes
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

log = logging.getLogger("mobile_jax")

SOURCE = pathlib.Path(__file__).parent
SWITCH = "MOBILE_JAX_NATIVE"
COMPILERS = ("c++", "g++", "clang++")
TARGETS = (
  "mobile_expand_depthwise",
  "mobile_pointwise",
  "mobile_axis_means",
  "mobile_stem",
  "mobile_stem_patches",
  "mobile_dense",
  "mobile_depthwise_input_gradient",
  "mobile_depthwise_kernel_gradient",
  "mobile_pointwise_kernel_gradient",
  "mobile_norm_statistics",
  "mobile_norm_apply",
  "mobile_norm_gradient_sums",
  "mobile_norm_gradient",
)
# Contraction into fused multiply-adds is wanted; reordering of sums, infinities and NaNs is not up
# for trade, so no -ffast-math.
FLAGS = (
  "-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno",
  "-fno-trapping-math", "-w",
)  # fmt: skip
TIMEOUT_SECONDS = 120.0


@functools.cache
def available() -> bool:
  """True when the kernels are loaded, or could be built and loaded just now.

  False when `MOBILE_JAX_NATIVE=0` is set, when the default backend is not the CPU, or when the
  build failed; the last is logged once, with the reason, and is final for the process. The first
  call in a fresh cache takes the seconds that compiling takes.
  """
  if os.environ.get(SWITCH, "1") == "0" or jax.default_backend() != "cpu":
    return False
  try:
    _register(library())
  except (OSError, RuntimeError, subprocess.SubprocessError) as problem:
    reason = " ".join(str(problem).split())[:300]
    log.warning(
      "no native kernels, XLA does their work: %s (they need a C++17 compiler; %s=0 silences this)",
      reason,
      SWITCH,
    )
    return False
  return True


def library() -> pathlib.Path:
  """The path of the compiled library for this machine, built now if the cache lacks it.

  Raises RuntimeError or OSError with the reason if it cannot be built.
  """
  compiler = _compiler()
  flags = (*FLAGS, _machine_flag())
  path = cache_folder() / f"kernels-{_key(compiler, flags)}.so"
  if not path.exists():
    _build(compiler, flags, path)
  return path


def cache_folder() -> pathlib.Path:
  """Where compiled libraries are kept: `$XDG_CACHE_HOME/mobile_jax` or `~/.cache/mobile_jax`."""
  root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
  return pathlib.Path(root) / "mobile_jax"


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


def _sources() -> list[pathlib.Path]:
  return sorted([*SOURCE.glob("*.cc"), *SOURCE.glob("*.h")])


def _processor() -> str:
  """What -march=native depends on: the model and its instruction sets."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return platform.processor() + platform.platform()
  wanted = ("model name", "flags", "CPU part", "Features")
  return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _key(compiler: str, flags: tuple[str, ...]) -> str:
  digest = hashlib.sha256()
  for path in _sources():
    digest.update(path.name.encode() + path.read_bytes())
  version = subprocess.run(
    [compiler, "--version"], capture_output=True, text=True, timeout=TIMEOUT_SECONDS
  ).stdout
  for text in (*flags, version, _processor(), jaxlib.__version__):
    digest.update(text.encode() + b"\0")
  return digest.hexdigest()[:24]


def _build(compiler: str, flags: tuple[str, ...], path: pathlib.Path) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  # Made beside its place and moved there whole: of two processes that build at once, both succeed.
  with tempfile.TemporaryDirectory(dir=path.parent, prefix="build-") as folder:
    work = pathlib.Path(folder)
    kernels = work / "kernels.cc"
    # One unit for all kernels: their headers cost more than their code. The interface is another.
    kernels.write_text(
      "".join(f'#include "{p}"\n' for p in _sources() if p.suffix == ".cc" and p.stem != "ffi")
    )
    include = ["-I", str(SOURCE), "-isystem", jax.ffi.include_dir()]
    units = (kernels, SOURCE / "ffi.cc")
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


def _register(path: pathlib.Path) -> None:
  handlers = ctypes.CDLL(str(path))
  for target in TARGETS:
    jax.ffi.register_ffi_target(
      target, jax.ffi.pycapsule(getattr(handlers, target)), platform="cpu"
    )
