"""What the accelerators can do: one table, per chip, as their makers publish it.

A TPU chip is one JAX device (v4 and v5p join their two cores into one). GPU figures are those of
the SXM modules, without the doubling for sparse matrices.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from experiments.training.errors import UsageError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
  """One kind of accelerator.

  Attributes:
    name: as in `--topology NAME:SHAPE`.
    platform: "tpu" or "gpu".
    axes: axes of the torus that joins the chips of a slice; 0 for GPUs, whose switch joins all.
    hbm_bytes: memory of one chip.
    usable_bytes: what of it a program may use, as the TPU compiler says when a program is too
      large; on GPUs the share that JAX reserves unless told otherwise (0.75), raised to 0.92, which
      a training job sets.
    peak_flops: bfloat16 matrix products per second, a product and a sum being two.
    hbm_bandwidth: bytes per second.
    link_bandwidth: bytes per second that a chip can send over all its links within a slice (TPU)
      or within a node (GPU); receiving as much goes on beside it.
    outer_bandwidth: bytes per second that a chip can send to other slices or nodes, None where it
      is not published per chip.
    source: where the figures stand.
  """

  name: str
  platform: str
  axes: int
  hbm_bytes: float
  usable_bytes: float
  peak_flops: float
  hbm_bandwidth: float
  link_bandwidth: float
  outer_bandwidth: float | None
  source: str

  @property
  def ring_bandwidth(self) -> float:
    """Bytes per second that a chip sends on one ring, both ways round: what one axis carries."""
    return self.link_bandwidth / self.axes if self.axes else self.link_bandwidth


_TPU = "docs.cloud.google.com/tpu/docs/"
_GPU_SHARE = 0.92


def _tpu(
  name: str,
  axes: int,
  hbm: tuple[float, float],
  tflops: float,
  hbm_gbs: float,
  link_gbs: float,
  outer_gbs: float | None,
  source: str,
) -> Chip:
  total, usable = (x * GIB for x in hbm)
  outer = None if outer_gbs is None else outer_gbs * 1e9
  return Chip(
    name,
    "tpu",
    axes,
    total,
    usable,
    tflops * 1e12,
    hbm_gbs * 1e9,
    link_gbs * 1e9,
    outer,
    source,
  )


def _gpu(
  name: str, hbm_gb: float, tflops: float, hbm_gbs: float, link_gbs: float, outer_gbs: float, source
) -> Chip:
  memory = hbm_gb * 1e9
  return Chip(
    name,
    "gpu",
    0,
    memory,
    memory * _GPU_SHARE,
    tflops * 1e12,
    hbm_gbs * 1e9,
    link_gbs * 1e9,
    outer_gbs * 1e9,
    source,
  )


# The links of a TPU: published is the sum of both directions, half of which is what a chip sends.
CHIPS: dict[str, Chip] = {
  chip.name: chip
  for chip in (
    _tpu(
      *("v4", 3, (32, 30.75), 275, 1200, 300, None),
      _TPU + "v4; links: arXiv 2304.01433, table 4 (6 of 50 GB/s)",
    ),
    _tpu(
      *("v5e", 2, (16, 15.75), 197, 819, 200, 3.125),
      _TPU + "v5e (links 400 GB/s both ways; network 6.4 Tbit/s over the 256 chips of a pod)",
    ),
    _tpu(
      *("v5p", 3, (95, 95), 459, 2765, 600, 6.25),
      _TPU + "v5p (links 1200 GB/s both ways; network 50 Gbit/s per chip)",
    ),
    _tpu(
      *("v6e", 2, (32, 31.25), 918, 1638, 400, 12.5),
      _TPU + "v6e (links 800 GB/s both ways; network 25.6 Tbit/s over the 256 chips of a pod)",
    ),
    _gpu(
      *("a100", 80, 312, 2039, 300, 25),
      "NVIDIA A100 80GB datasheet (SXM; NVLink 600 GB/s both ways) and DGX A100 (8 x 200 Gbit/s)",
    ),
    _gpu(
      *("h100", 80, 989, 3350, 450, 50),
      "NVIDIA H100 datasheet (SXM; NVLink 900 GB/s both ways) and DGX H100 (8 x 400 Gbit/s)",
    ),
    _gpu(
      *("h200", 141, 989, 4800, 450, 50),
      "NVIDIA H200 datasheet (SXM; NVLink 900 GB/s both ways) and DGX H200 (8 x 400 Gbit/s)",
    ),
  )
}


def chip(name: str) -> Chip:
  """The chip of a name; UsageError with the nearest names otherwise."""
  if name in CHIPS:
    return CHIPS[name]
  near = difflib.get_close_matches(name, CHIPS, 2, 0.5)
  hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(CHIPS)}"
  raise UsageError(f"--topology {name}: no such chip; {hint}")
