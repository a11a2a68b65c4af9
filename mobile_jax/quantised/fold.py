"""CP-Mobile with batch norm folded into its convolutions: what is quantised.

    {"params", "batch_stats"} of CPMobile -> {"stem": {"kernel", "bias"}, ..., "head": {...}}

Folded parameters are a tree of their own with the names of the network: a convolution's kernel and
bias, and the two scalars of every response norm, which stay in float32. Reference text of the scene
models, section 8, point 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from mobile_jax.cp_mobile import EPS
from mobile_jax.scene_config import CPMobileConfig

Folded = dict[str, Any]
Kind = Literal["stem", "dense", "pointwise", "depthwise"]


class Convolution(NamedTuple):
  """One of the network. kernel: [3, 3, d] of the stem, [3, 3, c, d] dense, [c, d], [3, 3, d]."""

  name: str
  kind: Kind
  stride: tuple[int, int] = (1, 1)
  relu: bool = True


def convolutions(cfg: CPMobileConfig) -> tuple[Convolution, ...]:
  """All of them, first to last; a name is the path to the convolution's parameters."""
  found = [Convolution("stem", "stem", (2, 2)), Convolution("second", "dense", (2, 2))]
  for block in cfg.blocks:
    name = f"block_{block.number}"
    found += [
      Convolution(f"{name}/expand", "pointwise"),
      Convolution(f"{name}/depthwise", "depthwise", block.stride),
      Convolution(f"{name}/project", "pointwise", relu=False),
    ]
  return (*found, Convolution("head", "pointwise", relu=False))


def fold(cfg: CPMobileConfig, variables: Mapping[str, Any]) -> Folded:
  """Folded parameters of a network's variables, with the norms of inference.

  kernel = kernel * scale / sqrt(var + eps), and a bias of each output channel takes the rest.
  """
  folded: Folded = {}
  for convolution in convolutions(cfg):
    params = at(variables["params"], convolution.name)
    stats = at(variables["batch_stats"], convolution.name)["norm"]
    kernel, norm = jnp.asarray(params["kernel"]), params["norm"]
    scale = norm["scale"] * jax.lax.rsqrt(stats["var"] + EPS)
    wide = scale.reshape((1,) * (kernel.ndim - 1) + scale.shape)
    put(
      folded,
      convolution.name,
      {"kernel": kernel * wide, "bias": norm["bias"] - stats["mean"] * scale},
    )
  for block in cfg.blocks:
    name = f"block_{block.number}"
    put(folded, f"{name}/response", dict(variables["params"][name]["response"]))
  return folded


def at(tree: Mapping[str, Any], path: str) -> Any:
  """What lies under a path such as "block_1/expand"."""
  for part in path.split("/"):
    tree = tree[part]
  return tree


def put(tree: dict[str, Any], path: str, value: Any) -> None:
  """Lays a value under a path."""
  *folders, last = path.split("/")
  for part in folders:
    tree = tree.setdefault(part, {})
  tree[last] = value
