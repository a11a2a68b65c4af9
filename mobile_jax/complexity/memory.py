"""Peak activation memory by the released tool's two rules (reference text, section 7).

Both look at maps alone: pooled vectors, gates, contexts and mixed kernels are not counted. The tool
has them for MN with an expansion in every block but the first; what stands here for other blocks
gives the same figures wherever the tool gives one:

- an unexpanded block other than the first has no expanded map before its depthwise convolution but
  its input, which is counted already, so 1/8 of the map behind the convolution is added;
- a dynamic block knows its kernels and gates before it starts, so it counts as a block without
  squeeze-and-excitation; but the first one needs the whole stem's map for its context, so the stem
  is a step of its own;
- the rivals of coordinate attention need the whole map, as squeeze-and-excitation does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mobile_jax.config import BlockShape, DyMNConfig, MNConfig, conv_size

# The wide middle of a block is made in slices of its channels, one at a time.
SLICES = 8


class _BlockMaps(NamedTuple):
  """Numbers in the maps of a block: input, expanded before and behind the depthwise one, output."""

  shape: BlockShape
  before: int
  expanded: int
  filtered: int
  after: int


def plain_elements(cfg: MNConfig | DyMNConfig, frames: int) -> float:
  """Layer by layer: input and output of one convolution, and what a residual still needs."""
  return float(max(_plain(cfg, frames)))


def efficient_elements(cfg: MNConfig | DyMNConfig, frames: int) -> float:
  """With the wide middle of each block made slice by slice, where nothing needs all of it."""
  return float(max(_efficient(cfg, frames)))


def _plain(cfg: MNConfig | DyMNConfig, frames: int) -> Iterator[float]:
  blocks = list(_maps(cfg, frames))
  yield cfg.mel.mel_bins * frames + blocks[0].before
  for shape, before, expanded, filtered, after in blocks:
    held = before if shape.residual else 0
    if shape.expands:
      yield before + expanded
    yield expanded + filtered + (held if shape.expands else 0)
    yield filtered + after + held
  places = blocks[-1].after // blocks[-1].shape.out
  yield blocks[-1].after + places * cfg.features
  if isinstance(cfg, MNConfig) and cfg.head == "fully_convolutional":
    yield places * (cfg.features + cfg.classes)


def _efficient(cfg: MNConfig | DyMNConfig, frames: int) -> Iterator[float]:
  network_input = cfg.mel.mel_bins * frames
  for shape, before, expanded, filtered, after in _maps(cfg, frames):
    if _needs_whole_map(cfg, shape):
      yield before + filtered + after
    elif shape.number == 1 and not (isinstance(cfg, DyMNConfig) and cfg.is_dynamic(shape)):
      # Stem and first block in one go.
      yield network_input + after + 2 * before / SLICES
      continue
    else:
      sliced = filtered + (expanded if shape.expands else 0)
      yield before + after + sliced / SLICES
    if shape.number == 1:
      yield network_input + before


def _needs_whole_map(cfg: MNConfig | DyMNConfig, shape: BlockShape) -> bool:
  if isinstance(cfg, MNConfig):
    return shape.se and bool(cfg.squeezed)
  return cfg.is_dynamic(shape) and cfg.attention not in ("coordinate", "none")


def _maps(cfg: MNConfig | DyMNConfig, frames: int) -> Iterator[_BlockMaps]:
  f, t = conv_size(cfg.mel.mel_bins, 3, 2), conv_size(frames, 3, 2)
  for shape in cfg.blocks:
    rule = (shape.kernel, shape.true_stride, shape.dilation)
    f2, t2 = conv_size(f, *rule), conv_size(t, *rule)
    places, places2 = f * t, f2 * t2
    yield _BlockMaps(
      shape,
      places * shape.channels,
      places * shape.expanded,
      places2 * shape.expanded,
      places2 * shape.out,
    )
    f, t = f2, t2
