"""The figures of the comparison; its training is that of the step's own tests."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import compare_optimisers
from experiments.compare_optimisers import (
  LAST,
  PLAIN,
  VARIANTS,
  CompareConfig,
  Trained,
  moment_errors,
  stored_bytes,
)
from experiments.configs.pretrain import EXPERIMENTS
from experiments.training.errors import UsageError
from experiments.training.optim import OptimConfig, make_optimiser


def opt_state_of(name, moments):
  """An optimiser's state, with these moments where they are float32."""
  params = {"kernel": jax.ShapeDtypeStruct(moments[0].shape, np.float32)}
  axes = ((r"kernel$", (None, None)),)
  optimiser = make_optimiser(OptimConfig(name=name, warmup_steps=0), 1)
  opt_state = jax.jit(
    lambda: optimiser.init(jax.tree.map(lambda p: jax.numpy.ones(p.shape), params), axes)
  )()
  if name == "adamw":
    by_path = {"mu": moments[0], "nu": moments[1]}
    opt_state = jax.tree_util.tree_map_with_path(
      lambda path, x: by_path.get(jax.tree_util.keystr(path[-2:-1], simple=True), x), opt_state
    )
  return opt_state


@pytest.fixture(scope="module")
def errors():
  draw = np.random.default_rng(0)
  level = 10.0 ** draw.uniform(-3, 0, (64, 512))
  m = (draw.standard_normal((64, 512)) * level).astype(np.float32)
  v = (level**2 * draw.uniform(0.5, 2, (64, 512))).astype(np.float32)
  return moment_errors(opt_state_of("adamw", (m, v)), opt_state_of("adamw_8bit", (m, v)))


def test_smaller_blocks_and_the_dynamic_map_err_less(errors):
  relative = {name: row["median_relative_percent"] for name, row in errors.items()}
  boxes, small, published, whole, linear, worst = relative.values()
  assert 0 < small < published < whole < worst
  assert published < linear
  assert abs(boxes / small - 1) < 0.1  # boxes of 256 too, along the rows


def test_bytes_are_those_of_the_state():
  rows = stored_bytes(EXPERIMENTS["hour"])
  assert rows.keys() == VARIANTS.keys()
  assert rows[PLAIN]["parameters"] == 4.0
  assert rows[PLAIN]["moments"] == pytest.approx(8, abs=1e-4)  # and a counter
  assert 2.0 < rows["AdamW, 8 bits"]["moments"] < 2.3
  assert 2.0 < rows["bfloat16, stochastic"]["parameters"] < 2.1
  assert rows["bfloat16, float32 masters"]["parameters"] == 4.0


@pytest.mark.slow
def test_results_are_written_after_each_run_and_the_same_command_goes_on(
  tmp_path, monkeypatch, capsys, errors
):
  """Everything but the training: curves, picture, tables, differences of the same seed."""
  seen = []

  def trained(cfg, steps, seed, trainset, held_out, progress, name):
    if len(seen) == 8:
      seen.append(None)
      raise KeyboardInterrupt
    seen.append((seed, name))
    losses = [float(seed) * (1.01 if cfg.optim.name == "adamw_8bit" else 1)] * steps
    return Trained(losses, seed * 2.0, 0.1, errors if name == PLAIN else {})

  monkeypatch.setattr(compare_optimisers, "_train", trained)
  cfg = CompareConfig(source=("synthetic:400",), steps=LAST, seeds=(1, 3), out=str(tmp_path))
  with pytest.raises(KeyboardInterrupt):
    compare_optimisers.main(cfg)
  assert (tmp_path / "loss.png").stat().st_size > 10_000
  compare_optimisers.main(cfg)
  seen.remove(None)
  assert len(seen) == len(set(seen)) == 2 * len(VARIANTS)  # none twice
  results = json.loads((tmp_path / "results.json").read_text())
  assert results["losses"]["AdamW, 8 bits"]["train_percent"] == pytest.approx(1)
  assert results["losses"]["bfloat16, stochastic"]["train_percent"] == 0
  assert results["losses"][PLAIN]["train"] == 2
  assert results["moments"] == errors
  assert "bytes per parameter, dasheng_1_2b" in capsys.readouterr().out
  with pytest.raises(UsageError, match="holds runs with other settings"):
    compare_optimisers.main(dataclasses.replace(cfg, steps=7))


def test_without_audio_or_with_an_unknown_configuration_one_line_is_said():
  with pytest.raises(UsageError, match="--source: name folders"):
    compare_optimisers.main(CompareConfig())
  cfg = dataclasses.replace(CompareConfig(), source=("synthetic:40",), experiment="our")
  with pytest.raises(UsageError, match="--experiment our: choose one of .*hour"):
    compare_optimisers.main(cfg)
