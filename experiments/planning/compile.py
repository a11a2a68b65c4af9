"""The real training step, compiled for devices that are not there; nothing is allocated.

For TPUs the TPU compiler does all it would do on the pod. For GPUs there is no compiler without
one, so the step is compiled for as many simulated CPU devices and its program is taken right after
XLA has split it over devices, before anything that belongs to a CPU.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from dasheng_jax.config import DashengConfig
from experiments.planning.formulas import batch_shapes
from experiments.planning.topology import Topology, tpu_devices
from experiments.training.dasheng_task import dasheng_task
from experiments.training.errors import RunError, UsageError
from experiments.training.mesh import MeshConfig, batch_sharding, make_mesh
from experiments.training.optim import OptimConfig, make_optimiser
from experiments.training.state import restore_target
from experiments.training.step import compile_train_step

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_PARTITIONED = "after_spmd-partitioning"
# The program is taken before code is made of it, so that code need not be good.
_HURRY = {
  "xla_backend_optimization_level": "0",
  "xla_llvm_disable_expensive_passes": True,
  "xla_cpu_use_fusion_emitters": False,
}


@dataclass(frozen=True)
class Step:
  """A training step to be planned."""

  model: DashengConfig
  optim: OptimConfig
  steps: int
  seed: int
  batch: int
  samples: int


@dataclass(frozen=True)
class Program:
  """What the compiler says of a program on one device. Bytes; None where it says nothing.

  Attributes:
    text: the program; "" where it was refused.
    scattered: whether an all-reduce that is cut up afterwards is still to become a reduce-scatter.
    arguments: state and batch.
    temporaries: everything between.
    peak: the fullest moment, arguments included.
    flops: the compiler's own count, each loop's body once.
    bytes: likewise, bytes read and written.
    seconds: the compiler's estimate.
    needed: memory that a refused program asked for.
    reason: why it was refused.
    took: seconds of compiling.
  """

  text: str
  scattered: bool = False
  arguments: float | None = None
  temporaries: float | None = None
  peak: float | None = None
  flops: float | None = None
  bytes: float | None = None
  seconds: float | None = None
  needed: float | None = None
  reason: str = ""
  took: float = 0.0


def devices_for(topology: Topology) -> list[Any]:
  """What to compile for: described TPUs, or simulated CPU devices in place of GPUs."""
  if topology.chip.platform == "tpu":
    return tpu_devices(topology)
  devices = jax.devices("cpu")
  if len(devices) < topology.count:
    raise UsageError(
      f"--topology {topology}: needs {topology.count} simulated devices, this process has "
      f"{len(devices)}; set jax_num_cpu_devices before its first use of JAX"
    )
  return devices[: topology.count]


def simulate(topology: Topology) -> None:
  """Asks JAX for as many CPU devices as the plan needs, where it has not started yet."""
  if topology.chip.platform != "gpu":
    return
  try:
    jax.config.update("jax_num_cpu_devices", topology.count)
  except RuntimeError:  # running already: `devices_for` says whether its devices are enough
    return


def compile_step(step: Step, topology: Topology, mesh_config: MeshConfig, devices: list) -> Program:
  """Compiles one layout. A program that does not fit comes back with `needed` and `reason`.

  Raises:
    RunError: the compiler fails for another reason.
  """
  mesh = make_mesh(mesh_config, devices)
  lowered = _lower(step, mesh)
  began = time.monotonic()
  try:
    if topology.chip.platform == "gpu":
      return _partitioned(lowered, began)
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "Ran out of memory" not in str(error) and "RESOURCE_EXHAUSTED" not in str(error):
      raise RunError(f"the compiler failed: {str(error).splitlines()[0][:300]}") from error
    return too_large(str(error), time.monotonic() - began)
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
  cost = cost[0] if isinstance(cost, list) else cost
  return Program(
    _text(compiled),
    arguments=memory.argument_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    peak=getattr(memory, "peak_memory_in_bytes", None),
    flops=cost.get("flops"),
    bytes=cost.get("bytes accessed"),
    seconds=cost.get("optimal_seconds"),
    took=time.monotonic() - began,
  )


def too_large(message: str, took: float) -> Program:
  """What the TPU compiler says of a program that does not fit.

  It names what the program needs in all, or what its temporaries need alone.
  """
  size = r"([\d.]+)([KMGT]?)i?B?"
  in_all = re.search(rf"Used {size} of", message)
  between = re.search(rf"temporaries \({size}\) exceeds", message)
  return Program(
    "",
    needed=float(in_all[1]) * _UNITS[in_all[2]] if in_all else None,
    temporaries=float(between[1]) * _UNITS[between[2]] if between else None,
    reason=message.splitlines()[0][:200],
    took=took,
  )


def _text(compiled: Any) -> str:
  try:
    return compiled.as_text()
  except jax.errors.JaxRuntimeError as error:
    raise RunError(
      f"JAX {jax.__version__} cannot read what libtpu {importlib.metadata.version('libtpu')} has "
      f'compiled; install the one that goes with it: pip install "jax[tpu]=={jax.__version__}"'
    ) from error


def _lower(step: Step, mesh: Mesh) -> Any:
  # Kernels are not those of this machine.
  task = dasheng_task(step.model.with_compute(kernels="xla"))
  optimiser = make_optimiser(step.optim, step.steps, kernels="xla")
  compiled = compile_train_step(task, optimiser, mesh, step.seed)
  rows = batch_sharding(mesh)
  batch = batch_shapes(
    step.batch, step.samples, lambda s, d: jax.ShapeDtypeStruct(s, d, sharding=rows)
  )
  state = restore_target(task, optimiser, mesh)
  # Not `set_mesh`: what runs while the step is traced must run on this machine.
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    return compiled.lower(state, batch)


def _partitioned(lowered: Any, began: float) -> Program:
  with tempfile.TemporaryDirectory() as folder:
    options: dict[str, Any] = {"xla_dump_to": folder, "xla_dump_hlo_pass_re": "spmd-partitioning"}
    try:
      lowered.compile(compiler_options=options | _HURRY)
    except (
      jax.errors.JaxRuntimeError
    ) as error:  # another release of XLA names its switches otherwise
      if "No such compile option" not in str(error):
        raise
      lowered.compile(compiler_options=options)
    found = sorted(Path(folder).glob(f"*train_step*{_PARTITIONED}*.txt"))
    if not found:
      raise RunError("XLA left no partitioned program; try the release of JAX in requirements.txt")
    return Program(
      found[-1].read_text(encoding="utf-8"), scattered=True, took=time.monotonic() - began
    )


def twin_flops(step: Step) -> float:
  """Operations per clip as XLA counts them in a program without loops, on one device.

  The twin's blocks stand one after the other (`compute.scan` off); stacks of one and two blocks
  are lowered for a CPU, not compiled, and the rest is a straight line through them. XLA counts
  additions and functions too, so this is a little more than the matrix products.
  """

  def count(encoder: int, decoder: int) -> float:
    model = dataclasses.replace(
      step.model,
      encoder=dataclasses.replace(step.model.encoder, depth=encoder),
      decoder=dataclasses.replace(step.model.decoder, depth=decoder),
    ).with_compute(scan=False, kernels="xla")
    rows = 2
    task = dasheng_task(model)
    variables = jax.eval_shape(task.init, jax.random.key(0))

    def gradient(params, model_state, batch):
      key = jax.random.key(0)
      return jax.grad(lambda p: task.loss(p, model_state, batch, key, True)[0])(params)

    traced = jax.jit(gradient).trace(
      variables["params"], variables["model_state"], batch_shapes(rows, step.samples)
    )
    return traced.lower(lowering_platforms=("cpu",)).cost_analysis()["flops"] / rows

  one = count(1, 1)
  encoder, decoder = count(2, 1) - one, count(1, 2) - one
  return one + (step.model.encoder.depth - 1) * encoder + (step.model.decoder.depth - 1) * decoder
