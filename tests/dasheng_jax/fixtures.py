"""The recorded arrays: a small share in the repository, the complete set beside it."""

import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"


def golden(name: str) -> dict[str, np.ndarray]:
  """Arrays of tests/golden/dasheng_NAME.npz; see make_golden.py for what they are."""
  with np.load(GOLDEN / f"dasheng_{name}.npz") as arrays:
    return dict(arrays)


def from_int16(wave: np.ndarray) -> np.ndarray:
  return wave.astype(np.float32) / np.float32(32768)


def worst(ours, recorded) -> float:
  """Largest absolute difference; infinite where shapes differ or a NaN stands."""
  ours = np.asarray(ours)
  if ours.shape != recorded.shape:
    return float("inf")
  difference = float(np.abs(ours.astype(np.float64) - recorded).max())
  return difference if np.isfinite(difference) else float("inf")
