"""The native CPU kernels as JAX functions: shapes are checked here, the work is done in C++.

Everything is float32 and channels-last, runs under `jax.jit`, and gives the same numbers whatever
the number of threads. Batch normalisation is expected to be folded into kernels and biases. Call
these on the CPU backend only, and only after `available()` returned True. `jax.vmap` runs the
mapped axis one element after the other. None of these has gradients; `training` has its own.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from dasheng_jax.native.calls import no_derivative
from mobile_jax.native import build

ACTIVATIONS = {"none": 0, "relu": 1, "hardswish": 2}
DENSE_ACTIVATIONS = {**ACTIVATIONS, "sigmoid": 3}
MAX_TAPS = 9  # as in depthwise.h


def out_size(size: int, taps: int, stride: int, dilation: int) -> int:
  """Length of an axis after a convolution with symmetric padding `dilation * (taps - 1) // 2`."""
  padding = dilation * ((taps - 1) // 2)
  return (size + 2 * padding - (taps - 1) * dilation - 1) // stride + 1


def expand_depthwise(
  x: Float32[Array, "b f t c"],
  expand_kernel: Float32[Array, "c e"] | Float32[Array, "n c e"] | None,
  expand_bias: Float32[Array, " e"] | None,
  depthwise_kernel: Float32[Array, "k k e"] | Float32[Array, "b k k e"],
  depthwise_bias: Float32[Array, " e"] | None,
  *,
  activation: str,
  depthwise_activation: str | None = None,
  stride: int = 1,
  dilation: int = 1,
  expand_mix: Float32[Array, "b n"] | None = None,
  dyrelu: Float32[Array, "b e m2"] | None = None,
  gate_f: Float32[Array, "b f2 e"] | None = None,
  gate_t: Float32[Array, "b t2 e"] | None = None,
  mean: Float32[Array, " e"] | None = None,
  factor: Float32[Array, " e"] | None = None,
  expand_scale: Float32[Array, " e"] | None = None,
) -> tuple[Float32[Array, "b f2 t2 e"], Float32[Array, "b e"]]:
  """1x1 expansion, activation, depthwise convolution and activation, without the map in between.

  Returns y and its mean over frequency and time (what squeeze-and-excitation starts from). The
  depthwise convolution pads the expanded map with zeros, `dilation * (k - 1) // 2` on every side.

  Args:
    x: the block's input.
    expand_kernel: one kernel, or one per clip (n = b), or with `expand_mix` the n kernels of a
      dynamic convolution; None leaves the expansion and its activation out (then e = c).
    expand_bias: added before the first activation.
    depthwise_kernel: one kernel, or one per clip; k is odd and at most 9.
    depthwise_bias: added before the second activation.
    activation: "relu", "hardswish" or "none", after the expansion.
    depthwise_activation: the same after the depthwise convolution; as the first by default.
    stride: 1 or more, on both axes.
    dilation: 1 or more, on both axes.
    expand_mix: weights of the n expansion kernels, per clip; their sum is formed on the way.
    dyrelu: M slopes, then M intercepts for each clip and channel: y = max over m of
      slope_m * y + intercept_m in place of the second activation.
    gate_f: factors for each output frequency, multiplied in last (coordinate attention).
    gate_t: factors for each output time step, likewise.
    mean: in place of an expansion: the depthwise convolution reads
      activation((x - mean) * factor + expand_bias).
    factor: see mean.
    expand_scale: a factor for each column of expand_kernel, such as batch norm's.
  """
  b, f, t, c = x.shape
  e, k = depthwise_kernel.shape[-1], depthwise_kernel.shape[-2]
  _check_taps(depthwise_kernel, b, k, e, stride, dilation)
  size = (out_size(f, k, stride, dilation), out_size(t, k, stride, dilation))
  if expand_kernel is None:
    _expect("depthwise_kernel", depthwise_kernel, (*depthwise_kernel.shape[:-1], c))
    alone = expand_mix is not None or expand_scale is not None
    if alone or (expand_bias is None) != (mean is None):
      raise ValueError(
        "expand_bias, expand_mix and expand_scale belong to an expand_kernel, which is None"
      )
  else:
    _check_dense("expand_kernel", expand_kernel, expand_mix, b, c, e)
  if size[0] < 1 or size[1] < 1:
    raise ValueError(f"a {f} x {t} map is too small for a {k} x {k} kernel, dilation {dilation}")
  lines = dyrelu.shape[-1] if dyrelu is not None and dyrelu.ndim == 3 else 2
  if lines < 2 or lines % 2:
    raise ValueError(f"dyrelu has {lines} values per channel, want slopes and as many intercepts")
  operands = {
    "x": (x, (b, f, t, c)),
    "expand_kernel": (expand_kernel, None),
    "expand_mix": (expand_mix, None),
    "expand_bias": (expand_bias, (e,)),
    "depthwise_kernel": (depthwise_kernel, None),
    "depthwise_bias": (depthwise_bias, (e,)),
    "dyrelu": (dyrelu, (b, e, lines)),
    "gate_f": (gate_f, (b, size[0], e)),
    "gate_t": (gate_t, (b, size[1], e)),
    "mean": (mean, (e,)),
    "factor": (factor, (e,)),
    "expand_scale": (expand_scale, (e,)),
  }
  second = activation if depthwise_activation is None else depthwise_activation
  y, pooled = invoke(
    "mobile_expand_depthwise",
    [(b, *size, e), (b, e)],
    operands,
    activation=activation_number(activation),
    depthwise_activation=activation_number(second),
    stride=stride,
    dilation=dilation,
  )
  return y, pooled


def pointwise(
  x: Float32[Array, "b f t c"],
  kernel: Float32[Array, "c d"] | Float32[Array, "n c d"],
  bias: Float32[Array, " d"] | None,
  *,
  scale: Float32[Array, "b c"] | None = None,
  residual: Float32[Array, "b f t d"] | None = None,
  activation: str = "none",
  mix: Float32[Array, "b n"] | None = None,
  kernel_scale: Float32[Array, " d"] | None = None,
  pool: bool = False,
):
  """1x1 convolution: act((x * scale) @ kernel + bias) + residual, `[b, f, t, d]`.

  With `pool` also the mean of the result over frequency and time: (y, mean `[b, d]`).

  Args:
    x: the map.
    kernel: one kernel, or one per clip (n = b), or with `mix` the n kernels of a dynamic
      convolution.
    bias: added before the activation.
    scale: a factor per clip and input channel (the gate of squeeze-and-excitation).
    residual: added after the activation.
    activation: "relu", "hardswish" or "none".
    mix: weights of the n kernels, per clip; their sum is formed on the way.
    kernel_scale: a factor for each column of the kernel, such as batch norm's.
    pool: return the mean too.
  """
  y, mean = _pointwise(x, kernel, bias, scale, residual, activation, mix, kernel_scale, True, pool)
  return (y, mean) if pool else y


def pointwise_mean(
  x: Float32[Array, "b f t c"],
  kernel: Float32[Array, "c d"] | Float32[Array, "n c d"],
  bias: Float32[Array, " d"] | None,
  *,
  scale: Float32[Array, "b c"] | None = None,
  activation: str = "none",
  mix: Float32[Array, "b n"] | None = None,
  kernel_scale: Float32[Array, " d"] | None = None,
) -> Float32[Array, "b d"]:
  """The mean over frequency and time of what `pointwise` gives, without writing the map itself."""
  return _pointwise(x, kernel, bias, scale, None, activation, mix, kernel_scale, False, True)[1]


def axis_means(x: Float32[Array, "b f t c"]) -> Float32[Array, "b places c"]:
  """F means over time, then t means over frequency, from one reading of the map."""
  if x.ndim != 4:
    raise ValueError(f"x has shape {x.shape}, want (clips, frequency, time, channels)")
  b, f, t, c = x.shape
  return invoke("mobile_axis_means", [(b, f + t, c)], {"x": (x, (b, f, t, c))})[0]


def stem(
  x: Float32[Array, "b f t"],
  kernel: Float32[Array, "3 3 c"],
  bias: Float32[Array, " c"],
  *,
  activation: str,
) -> Float32[Array, "b f2 t2 c"]:
  """The first convolution of a one-channel map: 3x3, stride 2, one zero around, plus activation."""
  if x.ndim != 3:
    raise ValueError(f"x has shape {x.shape}, want (clips, frequency, time)")
  b, f, t = x.shape
  c = kernel.shape[-1]
  operands = {"x": (x, (b, f, t)), "kernel": (kernel, (3, 3, c)), "bias": (bias, (c,))}
  out = (b, (f + 1) // 2, (t + 1) // 2, c)
  return invoke("mobile_stem", [out], operands, activation=activation_number(activation))[0]


def dense(
  x: Float32[Array, "b c"],
  kernel: Float32[Array, "c d"],
  bias: Float32[Array, " d"] | None,
  *,
  activation: str = "none",
) -> Float32[Array, "b d"]:
  """act(x @ kernel + bias) for few rows, such as pooled features, where reading the kernel counts.

  activation: as elsewhere, or "sigmoid". Many rows belong in a matrix product of XLA.
  """
  if x.ndim != 2:
    raise ValueError(f"x has shape {x.shape}, want (clips, features)")
  b, c = x.shape
  d = kernel.shape[-1]
  operands = {"x": (x, (b, c)), "kernel": (kernel, (c, d)), "bias": (bias, (d,))}
  number = activation_number(activation, DENSE_ACTIVATIONS)
  return invoke("mobile_dense", [(b, d)], operands, activation=number)[0]


def _pointwise(
  x, kernel, bias, scale, residual, activation, mix, kernel_scale, want_map, want_mean
):
  b, f, t, c = x.shape
  d = kernel.shape[-1]
  _check_dense("kernel", kernel, mix, b, c, d)
  operands = {
    "x": (x, (b, f, t, c)),
    "kernel": (kernel, None),
    "mix": (mix, None),
    "bias": (bias, (d,)),
    "scale": (scale, (b, c)),
    "residual": (residual, (b, f, t, d)),
    "kernel_scale": (kernel_scale, (d,)),
  }
  outputs = [(b, f, t, d) if want_map else (0,), (b, d) if want_mean else (0,)]
  return invoke("mobile_pointwise", outputs, operands, activation=activation_number(activation))


def _check_taps(kernel, b: int, k: int, e: int, stride: int, dilation: int) -> None:
  want = (k, k, e) if kernel.ndim == 3 else (b, k, k, e)
  if kernel.shape != want or k % 2 == 0 or k > MAX_TAPS:
    raise ValueError(
      f"depthwise kernel has shape {kernel.shape}, want (k, k, channels) or one such for each of "
      f"{b} clips, with odd k up to {MAX_TAPS}"
    )
  if stride < 1 or dilation < 1:
    raise ValueError(f"stride {stride} and dilation {dilation} must be 1 or more")


def _check_dense(name: str, kernel, mix, b: int, c: int, e: int) -> None:
  """One kernel, one per clip, or a mixture of several."""
  if mix is not None:
    _expect(name, kernel, (mix.shape[-1], c, e))
    _expect("mix", mix, (b, kernel.shape[0]))
  else:
    _expect(name, kernel, (c, e) if kernel.ndim == 2 else (b, c, e))


def _expect(name: str, value, shape: tuple[int, ...]) -> None:
  if value.shape != shape:
    raise ValueError(f"{name} has shape {value.shape}, want {shape}")


def activation_number(name: str, known: dict[str, int] = ACTIVATIONS) -> int:
  """The number that stands for an activation in C++."""
  if name not in known:
    raise ValueError(f"activation {name!r} is unknown, use one of {', '.join(known)}")
  return known[name]


def invoke(target: str, outputs, operands, **attributes: int):
  """Checks what has a shape to check, replaces None by an empty operand, and calls.

  Differentiating the call raises NotImplementedError that names the way out.
  """
  if not build.available():
    raise RuntimeError(f"{target} needs the native kernels: ask available() first")
  arrays = []
  for name, (value, shape) in operands.items():
    if value is None:
      arrays.append(jnp.zeros((0,), jnp.float32))
      continue
    if value.size == 0:
      raise ValueError(f"{name} of shape {value.shape} is empty")
    if value.dtype != jnp.float32:
      raise ValueError(f"{name} has dtype {value.dtype}, want float32")
    if shape is not None:
      _expect(name, value, shape)
    arrays.append(value)
  results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in outputs]
  call = jax.ffi.ffi_call(target, results, vmap_method="sequential")
  numbers = {name: np.int64(value) for name, value in attributes.items()}

  @jax.custom_jvp
  def run(*arrays):
    return call(*arrays, **numbers)

  @run.defjvp
  def _(primals, tangents):
    raise no_derivative(target, build.LIBRARY.switch)

  return run(*arrays)
