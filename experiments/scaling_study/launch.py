"""A scaling study on a cluster: the command of every run, with the work and the hours it means."""

from __future__ import annotations

import jax

from experiments.configs.scaling import ScalingConfig
from experiments.planning.formulas import clip_flops
from experiments.planning.topology import Topology, parse_topology
from experiments.scaling_study.grid import Trial
from experiments.training.dasheng_task import dasheng_task


def parameters(trial: Trial) -> dict[str, int]:
  """Parameters of the encoder and of the decoder; allocates nothing."""
  variables = jax.eval_shape(dasheng_task(trial.config.model).init, jax.random.key(0))
  return {
    half: sum(x.size for x in jax.tree.leaves(variables["params"][half]))
    for half in ("encoder", "decoder")
  }


def run_flops(trial: Trial) -> float:
  """Operations of the matrix products of a whole run, without what is recomputed.

  Forward and twice that backward, a product and a sum being two (`planning.formulas.clip_flops`).
  """
  cfg = trial.config
  clips = cfg.loop.steps * cfg.loop.batch_size
  return clips * clip_flops(cfg.model, cfg.data.crop_samples).model


def hours(flops: float, topology: Topology, mfu: float) -> float:
  """Hours that a run of so many operations takes at a share `mfu` of the devices' peak."""
  return flops / (topology.count * topology.chip.peak_flops * mfu) / 3600


def launch_lines(cfg: ScalingConfig, trials: tuple[Trial, ...]) -> str:
  """For a shell: every run's command, behind a remark on what it costs, and the sum.

  Hours are the operations at `cfg.mfu` of the peak of `cfg.topology`: an assumption, no forecast;
  without a topology none are told.
  """
  topology = parse_topology(cfg.topology) if cfg.topology else None
  lines, total = [], 0.0
  for trial in trials:
    flops = run_flops(trial)
    total += flops
    count = sum(parameters(trial).values())
    cost = _cost(flops, topology, cfg.mfu)
    lines += [f"# {trial.cell.name}: {count / 1e6:,.4g} M parameters, {cost}", trial.cell.line]
  lines.append(f"# {len(trials)} runs: {_cost(total, topology, cfg.mfu)}")
  lines.append("# each command starts on every host of its slice; afterwards: the same study with")
  lines.append("# --collect, which evaluates what is finished")
  return "\n".join(lines)


def _cost(flops: float, topology: Topology | None, mfu: float) -> str:
  text = f"{flops:.3g} operations"
  if topology is None:
    return text
  least, assumed = (hours(flops, topology, share) for share in (1.0, mfu))
  text += f"; on {topology} {assumed:.3g} h at {100 * mfu:g} % of its peak"
  return f"{text}, {least:.3g} h at the peak itself"
