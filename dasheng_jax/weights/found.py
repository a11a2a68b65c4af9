"""What a weight file turned out to be: its model, its layout, and the table that moves its tensors.

file --identify--> Found --check--> every tensor used, of the right shape and type, finite
|
+--> tensors under official names --> .pt, .safetensors, shards
+--> arrays under our paths ------> our own folder
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dasheng_jax.weights.table import Rule
from dasheng_jax.weights.tensors import Tensor


class Found(NamedTuple):
  """A sound description of one source.

  Args:
    family: "dasheng", or a key of `mobile_jax.families.FAMILIES`.
    layout: how the source is laid out, in words.
    name: the published model or size that it fits, or "".
    cfg: its configuration.
    tensors: of the source, under official names without prefixes.
    rules: the name table, official names to our paths.
    target: our tree of shapes.
    ignore: regular expressions of names that the source may carry and we compute or drop.
    constants: what the official layout carries and we compute.
    said: what was found, and where each fact that no tensor tells came from; one sentence each.
    earlier: what a folder of ours says of the source that it was converted from.
  """

  family: str
  layout: str
  name: str
  cfg: Any
  tensors: Mapping[str, Tensor]
  rules: tuple[Rule, ...]
  target: Mapping
  ignore: tuple[str, ...]
  constants: Mapping[str, np.ndarray]
  said: tuple[str, ...]
  earlier: Mapping[str, str] = {}
