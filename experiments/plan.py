r"""Plans a pre-training run for devices that are not at hand: does it fit, and how fast can it be?

    python -m experiments.plan --config dasheng_1_2b --topology v5e:16x16 --global_batch 4096

Compiles the real training step ahead of time, for TPUs with the TPU compiler (the package libtpu,
on any x86 Linux machine), for GPUs with a cost model, and reports memory, work, messages and time
per device; docs/scaling.md explains the figures. Exit code 3: nothing that was tried fits.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import jax

from dasheng_jax.errors import ConfigError
from dasheng_jax.mae import check_crop
from experiments.configs.plan import PLANS, PlanConfig
from experiments.planning import report
from experiments.planning.assess import Assessment, assess, expect
from experiments.planning.compile import Program, Step, compile_step, devices_for, simulate
from experiments.planning.layouts import Layout, neighbours, parse_mesh, shards, splits
from experiments.planning.topology import Topology, parse_topology
from experiments.training import cli
from experiments.training.errors import UsageError
from experiments.training.metrics import write_json

TRIES = 3  # layouts that are compiled in the search for one that fits
DOES_NOT_FIT = 3


def main(cfg: PlanConfig) -> int:
  """Plans one configuration; the exit code."""
  topology = parse_topology(cfg.topology)
  # Tracing must not look for an accelerator: having the TPU compiler is not having a TPU.
  if not os.environ.get("JAX_PLATFORMS"):
    jax.config.update("jax_platforms", "cpu")
  simulate(topology)
  devices = devices_for(topology)
  layout = _layout(cfg, topology)
  step = _step(cfg)

  found, program = _try(step, layout, topology, devices, cfg.twin)
  print(report.page(found, topology, cfg.clips, cfg.about or "run"))
  data = report.as_json(found, topology, cfg.clips, cfg.about)
  if cfg.hlo and program.text:
    Path(cfg.hlo).write_text(program.text, encoding="utf-8")
  code = 0
  if not found.fits:
    code = DOES_NOT_FIT
    if cfg.nearest:
      better = nearest(step, found, topology, devices)
      if better is not None:
        code = 0
        print(
          f"\nnearest layout that fits\n\n{report.page(better, topology, cfg.clips, cfg.about)}"
        )
        data["nearest"] = report.as_json(better, topology, cfg.clips, cfg.about)
      else:
        print("\nno layout near it fits; use more or larger devices")
  if cfg.json:
    write_json(Path(cfg.json), data)
  return code


def _layout(cfg: PlanConfig, topology: Topology) -> Layout:
  mesh = parse_mesh(cfg.mesh, topology)
  batch = cfg.global_batch or cfg.loop.batch_size
  layout = Layout(mesh, batch, cfg.model.compute.remat, cfg.optim.accumulate)
  if not splits(layout):
    parts = shards(mesh) * layout.accumulate
    below = batch // parts * parts
    tries = f"{below} or {below + parts}" if below > 0 else f"{parts}"
    micro = f" x {layout.accumulate} microbatches" if layout.accumulate > 1 else ""
    raise UsageError(
      f"--global_batch {batch} does not split over {shards(mesh)} data shards{micro}; try {tries}"
    )
  return layout


def _step(cfg: PlanConfig) -> Step:
  try:
    check_crop(cfg.model, cfg.data.crop_samples)
  except ConfigError as error:
    raise UsageError(f"--data.crop_seconds {cfg.data.crop_seconds:g}: {error}") from None
  if cfg.model.compute.attention != "xla":
    raise UsageError(
      f"--model.compute.attention {cfg.model.compute.attention}: cannot be compiled without a GPU; "
      "plan with xla"
    )
  return Step(cfg.model, cfg.optim, cfg.loop.steps, cfg.loop.seed, 0, cfg.data.crop_samples)


def _try(
  step: Step, layout: Layout, topology: Topology, devices: list, twin: bool
) -> tuple[Assessment, Program]:
  this = dataclasses.replace(
    step,
    model=step.model.with_compute(remat=layout.remat),
    optim=dataclasses.replace(step.optim, accumulate=layout.accumulate),
    batch=layout.batch,
  )
  print(f"plan: compiling {layout}", file=sys.stderr, flush=True)
  program = compile_step(this, topology, layout.mesh, devices)
  return assess(this, layout, topology, program, twin), program


def nearest(step: Step, found: Assessment, topology: Topology, devices: list) -> Assessment | None:
  """The nearest layout that fits: the formula picks candidates, the compiler decides."""
  # How far the formula was off for this one is taken to be how far it is off for its neighbours.
  off = found.fullest / found.expected.peak.total
  heads = (step.model.encoder.heads, step.model.decoder.heads)
  tried: set[Layout] = {found.layout}
  for layout in neighbours(found.layout, topology, heads):
    if layout in tried or not splits(layout):
      continue
    tried.add(layout)
    if expect(step, layout, topology).peak.total * off > found.usable:
      continue
    other, _ = _try(step, layout, topology, devices, False)
    if other.fits:
      return other
    off = max(off, other.fullest / other.expected.peak.total)
    if len(tried) > 200:
      break
  return None


if __name__ == "__main__":
  cli.run_main(
    main,
    PLANS,
    prog="plan",
    description="Plans pre-training for TPU slices and GPU nodes, without having them.",
  )
