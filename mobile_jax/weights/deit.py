"""ImageNet's weights of DeiT as the start of a PaSST.

    pos_embed[1, 2 + g*g, d] -> two token positions, and a grid g x g of the patches
      grid -> bicubic -> rows x columns -> mean over columns: frequency table
                                        -> mean over rows: time table
    patch kernel of three colours -> their sum

What depends on the number of classes, and the head's norm, which DeiT does not have, start anew.
Reference text of the scene models, section 4; Koutini et al. 2022.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from dasheng_jax.errors import WeightsError
from mobile_jax.passt_config import PaSSTConfig

# Of PyTorch's bicubic interpolation; others take -0.5.
_SHARPNESS = -0.75
_TOKENS = 2  # class, distillation
# Of the state dict that are taken as they are.
_KEPT = ("cls_token", "dist_token", "patch_embed.proj.bias", "norm.", "blocks.")


def is_deit(names: Mapping[str, object]) -> bool:
  """Whether a state dict is of a distilled DeiT."""
  return {"pos_embed", "dist_token", "patch_embed.proj.weight"} <= set(names)


def passt_state(
  deit: Mapping[str, np.ndarray], cfg: PaSSTConfig, source: str = "DeiT"
) -> dict[str, np.ndarray]:
  """The state dict of a PaSST with DeiT's weights, in the names of its released code.

  `head` starts as a norm of ones and zeros and linear layers of zeros: read it with another number
  of classes to have these drawn. Raises WeightsError where the sizes differ.
  """
  if not is_deit(deit):
    raise WeightsError(
      f"{source}: no weights of a distilled DeiT, which have pos_embed, dist_token"
    )
  positions, kernel = deit["pos_embed"], deit["patch_embed.proj.weight"]
  width, side = cfg.width, 0
  if positions.ndim == 3:
    side = math.isqrt(max(positions.shape[1] - _TOKENS, 0))
  if not side or positions.shape != (1, side * side + _TOKENS, width):
    raise WeightsError(
      f"{source}: pos_embed has shape {positions.shape}, not [1, {_TOKENS} + side * side, "
      f"{cfg.width}]"
    )
  if kernel.ndim != 4 or kernel.shape[0] != width or set(kernel.shape[2:]) != {cfg.patch}:
    raise WeightsError(
      f"{source}: patch_embed.proj.weight has shape {kernel.shape}, not [{cfg.width}, colours, "
      f"{cfg.patch}, {cfg.patch}]"
    )
  grid = positions[0, _TOKENS:].reshape(side, side, width)
  grid = resized(grid, cfg.rows, cfg.columns)
  kept = {name: x for name, x in deit.items() if name.startswith(_KEPT)}
  return {
    **kept,
    "new_pos_embed": positions[:, :_TOKENS],
    "freq_new_pos_embed": grid.mean(axis=1).T[None, :, :, None],
    "time_new_pos_embed": grid.mean(axis=0).T[None, :, None, :],
    "patch_embed.proj.weight": kernel.sum(axis=1, keepdims=True),
    "head.0.weight": np.ones(width, np.float32),
    "head.0.bias": np.zeros(width, np.float32),
    "head.1.weight": np.zeros((cfg.classes, width), np.float32),
    "head.1.bias": np.zeros(cfg.classes, np.float32),
    "head_dist.weight": np.zeros((cfg.classes, width), np.float32),
    "head_dist.bias": np.zeros(cfg.classes, np.float32),
  }


def resized(
  grid: Float[np.ndarray, "h w d"], rows: int, columns: int
) -> Float[np.ndarray, "rows columns d"]:
  """Bicubic, corners not aligned, nothing smoothed before it is made smaller, as in PyTorch."""
  up, across = _taps(grid.shape[0], rows), _taps(grid.shape[1], columns)
  return np.einsum("rh,cw,hwd->rcd", up, across, grid, optimize=True).astype(np.float32)


def _taps(before: int, after: int) -> Float[np.ndarray, "after before"]:
  """The share of each old position in each new one; at the ends the outermost stands for more."""
  matrix = np.zeros((after, before))
  for row in range(after):
    place = (row + 0.5) * before / after - 0.5
    first = math.floor(place)
    for tap in range(first - 1, first + 3):
      matrix[row, min(max(tap, 0), before - 1)] += _cubic(abs(place - tap))
  return matrix


def _cubic(x: float) -> float:
  a = _SHARPNESS
  if x <= 1:
    return (a + 2) * x**3 - (a + 3) * x**2 + 1
  return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0
