"""Fitting a time table of one length into a model of another."""

from __future__ import annotations

import numpy as np

from dasheng_jax.errors import ConfigError

# More than an hour of patches of 40 ms.
MOST_ROWS = 100_000


def check_rows(rows: int) -> None:
  """ConfigError for a length that no time table has."""
  if not 1 <= rows <= MOST_ROWS:
    raise ConfigError(f"positions is {rows}; give 1 to {MOST_ROWS:,}, in patches of 40 ms")


def resize_time_table(table: np.ndarray, rows: int) -> np.ndarray:
  """f32[t, d] -> f32[rows, d]: cut to the first rows, or stretched linearly.

  Stretching has half-pixel centres and holds the edges: the rule of the released loader (reference
  text, section 8). Raises ConfigError for a length that no table has.
  """
  check_rows(rows)
  count = len(table)
  if rows <= count:
    return table[:rows]
  # Float32 throughout: the released interpolation computes its weights in float32 too.
  centre = (np.arange(rows, dtype=np.float32) + np.float32(0.5)) * np.float32(count / rows)
  centre = np.maximum(centre - np.float32(0.5), np.float32(0.0))
  left = np.minimum(centre.astype(np.int64), count - 1)
  right = np.minimum(left + 1, count - 1)
  weight = (centre - left.astype(np.float32))[:, None]
  return (table[left] * (np.float32(1) - weight) + table[right] * weight).astype(table.dtype)
