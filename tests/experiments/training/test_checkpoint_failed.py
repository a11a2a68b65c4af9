"""Saves that a full disk, an error or a kill cuts short."""

import contextlib
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import pytest

from experiments.training import checkpoint
from experiments.training.checkpoint import CheckpointError
from tests.experiments.training.checkpoint_runs import at, open_run


def test_a_full_disk_gives_one_line_and_leaves_the_rest(tmp_path):
  """A limit on the size of a file stands in for a full disk: it strikes in the same place."""
  script = f"""
    import resource, sys
    import jax, jax.numpy as jnp
    from experiments.training.checkpoint import CheckpointError, Checkpoints
    from experiments.training.state import TrainState
    def state(step, size):
      noise = jax.random.bits(jax.random.key(0), (size,))
      zero = jnp.int32(0)
      return TrainState(jnp.int32(step), {{"w": noise}}, {{}}, {{}}, None, zero, zero)
    checkpoints = Checkpoints({str(tmp_path)!r}, config={{}}, seed=0, keep=1, keep_best=0)
    checkpoints.save(state(1, 1000), wait=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
      checkpoints.save(state(2, 1_000_000))
      checkpoints.wait()
    except CheckpointError as error:
      print("LINE", error)
    checkpoints.save(state(3, 1000), wait=True)
    checkpoints.close()
    print("STEPS", checkpoints.steps)
  """
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=300
  )
  lines = [line for line in done.stdout.splitlines() if line.startswith(("LINE", "STEPS"))]
  assert len(lines) == 2, done.stdout + done.stderr
  assert "cannot save" in lines[0]
  assert "Traceback" not in done.stderr
  assert "no space left on the disk" in lines[0]
  assert "complete on disk: 1" in lines[0]
  assert lines[1] == "STEPS [3]"
  assert not list(tmp_path.glob("*tmp*"))


def test_an_error_while_saving_is_one_line(tmp_path, monkeypatch):
  with open_run(tmp_path) as checkpoints:
    checkpoints.save(at(1), wait=True)

    def fail(*_args, **_kwargs):
      raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
      patch.setattr(checkpoints._manager, "save", fail)
      with pytest.raises(
        CheckpointError, match="cannot save checkpoint 2 .*no space left.*disk: 1$"
      ):
        checkpoints.save(at(2))
    assert checkpoints.save(at(2), wait=True)
    assert checkpoints.steps == [1, 2]


def write_for(seconds, folder):
  """Writers of a failed save that have not heard of it: their folder is made anew when it goes."""
  until = time.monotonic() + seconds
  while time.monotonic() < until:
    for i in range(20):
      with contextlib.suppress(OSError):
        (folder / "state" / "d").mkdir(parents=True, exist_ok=True)
        (folder / "state" / "d" / str(i)).write_bytes(b"torn")


@pytest.mark.parametrize("then", ["save", "close"])
def test_what_late_writers_of_a_failed_save_leave_is_swept_up(tmp_path, monkeypatch, then):
  torn = tmp_path / "2.orbax-checkpoint-tmp"
  late = threading.Thread(target=write_for, args=(0.5, torn))
  with open_run(tmp_path) as checkpoints:
    checkpoints.save(at(1), wait=True)

    def fail(*_args, **_kwargs):
      late.start()
      raise OSError(27, "File too large")

    with monkeypatch.context() as patch:
      patch.setattr(checkpoint, "_SWEEPS", 2)  # given up while the writers are still at work
      patch.setattr(checkpoints._manager, "save", fail)
      with pytest.raises(CheckpointError, match="cannot save checkpoint 2"):
        checkpoints.save(at(2))
    late.join()
    assert torn.is_dir()
    if then == "save":
      checkpoints.save(at(3), wait=True)
      assert checkpoints.steps == [1, 3]
      assert not torn.exists()
  assert not torn.exists()


def test_a_folder_that_comes_back_is_removed_until_it_stays_away(tmp_path, monkeypatch):
  torn = tmp_path / "2.orbax-checkpoint-tmp"
  times = iter(range(3))

  def write_again(_seconds):
    if next(times, None) is not None:
      (torn / "state").mkdir(parents=True)

  with open_run(tmp_path) as checkpoints:
    with monkeypatch.context() as patch:
      patch.setattr(checkpoint, "time", SimpleNamespace(sleep=write_again))
      with pytest.raises(CheckpointError), checkpoints._saving(2):
        raise OSError(27, "File too large")
    assert not torn.exists()
  assert next(times, None) is None


KILLED = """
  import sys, jax, jax.numpy as jnp
  from jax.sharding import SingleDeviceSharding
  from experiments.training.checkpoint import Checkpoints
  from experiments.training.state import TrainState
  @jax.jit
  def state(step):
    noise = jax.random.bits(jax.random.fold_in(jax.random.key(0), step), (4, 250_000))
    return TrainState(step, {"w": noise}, {}, {}, None, jnp.int32(0), jnp.int32(0))
  where = SingleDeviceSharding(jax.devices()[0])
  target = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state(jnp.int32(0)))
  checkpoints = Checkpoints(sys.argv[1], config={}, seed=0)
  found = checkpoints.restore_latest(target)
  step = 0 if found is None else int(found.step)
  assert found is None or (found.params["w"] == state(found.step).params["w"]).all()
  print("FROM", step, flush=True)
  while True:
    step += 1
    checkpoints.save(state(jnp.int32(step)), {"loss": step % 3})
    print("STARTED", step, flush=True)
"""


@pytest.mark.faults
def test_kill_at_any_moment_leaves_the_last_finished_checkpoint(tmp_path):
  finished = 0
  for delay in (0.0, 0.07, 0.13, 0.31, 0.52, 0.9):
    process = subprocess.Popen(
      [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)],
      stdout=subprocess.PIPE,
      text=True,
    )
    lines = iter(process.stdout.readline, "")
    begun = next(line for line in lines if line.startswith("FROM"))
    assert int(begun.split()[1]) >= finished
    first = next(lines)
    time.sleep(delay)
    process.kill()
    last = int([first, *lines][-1].split()[1])
    process.wait()
    finished = last - 1  # a save starts when the one before it is complete
