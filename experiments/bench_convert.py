"""Peak memory and time of a conversion of true size, with random weights.

    python -m experiments.bench_convert --size dasheng_1_2b

Writes a file of that size into a temporary folder, converts it to every kind, each in a process of
its own, and prints the peak of its memory beside the bytes of the file.
"""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from experiments.training import cli
from experiments.training.errors import RunError

KINDS = ("safetensors", "huggingface", "torch", "orbax")
# Runs the command line behind it and prints the peak of its memory in bytes.
_MEASURED = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
  runpy.run_module("experiments.convert_weights", run_name="__main__", alter_sys=True)
finally:
  unit = 1 if sys.platform == "darwin" else 1024
  print("PEAK", unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@dataclasses.dataclass(frozen=True)
class BenchConvert:
  """Settings of bench_convert."""

  # size of Dasheng by name
  size: str = "dasheng_1_2b"
  # kinds to convert to
  kinds: tuple[str, ...] = KINDS
  # where the files are made; they need four times the file's bytes
  folder: str = tempfile.gettempdir()
  about: str = "memory and time of conversions"


def main(cfg: BenchConvert) -> None:
  """Measures and prints a table."""
  print("| to | bytes of the source | peak memory | times the source | seconds |")
  print("| --- | ---: | ---: | ---: | ---: |")
  with tempfile.TemporaryDirectory(dir=cfg.folder) as name:
    folder = pathlib.Path(name)
    source = folder / "source.safetensors"
    write_random(cfg.size, source)
    size = source.stat().st_size
    for kind in cfg.kinds:
      dest = folder / {"safetensors": "a.safetensors", "torch": "a.pt"}.get(kind, f"a_{kind}")
      peak, seconds = measured(source, dest, kind)
      row = f"| {kind} | {size:,} | {peak:,} | {peak / size:.2f} | {seconds:.0f} |"
      print(row, flush=True)


def write_random(size: str, path: pathlib.Path) -> None:
  """An encoder file of a size by name, normal values of 0.02, one tensor in memory at a time."""
  import numpy as np

  from dasheng_jax.config import named
  from dasheng_jax.weights.load import encoder_shapes
  from dasheng_jax.weights.names import encoder_rules, front_end_buffers
  from dasheng_jax.weights.safetensors_file import write_safetensors
  from dasheng_jax.weights.table import flatten, to_torch_tensors
  from dasheng_jax.weights.tensors import Tensor, held

  def drawn(seed: int, tensor: Tensor) -> np.ndarray:
    if tensor.dtype != "float32":
      return np.zeros(tensor.shape, tensor.dtype)
    rng = np.random.default_rng(seed)
    return rng.standard_normal(tensor.shape, dtype=np.float32) * np.float32(0.02)

  model = named(size)
  shapes = flatten(encoder_shapes(model))
  leaves = {
    path: Tensor(leaf.shape, str(leaf.dtype), lambda: np.zeros(0)) for path, leaf in shapes.items()
  }
  tensors = {
    name: Tensor(tensor.shape, tensor.dtype, functools.partial(drawn, seed, tensor))
    for seed, (name, tensor) in enumerate(to_torch_tensors(leaves, encoder_rules(model)).items())
  }
  constants = {name: held(array) for name, array in front_end_buffers(model).items()}
  write_safetensors(path, {**tensors, **constants}, {})


def measured(source: pathlib.Path, dest: pathlib.Path, kind: str) -> tuple[int, float]:
  """(peak bytes, seconds) of one conversion; RunError where it fails."""
  command = [sys.executable, "-c", _MEASURED, "convert", str(source), str(dest), "--to", kind]
  start = time.perf_counter()
  env = {**os.environ, "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
  seconds = time.perf_counter() - start
  peaks = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("PEAK")]
  if done.returncode or not peaks:
    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    raise RunError(f"the conversion to {kind} failed: {said}")
  return int(peaks[-1]), seconds


if __name__ == "__main__":
  cli.run_main(
    main,
    {"default": BenchConvert()},
    prog="bench_convert",
    default="default",
    description=(__doc__ or "").split("\n")[0],
  )
