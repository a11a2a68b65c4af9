"""What a training step must cost, by arithmetic: operations, and bytes of memory.

These are what the figures of a compiled program are checked against; where there is no compiler for
the device (GPUs), the bytes are what is reported.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

from dasheng_jax.config import DashengConfig
from dasheng_jax.masking import count_kept
from experiments.training.dasheng_task import dasheng_task
from experiments.training.mesh import AnyMesh
from experiments.training.state import TrainState, state_placements
from experiments.training.task import Task


@dataclasses.dataclass(frozen=True)
class ClipFlops:
  """Operations of the matrix products of one clip's training, a product and a sum being two.

  Attributes:
    forward: the network, log-mel aside.
    outside: what of it is not in a block, and so is whole on every device of the axis tensor.
    recomputed: what the remat policy does a second time.
    mel: products of the front end, which has no backward pass.
  """

  forward: float
  outside: float
  recomputed: float
  mel: float

  @property
  def model(self) -> float:
    """What training needs: forward, and twice that backward. The figure that MFU is taken from."""
    return 3 * self.forward

  @property
  def executed(self) -> float:
    """What the program does."""
    return self.model + self.recomputed + self.mel

  def per_device(self, tensor: int) -> float:
    """What one of `tensor` devices does that share a clip."""
    whole = 3 * self.outside + self.mel
    return (self.executed - whole) / tensor + whole


def clip_flops(cfg: DashengConfig, samples: int, platform: str = "tpu") -> ClipFlops:
  """Operations per clip of `samples` samples; 515 G for the 1.2B model and 10 s.

  Of a block, per token: 8 d^2 for queries, keys, values and output, 4 r d^2 for a hidden layer of
  r d; and 4 t d for scores and mixing over t tokens. platform: on "tpu" the Fourier transform of
  the front end is a matrix product, elsewhere it is not counted.
  """
  tokens = cfg.patches(samples)
  kept = count_kept(tokens, cfg.mask_ratio)
  outside = 2.0 * cfg.patch_size * cfg.encoder.width * tokens
  outside += 2.0 * cfg.encoder.width * cfg.decoder.width * kept
  outside += 2.0 * cfg.decoder.width * cfg.patch_size * tokens
  forward, again = outside, 0.0
  for stack, count in ((cfg.encoder, kept), (cfg.decoder, tokens)):
    width, hidden = stack.width, int(stack.width * stack.mlp_ratio)
    attention = 4.0 * count * count * width
    up = down = 2.0 * count * width * hidden
    linear = 8.0 * count * width * width + up + down
    forward += stack.depth * (linear + attention)
    # What leaves the last product of a block is only added, so nobody needs it a second time.
    again += stack.depth * {
      "none": 0.0,
      "dots": attention,
      "block": attention + linear - down,
    }.get(cfg.compute.remat, 0.0)
  frames, bins = cfg.mel.frames(samples), cfg.mel.n_fft // 2 + 1
  mel = 2.0 * frames * bins * cfg.mel.mel_bins
  if cfg.mel.transform == "matmul" or (cfg.mel.transform == "auto" and platform == "tpu"):
    mel += 2.0 * frames * cfg.mel.n_fft * 2 * bins
  return ClipFlops(forward, outside, again, mel)


@dataclasses.dataclass(frozen=True)
class StateBytes:
  """Bytes on one device of all that a step hands to the next, by part."""

  params: int
  opt_state: int
  ema: int
  other: int

  @property
  def total(self) -> int:
    """All parts."""
    return self.params + self.opt_state + self.ema + self.other


def state_bytes(task: Task, abstract: TrainState, mesh: AnyMesh) -> StateBytes:
  """Read off the sharding table, so every option of the optimiser is in it."""
  table = state_placements(task, abstract, mesh)

  def total(tree) -> int:
    return sum(p.bytes_per_device for p in jax.tree.leaves(tree))

  parts = (total(table.params), total(table.opt_state), total(table.ema))
  return StateBytes(*parts, total(table) - sum(parts))


@functools.lru_cache(maxsize=32)
def saved_per_clip(cfg: DashengConfig, samples: int) -> int:
  """Bytes per clip that the forward pass keeps for the backward pass under the remat policy.

  Measured, without running anything, as the growth of the residuals of `jax.vjp` from two clips to
  three.
  """
  task = dasheng_task(cfg.with_compute(kernels="xla"))
  variables = jax.eval_shape(task.init, jax.random.key(0))

  def residuals(batch: int) -> int:
    rows = batch_shapes(batch, samples)

    def backward(params, model_state, rows):
      key = jax.random.key(0)
      return jax.vjp(lambda p: task.loss(p, model_state, rows, key, True), params, has_aux=True)[1]

    kept = jax.eval_shape(backward, variables["params"], variables["model_state"], rows)
    return sum(_bytes(x) for x in jax.tree.leaves(kept))

  return residuals(3) - residuals(2)


def _bytes(leaf: jax.ShapeDtypeStruct) -> int:
  keys = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  return 0 if keys else leaf.size * leaf.dtype.itemsize


def batch_shapes(
  batch: int, samples: int, placed: Callable[[tuple[int, ...], type], object] | None = None
) -> dict[str, object]:
  """What the loop hands to the step: waves and their valid lengths."""
  make = placed or jax.ShapeDtypeStruct
  return {
    "wave": make((batch, samples), np.float32),
    "valid": make((batch,), np.int32),
  }


@dataclasses.dataclass(frozen=True)
class PeakBytes:
  """Memory of one device at its fullest, by part."""

  state: int
  batch: int
  gradients: int
  copies: int
  saved: int
  working: int

  @property
  def total(self) -> int:
    """All parts."""
    return sum(dataclasses.astuple(self))


def peak_bytes(
  cfg: DashengConfig,
  state: StateBytes,
  abstract: TrainState,
  shards: int,
  clips: int,
  samples: int,
  accumulate: int = 1,
) -> PeakBytes:
  """The memory of a device that has `clips` clips and 1/shards of the parameters.

  Working memory is what the backward pass of one block of the decoder or encoder needs beside what
  was saved: its recomputed values, and its weights gathered from all devices with their gradients.
  """
  micro = -(-clips // accumulate)
  count = sum(x.size for x in jax.tree.leaves(abstract.params))
  gradients = 4 * count // shards * (2 if accumulate > 1 else 1)
  narrow = cfg.compute.dtype == "bfloat16"
  wide_params = all(x.dtype == np.float32 for x in jax.tree.leaves(abstract.params))
  copies = 2 * count // shards if narrow and wide_params else 0
  return PeakBytes(
    state.total,
    clips * samples * 4,
    gradients,
    copies,
    micro * saved_per_clip(cfg, samples),
    max(_working(cfg, samples, micro, shards, depth) for depth in ("encoder", "decoder")),
  )


def _working(cfg: DashengConfig, samples: int, clips: int, shards: int, which: str) -> int:
  stack = getattr(cfg, which)
  tokens = cfg.patches(samples)
  count = tokens if which == "decoder" else count_kept(tokens, cfg.mask_ratio)
  size = np.dtype(cfg.compute.dtype).itemsize if cfg.compute.dtype == "float32" else 2
  width, hidden = stack.width, int(stack.width * stack.mlp_ratio)
  # A block's values and their gradients: scores before and after the softmax, the hidden layer
  # before and after its function, and the narrow maps.
  scores = stack.heads * count * count * (4 + size)
  maps = count * (2 * hidden * size + width * (3 * size + 2 * size + 8))
  weights = (4 * width * width + 2 * width * hidden) * size if shards > 1 else 0
  return 2 * weights + clips * (scores + 2 * maps)
