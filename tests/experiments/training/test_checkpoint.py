import contextlib
import dataclasses
import json
import logging
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax.weights.checksum import checksums
from experiments.training import checkpoint
from experiments.training.checkpoint import CheckpointError, Checkpoints
from experiments.training.errors import UsageError
from experiments.training.mesh import MeshConfig, batch_sharding, make_mesh
from experiments.training.optim import OptimConfig, make_optimiser
from experiments.training.paths import leaves_by_path
from experiments.training.state import init_state, restore_target
from experiments.training.step import compile_train_step
from tests.experiments.training import toy

OPTIMISER = make_optimiser(
  OptimConfig(warmup_steps=2, peak_lr=1e-2, ema=0.9, clip_norm=0.5, accumulate=2), steps=10
)
CONFIG = {"model": {"width": 16, "sizes": (1, 2)}, "mesh": {"data": -1}}
LAYOUTS = {"one": None, "eight": MeshConfig(data=2, fsdp=2, tensor=2)}


@cache
def mesh_of(name):
  layout = LAYOUTS[name]
  return make_mesh(layout) if layout else make_mesh(devices=jax.devices()[:1])


@cache
def step_fn(name):
  return compile_train_step(toy.TASK, OPTIMISER, mesh_of(name), 0)


@cache
def start():
  return jax.device_get(init_state(toy.TASK, OPTIMISER, mesh_of("one"), 0))


def target(name):
  return restore_target(toy.TASK, OPTIMISER, mesh_of(name))


def fresh(name):
  return jax.tree.map(lambda x, t: jax.device_put(x, t.sharding), start(), target(name))


def advance(state, name, steps):
  mesh = mesh_of(name)
  with jax.set_mesh(mesh):
    for _ in range(steps):
      batch = jax.device_put(toy.batch(int(state.step)), batch_sharding(mesh))
      state, _ = step_fn(name)(state, batch)
  return state


def at(step, name="one"):
  return dataclasses.replace(fresh(name), step=jnp.int32(step))


open_run = partial(Checkpoints, config=CONFIG, seed=0, data="synthetic:1")


def assert_same_bits(a, b):
  b = leaves_by_path(b)
  for path, leaf in leaves_by_path(a).items():
    assert np.asarray(leaf).tobytes() == np.asarray(b[path]).tobytes(), path


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
