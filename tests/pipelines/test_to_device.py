import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pipelines import DataConfig, batches, open_dataset, to_device


@pytest.mark.parametrize("axes", [("data", "fsdp"), "data"])
def test_batch_becomes_global_arrays(library, axes):
  devices = np.array(jax.devices()[:8]).reshape(4, 2)
  sharding = NamedSharding(jax.sharding.Mesh(devices, ("data", "fsdp")), P(axes))
  dataset = open_dataset(DataConfig(source=(str(library("set", 4)),), crop_seconds=0.05))
  batch = next(batches(dataset, batch_size=8, seed=0, steps=1))
  placed = to_device(batch, sharding)
  assert set(placed) == {"wave", "valid"}
  assert placed["wave"].shape == (8, 800)
  assert placed["wave"].sharding == sharding
  assert placed["wave"].addressable_shards[0].data.shape[0] == (1 if axes != "data" else 2)
  assert np.array_equal(placed["wave"], batch["wave"])
  assert np.array_equal(placed["valid"], batch["valid"])
