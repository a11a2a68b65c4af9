"""Rules that the name tables of several families share: convolutions and their norms."""

from __future__ import annotations

from dasheng_jax.weights.table import AS_IS, COUNT, Rule, Transform

# (out, in, 1, 1) <-> [in, out]
CONV_1X1 = Transform("1x1 convolution", lambda w: w[:, :, 0, 0].T, lambda k: k.T[:, :, None, None])
# (c, 1, k, k) <-> [k, k, c]
CONV_DEPTHWISE = Transform(
  "depthwise convolution",
  lambda w: w[:, 0].transpose(1, 2, 0),
  lambda k: k.transpose(2, 0, 1)[:, None],
)
# (out, in / groups, k, k) <-> [k, k, in / groups, out]
CONV_DENSE = Transform(
  "convolution", lambda w: w.transpose(2, 3, 1, 0), lambda k: k.transpose(3, 2, 0, 1)
)


def norm(torch: str, ours: str) -> tuple[Rule, ...]:
  """A batch norm."""
  return (
    Rule(f"{torch}.weight", f"params/{ours}/scale", AS_IS),
    Rule(f"{torch}.bias", f"params/{ours}/bias", AS_IS),
    Rule(f"{torch}.running_mean", f"batch_stats/{ours}/mean", AS_IS),
    Rule(f"{torch}.running_var", f"batch_stats/{ours}/var", AS_IS),
    Rule(f"{torch}.num_batches_tracked", f"batch_stats/{ours}/count", COUNT),
  )


def conv_norm(torch: str, ours: str, kind: Transform) -> tuple[Rule, ...]:
  """A convolution without bias, and the batch norm behind it."""
  return (
    Rule(f"{torch}.0.weight", f"params/{ours}/kernel", kind),
    *norm(f"{torch}.1", f"{ours}/norm"),
  )
