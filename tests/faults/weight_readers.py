"""Checkpoints and weight files: the json that lists them, the arrays, and their headers."""

import json
import pathlib
import struct
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from dasheng_jax.config import SIZES, DashengConfig
from dasheng_jax.errors import WeightsError
from dasheng_jax.weights import record
from dasheng_jax.weights.safetensors_file import open_safetensors, open_sharded, write_sharded
from dasheng_jax.weights.tensors import held
from experiments.training.checkpoint import Checkpoints
from experiments.training.checkpoint_record import CheckpointError
from experiments.training.errors import UsageError
from experiments.training.paths import leaves_by_path
from experiments.training.state import TrainState
from tests.faults.damage import Damage
from tests.faults.readers import Reader, assert_refusal

STEP = 7
RUN = {"config": {"width": 32, "rate": 0.5, "names": ["a", "b"]}, "seed": 3, "data": "four clips"}


def small_state() -> TrainState:
  draw = np.random.default_rng(0)
  return TrainState(
    step=jnp.int32(STEP),
    params={"encoder": {"kernel": jnp.asarray(draw.normal(size=(8, 6)), jnp.float32)}},
    model_state={},
    opt_state={"count": jnp.int32(STEP)},
    ema=None,
    skipped=jnp.int32(0),
    skipped_in_row=jnp.int32(0),
  )


class Checkpoint(Reader):
  """A checkpoint of a run, some of its files damaged: refused, or the very state that was saved.

  files: patterns of the damaged ones, below the checkpoint's folder.
  """

  files = ("meta/metadata",)

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder)
    self._state = small_state()
    with self._checkpoints() as checkpoints:
      checkpoints.save(self._state, wait=True)
    inside = folder / "checkpoints" / str(STEP)
    self._paths = sorted(p for each in self.files for p in inside.glob(each) if p.is_file())
    self._paths = [path for path in self._paths if path.stat().st_size]
    self.originals = [path.read_bytes() for path in self._paths]
    self._target = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self._state
    )

  def _checkpoints(self) -> Checkpoints:
    return Checkpoints(self.folder / "checkpoints", **RUN)

  def read(self, number: int, damage: Damage) -> bool:
    path = self._paths[number]
    path.write_bytes(damage.data)
    try:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with self._checkpoints() as checkpoints:
          state = checkpoints.restore(STEP, self._target)
    except (CheckpointError, UsageError) as error:
      assert_refusal(error)
      return True
    finally:
      path.write_bytes(self.originals[number])
    for name, array in leaves_by_path(self._state).items():
      assert np.array_equal(np.asarray(leaves_by_path(state)[name]), np.asarray(array)), name
    return False


class CheckpointArrays(Checkpoint):
  """The same with the files that Orbax and TensorStore wrote."""

  files = ("state/*", "state/*/*", "state/**/d/*", "_CHECKPOINT_METADATA")


class Safetensors(Reader):
  """Nothing covers the values: they are as the file has them. The header is refused or sound."""

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder)
    draw = np.random.default_rng(1)
    self._arrays = {
      "blocks.0.weight": draw.normal(size=(4, 5)).astype(np.float32),
      "blocks.0.bias": draw.normal(size=5).astype(np.float16),
      "steps": np.array([3, 4], np.int64),
    }
    write_sharded(folder, {k: held(v) for k, v in self._arrays.items()}, {"config": "{}"}, 1 << 20)
    self._path = folder / "model.safetensors"
    self.originals = [self._path.read_bytes()]
    self._begin = 8 + struct.unpack("<Q", self.originals[0][:8])[0]

  def read(self, number: int, damage: Damage) -> bool:
    self._path.write_bytes(damage.data)
    try:
      tensors, _ = open_safetensors(self._path)
      arrays = {name: tensor.read() for name, tensor in tensors.items()}
    except WeightsError as error:
      assert_refusal(error)
      return True
    size = sum(array.nbytes for array in arrays.values())
    assert size <= len(damage.data)
    if damage.low >= self._begin:
      assert arrays.keys() == self._arrays.keys()
      assert len(damage.data) == len(self.originals[0])
      for name, array in self._arrays.items():
        assert arrays[name].shape == array.shape
      whole = b"".join(np.asarray(a).tobytes() for a in arrays.values())
      assert whole == damage.data[self._begin :]
    return False


class SafetensorsIndex(Reader):
  """The list of shards: refused, or every tensor that it names is the one of that name."""

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder)
    draw = np.random.default_rng(2)
    self._arrays = {f"blocks.{i}.weight": draw.normal(size=(4, 5)) for i in range(4)}
    write_sharded(folder, {k: held(v) for k, v in self._arrays.items()}, {}, 400)
    self._path = folder / "model.safetensors.index.json"
    self.originals = [self._path.read_bytes()]

  def read(self, number: int, damage: Damage) -> bool:
    self._path.write_bytes(damage.data)
    try:
      tensors, _ = open_sharded(self._path)
      arrays = {name: tensor.read() for name, tensor in tensors.items()}
    except WeightsError as error:
      assert_refusal(error)
      return True
    for name, array in arrays.items():
      assert np.array_equal(array, self._arrays[name]), name
    return False


class WeightsConfig(Reader):
  """config.json of converted weights: refused, or some configuration that can be built."""

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder)
    self._path = folder / "config.json"
    content = {record.OURS: record.make_record("dasheng", SIZES["dasheng_micro"])}
    self.originals = [json.dumps(content, indent=2).encode()]

  def read(self, number: int, damage: Damage) -> bool:
    self._path.write_bytes(damage.data)
    try:
      found = record.checked(record.read_json(self._path).get(record.OURS), self._path)
      cfg = record.config_in(found, {"dasheng": DashengConfig()}, self._path)
    except WeightsError as error:
      assert_refusal(error)
      return True
    assert cfg is None or isinstance(cfg, DashengConfig)
    return False


READERS = {
  "checkpoint, meta": Checkpoint,
  "checkpoint, arrays": CheckpointArrays,
  "safetensors": Safetensors,
  "safetensors index": SafetensorsIndex,
  "weights config": WeightsConfig,
}
