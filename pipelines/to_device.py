"""Host numpy batches to global `jax.Array`s."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
  import jax


def to_device(batch: dict[str, Any], sharding: "jax.sharding.Sharding") -> dict[str, "jax.Array"]:
  """Places the numeric fields of one host's batch on the devices of the whole job.

  Args:
    batch: this host's rows, as `batches` yields them: arrays whose first axis is the local batch.
    sharding: how the first (batch) axis is laid out, such as
      NamedSharding(mesh, P(("data", "fsdp"))).

  Returns:
    Global arrays by field. Text fields (`id`) have no place on a device and are left out.
  """
  import jax  # a data worker that never meets a device need not pay for this import

  numeric = {name: value for name, value in batch.items() if np.asarray(value).dtype.kind in "biuf"}
  return {
    name: jax.make_array_from_process_local_data(sharding, value) for name, value in numeric.items()
  }
