import dataclasses

import jax
import pytest

from dasheng_jax.config import SIZES, DecoderConfig, EncoderConfig
from experiments.planning import formulas
from experiments.planning.compile import Step, twin_flops
from experiments.training.dasheng_task import dasheng_task
from experiments.training.mesh import MeshConfig, imagined_mesh
from experiments.training.optim import OptimConfig, make_optimiser
from experiments.training.state import abstract_state

CLIP = 160_000
BIG = SIZES["dasheng_1_2b"].with_compute(dtype="bfloat16", remat="block")
# Wide enough that additions and functions are little beside the products.
SMALL = dataclasses.replace(
  SIZES["dasheng_base"],
  encoder=EncoderConfig(512, 3, 8, positions=32),
  decoder=DecoderConfig(512, 2, 8),
)


def test_a_clip_of_the_large_model_costs_what_the_anchors_say():
  work = formulas.clip_flops(BIG, CLIP)
  assert work.forward / 1e9 == pytest.approx(171.7, abs=0.1)
  assert work.model / 1e9 == pytest.approx(515, abs=0.5)
  base = formulas.clip_flops(SIZES["dasheng_base"], CLIP)
  assert base.model / 1e9 == pytest.approx(73.5, abs=0.1)


def test_recomputation_costs_what_the_policy_repeats():
  costs = {
    remat: formulas.clip_flops(BIG.with_compute(remat=remat), CLIP).recomputed
    for remat in ("none", "dots", "block")
  }
  assert costs["none"] == 0
  assert costs["dots"] / 1e9 == pytest.approx(2.5, abs=0.05)
  assert costs["block"] / 1e9 == pytest.approx(115, abs=0.5)


@pytest.mark.slow  # test_plan.py holds the formulas against a compiled step in every run
@pytest.mark.parametrize("remat", ["block", "none", "dots"])
def test_operations_are_those_of_a_program_without_loops(remat):
  cfg = SMALL.with_compute(remat=remat)
  samples = 20_000
  step = Step(cfg, OptimConfig(), 100, 0, 2, samples)
  counted = twin_flops(step)
  expected = formulas.clip_flops(cfg, samples, "cpu").executed
  assert 1.0 < counted / expected < 1.1


def test_state_is_counted_from_the_table():
  task = dasheng_task(BIG)
  abstract = abstract_state(task, make_optimiser(OptimConfig(warmup_steps=1, ema=0.9), 10))
  whole = formulas.state_bytes(task, abstract, imagined_mesh(MeshConfig(1, 1, 1), 1))
  count = 1_134_047_360 + 58_276_864
  assert whole.params == 4 * count
  assert whole.opt_state == pytest.approx(8 * count, rel=1e-6)
  assert whole.ema == 4 * count
  split = formulas.state_bytes(task, abstract, imagined_mesh(MeshConfig(4, 16, 1), 64))
  # Vectors stay whole on every device.
  assert split.total == pytest.approx(whole.total / 16, rel=0.02)


@pytest.mark.slow
def test_what_is_saved_follows_the_policy():
  """Block inputs in float32 are all that "block" keeps: 40 of 62 x 1536 and 8 of 250 x 768."""
  saved = {
    remat: formulas.saved_per_clip(BIG.with_compute(remat=remat), CLIP)
    for remat in ("none", "dots", "block")
  }
  inputs = 40 * 62 * 1536 * 4 + 8 * 250 * 768 * 4
  assert inputs < saved["block"] < 1.3 * inputs
  assert 4 * saved["block"] < saved["dots"] < saved["none"] / 4


def test_peaks_shrink_with_shards_and_microbatches():
  task = dasheng_task(BIG)
  optimiser = make_optimiser(OptimConfig(warmup_steps=1), 10)
  abstract = abstract_state(task, optimiser)

  def peak(fsdp, clips, accumulate=1):
    state = formulas.state_bytes(task, abstract, imagined_mesh(MeshConfig(1, fsdp, 1), fsdp))
    return formulas.peak_bytes(BIG, state, abstract, fsdp, clips, CLIP, accumulate)

  assert peak(16, 16).total < peak(8, 16).total
  assert peak(16, 16, 4).saved == peak(16, 16).saved // 4
  assert peak(16, 16, 4).gradients == 2 * peak(16, 16).gradients
  assert peak(16, 16).copies == 2 * sum(x.size for x in jax.tree.leaves(abstract.params)) // 16
