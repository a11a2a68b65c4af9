"""Integer steps beside PyTorch's quantised kernels: the same integers, but for ties."""

import jax.numpy as jnp
import numpy as np
import pytest

from mobile_jax.quantised.affine import STORED, Affine
from mobile_jax.quantised.fold import Convolution, put
from mobile_jax.quantised.integer import _Integers, _Map
from mobile_jax.quantised.walk import points
from tests.mobile_jax.quantised.conftest import SMALL

IN, OUT = (0.03, 40), (0.11, 60)


def arithmetic(point, convolution=None):
  """Ours, with one point and one convolution of that name set."""
  names = points(SMALL)
  affine = {"scale": np.ones(len(names), np.float32), "zero": np.zeros(len(names), np.uint8)}
  affine["scale"][names.index(point)], affine["zero"][names.index(point)] = OUT
  integers = {"points": {name: jnp.asarray(x) for name, x in affine.items()}}
  if convolution is not None:
    put(integers, point, {name: jnp.asarray(x) for name, x in convolution.items()})
  return _Integers(SMALL, integers, STORED)


def maps(torch, channels, seed=0):
  """The same random integers for both: over the whole byte, as loud clips have them."""
  q = np.random.default_rng(seed).integers(0, 256, (2, 9, 8, channels)).astype(np.uint8)
  scale, zero = IN
  ours = _Map(jnp.asarray(q), Affine(jnp.float32(scale), jnp.int32(zero)))
  nchw = torch.tensor(q.transpose(0, 3, 1, 2).copy())
  theirs = torch._make_per_tensor_quantized_tensor(nchw, scale, zero)
  return ours, theirs.contiguous(memory_format=torch.channels_last)


def check(ours, theirs):
  want = theirs.int_repr().numpy().transpose(0, 2, 3, 1).astype(int)
  apart = np.abs(np.asarray(ours.q).astype(int) - want)
  assert apart.max() <= 1
  assert np.mean(apart > 0) <= 0.005
  assert len(np.unique(want)) > 10  # of a step that was not clipped to nothing


@pytest.mark.parametrize("kind", ["dense", "pointwise", "depthwise"])
@pytest.mark.parametrize("relu", [True, False])
def test_convolutions_with_weights_of_every_zero(kind, relu, torch):
  point = {"dense": "second", "pointwise": "head", "depthwise": "block_2/depthwise"}[kind]
  which = Convolution(point, kind, (1, 1) if kind == "pointwise" else (2, 2), relu)
  rng = np.random.default_rng(1)
  shape = {"dense": (3, 3, 6, 6), "pointwise": (6, 6), "depthwise": (3, 3, 6)}[kind]
  made = {
    "kernel": rng.integers(-128, 128, shape).astype(np.int8),
    "scale": rng.uniform(0.001, 0.01, 6).astype(np.float32),
    "zero": np.array([0, 127, -128, 0, 127, -128], np.int8),
    "bias": rng.normal(0, 1, 6).astype(np.float32),
  }
  x, given = maps(torch, 6)
  kernel = {
    "dense": lambda k: k.transpose(3, 2, 0, 1),
    "pointwise": lambda k: k.T[:, :, None, None],
    "depthwise": lambda k: k.transpose(2, 0, 1)[:, None],
  }[kind](made["kernel"])
  weight = torch._make_per_channel_quantized_tensor(
    torch.tensor(kernel.copy()),
    torch.tensor(made["scale"].astype(np.float64)),
    torch.tensor(made["zero"].astype(np.int64)),
    0,
  )
  pad = [0, 0] if kind == "pointwise" else [1, 1]
  groups = 6 if kind == "depthwise" else 1
  ops = torch.ops.quantized
  bias = torch.tensor(made["bias"])
  packed = ops.conv2d_prepack(weight, bias, list(which.stride), pad, [1, 1], groups)
  want = (ops.conv2d_relu if relu else ops.conv2d)(given, packed, *OUT)
  check(arithmetic(point, made).convolve(x, which), want)


def test_sums(torch):
  x, given = maps(torch, 4)
  y, other = maps(torch, 4, seed=5)
  got = arithmetic("block_1/sum").add(x, y, "block_1/sum")
  check(got, torch.ops.quantized.add(given, other, *OUT))


@pytest.mark.parametrize("stride", [(2, 2), (2, 1)])
def test_pools_and_the_last_mean(stride, torch):
  x, given = maps(torch, 4)
  how = arithmetic("block_1/sum")
  check(how.pool(x, stride), torch.nn.functional.avg_pool2d(given, 3, stride, 1))
  want = torch.nn.functional.adaptive_avg_pool2d(given, 1).dequantize()[:, :, 0, 0]
  np.testing.assert_allclose(how.leave(x), want.numpy(), atol=1e-5)
