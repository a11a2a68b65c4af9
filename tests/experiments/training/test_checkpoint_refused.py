"""Checkpoints of another run, another model or a later version."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from experiments.training.errors import UsageError
from tests.experiments.training import toy
from tests.experiments.training.checkpoint_runs import CONFIG, at, open_run, target


def test_another_run_is_refused_with_the_fields_that_differ(tmp_path):
  with open_run(tmp_path) as checkpoints:
    checkpoints.save(at(5), wait=True)
  other = {"model": {"width": 32, "sizes": (1, 2), "depth": 3}, "mesh": {"data": 4}}
  with pytest.raises(UsageError) as caught:
    open_run(tmp_path, config=other, seed=1, may_differ=("config.mesh",))
  text = str(caught.value)
  assert "\n" not in text
  assert ": --model.depth 'absent' -> 3; --model.width 16 -> 32; seed 0 -> 1; choose" in text
  assert "mesh" not in text
  with pytest.raises(UsageError, match="asked: --mesh.data -1 -> 4; choose"):
    open_run(tmp_path, config={**CONFIG, "mesh": {"data": 4}})
  with pytest.raises(UsageError, match="data 'synthetic:1' -> 'b'"):
    open_run(tmp_path, data="b")
  many = {"model": {f"size_{i}": i for i in range(12)}}
  with pytest.raises(UsageError) as caught:
    open_run(tmp_path, config=many)
  assert str(caught.value).count(" -> ") == 7  # six, and the heading
  assert "; and 9 more; choose another directory" in str(caught.value)
  assert (tmp_path / "5").is_dir()


def test_a_checkpoint_that_is_older_than_a_field(tmp_path):
  """It meant the default of today, which is what the library did before it had the field."""
  with open_run(tmp_path) as checkpoints:
    checkpoints.save(at(5), wait=True)
  grown = {**CONFIG, "model": {**CONFIG["model"], "rotary": False}}
  with open_run(tmp_path, config=grown, young=grown) as checkpoints:
    assert checkpoints.restore_latest(target("one")) is not None
  asked = {**grown, "model": {**grown["model"], "rotary": True}}
  with pytest.raises(UsageError, match="--model.rotary 'absent' -> True"):
    open_run(tmp_path, config=asked, young=grown)
  asked = {**grown, "model": {**grown["model"], "width": 32}}
  with pytest.raises(UsageError, match="--model.width 16 -> 32"):
    open_run(tmp_path, config=asked, young=asked)


def test_a_checkpoint_of_a_later_version_is_refused(tmp_path):
  with open_run(tmp_path) as checkpoints:
    checkpoints.save(at(5), wait=True)
  path = tmp_path / "5" / "meta" / "metadata"
  meta = json.loads(path.read_text())
  path.write_text(json.dumps(meta | {"format": 2}))
  with pytest.raises(UsageError, match=r"in format 2 by a newer version .* reads up to 1; update"):
    open_run(tmp_path)
  del meta["format"]  # as the first version wrote it
  path.write_text(json.dumps(meta))
  with open_run(tmp_path) as checkpoints:
    assert checkpoints.restore_latest(target("one")) is not None


def test_arrays_of_another_model_are_refused_and_not_called_damaged(tmp_path):
  with open_run(tmp_path) as checkpoints:
    checkpoints.save(at(5), wait=True)
    wanted = target("one")
    wide = jax.ShapeDtypeStruct((toy.D, 9), jnp.float32)
    wanted = dataclasses.replace(wanted, params={**wanted.params, "head": {"kernel": wide}})
    with pytest.raises(UsageError, match=r"params/head/kernel \(saved \(16, 8\) float32, asked"):
      checkpoints.restore_latest(wanted)
    plain = dataclasses.replace(target("one"), ema=None)
    with pytest.raises(UsageError, match="7 arrays differ, first ema/.*not asked"):
      checkpoints.restore_latest(plain)
