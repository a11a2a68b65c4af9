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
from experiments.training.state import TrainState


def state_of(name, moments):
  """A state that holds nothing but an optimiser's, with these moments where they are float32."""
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
  return TrainState(0, params, {}, opt_state, None, 0, 0)


@pytest.fixture(scope="module")
def errors():
  draw = np.random.default_rng(0)
  level = 10.0 ** draw.uniform(-3, 0, (64, 512))
  m = (draw.standard_normal((64, 512)) * level).astype(np.float32)
  v = (level**2 * draw.uniform(0.5, 2, (64, 512))).astype(np.float32)
  return moment_errors(state_of("adamw", (m, v)), state_of("adamw_8bit", (m, v)))


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
def test_results_are_written_and_printed(tmp_path, monkeypatch, capsys, errors):
  """Everything but the training: curves, picture, tables, differences of the same seed."""

  def trained(cfg, steps, seed, trainset, held_out, progress, name):
    losses = np.full(steps, float(seed)) * (1.01 if cfg.optim.name == "adamw_8bit" else 1)
    return Trained(losses, seed * 2.0, 0.1, None)

  monkeypatch.setattr(compare_optimisers, "_train", trained)
  monkeypatch.setattr(compare_optimisers, "moment_errors", lambda plain, stored: errors)
  cfg = CompareConfig(source=("synthetic:400",), steps=LAST, seeds=(1, 3), out=str(tmp_path))
  compare_optimisers.main(cfg)
  results = json.loads((tmp_path / "results.json").read_text())
  assert results["losses"]["AdamW, 8 bits"]["train_percent"] == pytest.approx(1)
  assert results["losses"]["bfloat16, stochastic"]["train_percent"] == 0
  assert results["losses"][PLAIN]["train"] == 2
  assert (tmp_path / "loss.png").stat().st_size > 10_000
  assert len(json.loads((tmp_path / "curves.json").read_text())[PLAIN]) == 2
  assert "bytes per parameter, dasheng_1_2b" in capsys.readouterr().out


def test_without_audio_or_with_an_unknown_configuration_one_line_is_said():
  with pytest.raises(UsageError, match="--source: name folders"):
    compare_optimisers.main(CompareConfig())
  cfg = dataclasses.replace(CompareConfig(), source=("synthetic:40",), experiment="our")
  with pytest.raises(UsageError, match="--experiment our: choose one of .*hour"):
    compare_optimisers.main(cfg)
