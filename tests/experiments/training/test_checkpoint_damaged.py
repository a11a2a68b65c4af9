"""Damaged checkpoints, and the checksums that tell."""

import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax.weights.checksum import checksums
from experiments.training.checkpoint import CheckpointError
from experiments.training.mesh import batch_sharding
from tests.experiments.training.checkpoint_runs import (
  assert_same_bits,
  at,
  mesh_of,
  open_run,
  target,
)


def flip_a_bit(step):
  biggest = max((f for f in step.glob("state/**/d/*")), key=lambda f: f.stat().st_size)
  data = bytearray(biggest.read_bytes())
  data[len(data) // 2] ^= 1
  biggest.write_bytes(data)


def truncate(step):
  for file in step.glob("state/**/d/*"):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGE = {
  "flipped bit": flip_a_bit,
  "truncated arrays": truncate,
  "no manifest": lambda step: (step / "state" / "manifest.ocdbt").unlink(),
  "no state": lambda step: shutil.rmtree(step / "state"),
  "empty meta": lambda step: (step / "meta" / "metadata").write_text(""),
  "foreign meta": lambda step: (step / "meta" / "metadata").write_text("[1]"),
  "damaged metric": lambda step: (step / "metrics" / "metrics").write_text("{"),
  "no commit": lambda step: (step / "commit_success.txt").unlink(missing_ok=True),
  "no orbax metadata": lambda step: (step / "_CHECKPOINT_METADATA").unlink(),
  "nothing inside": lambda step: (shutil.rmtree(step), step.mkdir()),
}


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory):
  directory = tmp_path_factory.mktemp("saved")
  with open_run(directory, keep=3) as checkpoints:
    for step in (1, 2, 3):
      checkpoints.save(at(step), {"loss": 1.0})
  return directory


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
  saved_run, tmp_path, caplog, damage
):
  run = tmp_path / "run"
  shutil.copytree(saved_run, run)
  DAMAGE[damage](run / "3")
  with caplog.at_level(logging.WARNING), open_run(run, keep=3) as checkpoints:
    state = checkpoints.restore_latest(target("one"))
    if int(state.step) == 3:  # what is gone held nothing of the state
      assert damage in ("damaged metric", "no commit", "no orbax metadata")
      assert_same_bits(state, at(3))
    else:
      assert_same_bits(state, at(2))
      assert checkpoints.steps == [1, 2]
      assert (run / "3.damaged").is_dir()
      (line,) = [r.getMessage() for r in caplog.records if r.name.startswith("experiments")]
      assert f"checkpoint 3 in {run} is damaged" in line
      assert "going back to checkpoint 2" in line
      assert "\n" not in line
      assert checkpoints.save(at(3), {"loss": 1.0}, wait=True)
      assert checkpoints.steps == [1, 2, 3]
      assert_same_bits(checkpoints.restore_latest(target("one")), at(3))


def test_a_run_with_nothing_sound_left_is_refused(saved_run, tmp_path):
  run = tmp_path / "run"
  shutil.copytree(saved_run, run)
  for step in (1, 2, 3):
    truncate(run / str(step))
  with (
    open_run(run) as checkpoints,
    pytest.raises(CheckpointError, match="checkpoint 3 .* checkpoint 1 .* move .* away"),
  ):
    checkpoints.restore_latest(target("one"))
  assert sorted(p.name for p in run.iterdir() if p.name[0].isdigit()) == ["1", "2", "3"]


@pytest.mark.parametrize(
  "dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "bool", "int8"]
)
def test_checksum_sees_one_changed_element_and_not_the_layout(dtype):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.integers(0, 2, (8, 16)), dtype)
  split = jax.device_put(x, batch_sharding(mesh_of("eight")))
  flipped = x.at[3, 5].set((1 - x[3, 5].astype(int)).astype(x.dtype))
  swapped = x.at[jnp.array([0, 1])].set(x[jnp.array([1, 0])])
  sums = checksums({"x": x, "flipped": flipped, "swapped": swapped})
  sums = {k: int(v) for k, v in {**sums, **checksums({"split": split})}.items()}
  assert sums["x"] == sums["split"]
  assert len({sums["x"], sums["flipped"], sums["swapped"]}) == 3
