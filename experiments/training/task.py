"""What a training run optimises: three things about a model, nothing about files or meshes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax

Tree: TypeAlias = Any
Batch: TypeAlias = Mapping[str, jax.Array]
Metrics: TypeAlias = dict[str, jax.Array]
LogicalAxes: TypeAlias = tuple[str | None, ...]
ParamAxes: TypeAlias = tuple[tuple[str, LogicalAxes], ...]


@dataclass(frozen=True)
class Task:
  """A model and its loss as pure functions.

  Attributes:
    init: key -> {"params": tree, "model_state": tree}. `model_state` is what changes without a
      gradient (batch statistics); an empty dict where there is none.
    loss: (params, model_state, batch, key, train) -> (loss f32[], (model_state, metrics of f32[])).
      Loss and metrics are means over what the batch holds, and the metric `counted` says over how
      many things (rows, or hidden patches, say): microbatches and evaluation batches are weighted
      with it, so that a mean over several of them is the mean over all they hold. A batch in which
      nothing counts has a finite loss. With `train=False` it reads the running statistics and
      leaves them alone. Evaluation batches may carry `mask` bool[b], False on padding rows, which
      the loss leaves out of its mean; among the metrics may then be `outputs` [b, ...], which are
      collected for `Run.score`.
    param_axes: (pattern over the "/"-joined path, logical axes) for `params`; see
      `mesh.placements`.
    scheduled: (name, function of the step i32[] -> f32[]) of values that the loss reads beside the
      batch, under this name, such as a temperature. Evaluation after step n has those of step n.
  """

  init: Callable[[jax.Array], dict[str, Tree]]
  loss: Callable[[Tree, Tree, Batch, jax.Array, bool], tuple[jax.Array, tuple[Tree, Metrics]]]
  param_axes: ParamAxes
  scheduled: tuple[tuple[str, Callable[[jax.Array], jax.Array]], ...] = ()

  def at(self, step: jax.Array) -> dict[str, jax.Array]:
    """The scheduled values of a step."""
    return {name: value(step) for name, value in self.scheduled}
