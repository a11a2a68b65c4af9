"""Checkpoints: what is saved comes back, and which of them stay."""

import json

import jax
import pytest

from experiments.training.paths import leaves_by_path
from tests.experiments.training import toy
from tests.experiments.training.checkpoint_runs import (
  CONFIG,
  advance,
  assert_same_bits,
  at,
  fresh,
  mesh_of,
  open_run,
  target,
)


# On one device, test_pretrain.py resumes a whole run.
@pytest.mark.parametrize("name", [pytest.param("one", marks=pytest.mark.slow), "eight"])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path, name):
  unbroken = advance(fresh(name), name, 4)
  with open_run(tmp_path) as checkpoints:
    state = advance(fresh(name), name, 2)
    assert checkpoints.save(state)
    # Donated and overwritten while the save is under way: what is saved is what was handed over.
    advance(state, name, 2)
  with open_run(tmp_path) as checkpoints:
    resumed = checkpoints.restore_latest(target(name))
    for path, leaf in leaves_by_path(resumed).items():
      assert leaf.sharding == leaves_by_path(target(name))[path].sharding, path
    assert_same_bits(advance(resumed, name, 2), unbroken)


@pytest.mark.parametrize(("saved", "restored"), [("eight", "one"), ("one", "eight")])
def test_another_mesh_restores_the_same_bits(tmp_path, saved, restored):
  state = fresh(saved)
  with open_run(tmp_path) as checkpoints:
    checkpoints.save(state, wait=True)
    got = checkpoints.restore_latest(target(restored))
  assert_same_bits(got, state)
  assert {leaf.sharding.mesh for leaf in jax.tree.leaves(got)} == {mesh_of(restored)}


def test_an_empty_directory_restores_nothing(tmp_path):
  with open_run(tmp_path / "new" / "run") as checkpoints:
    assert checkpoints.restore_latest(target("one")) is None
    assert checkpoints.best_step is None
    assert checkpoints.steps == []


def test_the_latest_and_the_best_are_kept(tmp_path):
  with open_run(tmp_path, keep=2, keep_best=2, metric="val_loss") as checkpoints:
    for step, loss in enumerate([3.0, 1.0, float("nan"), 2.0, 5.0, 4.0, 6.0]):
      checkpoints.save(at(step), {"val_loss": loss})
    checkpoints.save(at(7))  # no metric: kept only while it is among the latest
    assert not checkpoints.save(at(7))
    checkpoints.wait()
    assert checkpoints.steps == [1, 3, 6, 7]
    assert checkpoints.best_step == 1
  with open_run(tmp_path, keep=2, keep_best=2, metric="val_loss") as checkpoints:
    checkpoints.save(at(8), {"val_loss": 0.5}, wait=True)
    assert checkpoints.steps == [1, 7, 8]
    assert checkpoints.best_step == 8
    assert int(checkpoints.restore(1, target("one")).step) == 1


def test_meta_says_what_the_run_was(tmp_path):
  with open_run(tmp_path) as checkpoints:
    checkpoints.save(at(5), wait=True)
    meta = checkpoints.meta(5)
  assert meta["config"] == json.loads(json.dumps(CONFIG))
  assert (meta["seed"], meta["data"]) == (0, "synthetic:1")
  assert meta["versions"]["jax"] == jax.__version__
  assert meta["arrays"]["params/head/kernel"][:2] == [[toy.D, toy.H], "float32"]
