"""A training step that a benchmark calls over and over, each time from the state it left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh


def stepping(step: Callable[..., Any], state: Any, batch: Any, mesh: Mesh) -> Callable[[], None]:
  """A function that makes one step of the same batch and returns when all of it is there."""

  def run() -> None:
    nonlocal state
    with jax.set_mesh(mesh):
      state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))

  return run
