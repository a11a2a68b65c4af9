"""From a compiled program to figures, each checked before it is shown.

A figure that contradicts the arithmetic is dropped, and the reason stands in its place: the TPU
compiler's own counts take a loop's body once, its time can be negative and its temporaries zero.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

import jax

from dasheng_jax.config import DashengConfig
from experiments.planning import formulas, hlo, work
from experiments.planning.collectives import Traffic, traffic
from experiments.planning.compile import Program, Step, twin_flops
from experiments.planning.cost_model import StepTime, least_traffic, step_time
from experiments.planning.formulas import ClipFlops, PeakBytes, StateBytes
from experiments.planning.layouts import Layout, shards
from experiments.planning.topology import Topology
from experiments.training.dasheng_task import dasheng_task
from experiments.training.mesh import AnyMesh, imagined_mesh, placements
from experiments.training.optim import OptimConfig, make_optimiser
from experiments.training.state import TrainState, abstract_state


@dataclass(frozen=True)
class Figure:
  """A number that passed its check, or None and why not."""

  value: float | None
  reason: str = ""


@dataclass(frozen=True)
class Expected:
  """What arithmetic says of a layout, per device but for `clip`."""

  clip: ClipFlops
  state: StateBytes
  peak: PeakBytes
  flops: float
  sent: float
  least_bytes: float
  params: int


@dataclass(frozen=True)
class Assessment:
  """All figures of one layout. Bytes and operations are those of one device and one step."""

  layout: Layout
  expected: Expected
  arguments: Figure
  temporaries: Figure
  peak: Figure
  flops: Figure
  bytes: Figure
  seconds: Figure
  exchanges: tuple[Traffic, ...] | None
  exchanges_reason: str
  twin: Figure
  time: StepTime | None
  usable: float
  took: float
  notes: tuple[str, ...] = ()

  @property
  def fullest(self) -> float:
    """What a device must have room for: by the compiler, or by arithmetic where it says nothing.

    Arguments and temporaries together, which are reserved for the whole step: the compiler's peak
    leaves out the gaps between temporaries.
    """
    known = [x.value for x in (self.arguments, self.temporaries) if x.value is not None]
    said = [sum(known)] if len(known) == 2 else []
    said += [] if self.peak.value is None else [self.peak.value]
    return max(said, default=self.expected.peak.total)

  @property
  def fits(self) -> bool:
    """Whether the step fits into the memory of a device."""
    return self.fullest <= self.usable


def expect(step: Step, layout: Layout, topology: Topology) -> Expected:
  """The arithmetic of a layout; compiles nothing."""
  mesh = imagined_mesh(layout.mesh, topology.count)
  model = step.model.with_compute(remat=layout.remat)
  task = dasheng_task(model)
  abstract = _shapes(step.model.with_compute(remat="none"), step.optim, step.steps)
  params = sum(x.size for x in jax.tree.leaves(abstract.params))
  clips = layout.batch / shards(layout.mesh)
  clip = formulas.clip_flops(model, step.samples, topology.chip.platform)
  state = formulas.state_bytes(task, abstract, mesh)
  parts = layout.mesh.fsdp * layout.mesh.tensor
  peak = formulas.peak_bytes(
    model, state, abstract, parts, int(-(-clips // 1)), step.samples, layout.accumulate
  )
  width = 2 if model.compute.dtype == "bfloat16" else 4
  passes = 3 if layout.remat == "block" else 2
  gathers = 0 if topology.chip.platform == "tpu" else 2 * passes * layout.accumulate
  return Expected(
    clip,
    state,
    peak,
    clip.per_device(layout.mesh.tensor) * clips,
    _sent(placements(abstract.params, task.param_axes, mesh), width, mesh),
    least_traffic(
      params // layout.mesh.tensor, width, state.total, peak.saved, gathers, layout.mesh.fsdp
    ),
    params,
  )


@functools.lru_cache(maxsize=8)
def _shapes(model: DashengConfig, optim: OptimConfig, steps: int) -> TrainState:
  return abstract_state(dasheng_task(model), make_optimiser(optim, steps))


def _sent(params, width: int, mesh: AnyMesh) -> float:
  """The least that a device sends: weights gathered twice, gradients summed, in the compute type.

  What is whole on every device, vectors that is, has its gradient summed alone. params: placements.
  """
  fsdp, data = mesh.shape["fsdp"], mesh.shape["data"]
  total = 0.0
  for each in jax.tree.leaves(params):
    axes = [a for entry in each.spec for a in (entry if isinstance(entry, tuple) else (entry,))]
    size = math.prod(each.shape) / (mesh.shape["tensor"] if "tensor" in axes else 1) * width
    if "fsdp" in axes:
      total += 3 * size * (fsdp - 1) / fsdp + 2 * size / fsdp * (data - 1) / data
    else:
      total += 2 * size * (fsdp * data - 1) / (fsdp * data)
  return total


def assess(
  step: Step, layout: Layout, topology: Topology, program: Program, with_twin: bool = True
) -> Assessment:
  """Figures of a program. One that was refused for its size has its memory alone."""
  expected = expect(step, layout, topology)
  if not program.text:
    return _refused(expected, layout, topology, program)
  module, once = hlo.parse(program.text), hlo.parse(program.text, count_loops=False)
  lost = f"turns of loop {', '.join(module.unknown[:3])} unknown" if module.unknown else ""
  flops = _flops(work.matrix_flops(module), expected.flops, lost)
  exchanges = traffic(
    module, topology.count, topology.per_slice, scatter_from_slices=program.scattered
  )
  wrong = lost or _wrong_exchanges(exchanges, expected.sent)
  arguments = _arguments(program, expected)
  temporaries = _temporaries(program, expected)
  if program.scattered:
    moved = Figure(expected.least_bytes)
  else:
    moved = _bytes(
      work.bytes_moved(module), work.bytes_moved(once, on_chip=True), program, expected
    )
  time = None
  if flops.value is not None and not wrong:
    time = step_time(topology.chip, flops.value, moved.value or 0.0, exchanges)
  return Assessment(
    layout,
    expected,
    arguments,
    temporaries,
    _peak(program, arguments, temporaries),
    flops,
    moved,
    _seconds(program, time),
    None if wrong else tuple(exchanges),
    wrong,
    _twin(step, layout) if with_twin else Figure(None, "not asked for"),
    time,
    topology.chip.usable_bytes,
    program.took,
  )


def _refused(
  expected: Expected, layout: Layout, topology: Topology, program: Program
) -> Assessment:
  none = Figure(None, "the compiler refused the program")
  temporaries = Figure(program.temporaries) if program.temporaries else none
  needed = program.needed
  if program.temporaries:
    needed = program.temporaries + expected.state.total + expected.peak.batch
  if needed is None:  # too large it is, whatever the arithmetic says
    needed = max(expected.peak.total, topology.chip.usable_bytes * 1.01)
  return Assessment(
    *(layout, expected, none, temporaries, Figure(needed), none, none, none, None),
    *(none.reason, none, None, topology.chip.usable_bytes, program.took, (program.reason,)),
  )


def _flops(counted: float, expected: float, lost: str) -> Figure:
  off = counted / expected - 1
  if lost or abs(off) > 0.02:
    return Figure(None, lost or f"the program's products are {off:+.1%} off the formula")
  return Figure(counted)


def _wrong_exchanges(exchanges: list[Traffic], least: float) -> str:
  total = sum(x.inner + x.outer for x in exchanges)
  if total < 0.9 * least:
    return f"{total / 1e9:.2f} GB found, less than the {least / 1e9:.2f} GB that must be sent"
  return ""


def _arguments(program: Program, expected: Expected) -> Figure:
  least = expected.state.total + expected.peak.batch
  if program.arguments is None:
    return Figure(None, "there is no compiler for this device here")
  if not 0.99 * least <= program.arguments <= 3 * least:
    return Figure(None, f"{program.arguments / 1e9:.2f} GB, where the tables say {least / 1e9:.2f}")
  return Figure(program.arguments)


def _temporaries(program: Program, expected: Expected) -> Figure:
  if program.temporaries is None:
    return Figure(None, "there is no compiler for this device here")
  on_chip = 128 * 2**20  # what the fastest memory may hold of it
  least = 0.8 * (expected.peak.saved + expected.peak.gradients) - on_chip
  if program.temporaries <= 0 or program.temporaries < least:
    said = f"{program.temporaries / 1e9:.2f} GB"
    return Figure(None, f"{said}, less than the {least / 1e9:.2f} GB that must be kept")
  return Figure(program.temporaries)


def _peak(program: Program, arguments: Figure, temporaries: Figure) -> Figure:
  if arguments.value is None or temporaries.value is None:
    return Figure(None, arguments.reason or temporaries.reason)
  if program.peak is None:
    return Figure(None, "the compiler says nothing")
  least, most = max(arguments.value, temporaries.value), arguments.value + temporaries.value
  if not least <= program.peak <= 1.1 * most:
    said = f"the compiler says {program.peak / 1e9:.2f} GB"
    return Figure(None, f"{said}, not between {least / 1e9:.2f} and {most / 1e9:.2f}")
  return Figure(program.peak)


def _bytes(counted: float, once: float, program: Program, expected: Expected) -> Figure:
  if program.bytes and not 0.5 <= once / program.bytes <= 1.5:
    return Figure(
      None,
      f"loops counted once, {once / 1e9:.1f} GB against the compiler's {program.bytes / 1e9:.1f}",
    )
  if counted < expected.least_bytes:
    return Figure(
      None, f"{counted / 1e9:.2f} GB, less than the least of {expected.least_bytes / 1e9:.2f}"
    )
  return Figure(counted)


def _seconds(program: Program, time: StepTime | None) -> Figure:
  if program.seconds is None:
    return Figure(None, "there is no compiler for this device here")
  if program.seconds <= 0:
    return Figure(None, f"the compiler says {program.seconds:.3g} s")
  if time is None or program.seconds < 0.95 * time.compute:
    least = f"the products alone take {time.compute:.3g} s" if time else "nothing to check it with"
    return Figure(None, f"the compiler says {program.seconds:.3g} s; {least}")
  if program.seconds > 10 * time.apart:
    return Figure(None, f"the compiler says {program.seconds:.3g} s, ten times all bounds")
  return Figure(program.seconds)


def _twin(step: Step, layout: Layout) -> Figure:
  model = step.model.with_compute(remat=layout.remat)
  expected = formulas.clip_flops(model, step.samples, "cpu").executed
  counted = twin_flops(dataclasses.replace(step, model=model))
  if not 1.0 <= counted / expected <= 1.15:
    return Figure(
      None, f"the program without loops is {counted / expected - 1:+.1%} off the formula"
    )
  return Figure(counted)
