"""Plans of the named runs: `python -m experiments.plan --config NAME --topology DEVICES`."""

from __future__ import annotations

import dataclasses

from dasheng_jax.config import DashengConfig
from experiments.configs.pretrain import EXPERIMENTS, PretrainConfig
from experiments.training.optim import OptimConfig
from experiments.training.run import LoopConfig
from pipelines import DataConfig

FULL_RUN = 384e6  # 100 epochs of 15,000 steps of 256 clips


@dataclasses.dataclass(frozen=True)
class PlanConfig:
  """One plan."""

  about: str = ""
  topology: str = ""  # CHIP:SHAPE[*SLICES], e.g. v5e:16x16, v5p:4x4x8*2 (two slices), h100:8*4
  mesh: str = (
    ""  # e.g. data=16,fsdp=16,tensor=1; empty: fsdp over 16 devices at most, data the rest
  )
  global_batch: int = 0  # clips of a step over all devices; 0: loop.batch_size
  clips: float = FULL_RUN  # clips of the whole run, for hours and chip-hours
  nearest: bool = True  # where it does not fit, look for the nearest layout that does
  twin: bool = True  # count operations a second time, on a program without loops
  json: str = ""  # file for all figures
  hlo: str = ""  # file for the compiled program's text
  model: DashengConfig = DashengConfig()
  data: DataConfig = DataConfig()
  optim: OptimConfig = OptimConfig()
  loop: LoopConfig = LoopConfig()


def _plan(run: PretrainConfig) -> PlanConfig:
  return PlanConfig(about=run.about, model=run.model, data=run.data, optim=run.optim, loop=run.loop)


PLANS: dict[str, PlanConfig] = {name: _plan(run) for name, run in EXPERIMENTS.items()}
