"""The heads: last map in, logits out.

Three of MN (reference text, section 4), of which two also serve the scene models, and the one that
decides at every time step (reference text of the weakly supervised taggers, section 2).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from mobile_jax.layers import Linear, kaiming_fan_out
from mobile_jax.norm import BatchNorm
from mobile_jax.ops import hardswish, pointwise

# Attention weights are kept off 0 and 1 before they are normalised over time.
_MARGIN = 1e-7


class MlpHead(nn.Module):
  """Linear, hardswish, dropout, linear, on the pooled features."""

  features: int
  hidden: int
  classes: int
  dropout: float

  @nn.compact
  def __call__(
    self, x: Float[Array, "b f t c"], mean: Float[Array, "b c"], train: bool = False
  ) -> tuple[Float[Array, "b classes"], Float[Array, "b hidden"]]:
    """(logits, hidden layer after its hardswish). Training needs the stream "dropout"."""
    hidden = hardswish(Linear(self.features, self.hidden, name="hidden")(mean))
    dropped = nn.Dropout(self.dropout, deterministic=not train)(hidden)
    return Linear(self.hidden, self.classes, name="logits")(dropped), hidden


class ConvHead(nn.Module):
  """1x1 convolution, batch norm (PyTorch's own defaults here), mean over the map."""

  features: int
  classes: int
  start: nn.initializers.Initializer | None = None

  def setup(self):
    """Kernel f32[c, classes] and the norm."""
    shape = (self.features, self.classes)
    self.kernel = self.param("kernel", self.start or kaiming_fan_out(self.classes), shape)
    self.norm = BatchNorm(self.classes, eps=1e-5, momentum=0.1)

  def __call__(
    self, x: Float[Array, "b f t c"], mean: Float[Array, "b c"], train: bool = False
  ) -> tuple[Float[Array, "b classes"], None]:
    """(logits, None)."""
    if train:
      y = self.norm(pointwise(x.astype(jnp.float32), self.kernel), train=True)
      return jnp.mean(y, axis=(1, 2)), None
    # Convolution, norm and mean are all linear here, so the mean can come first: one small product.
    scale, bias = self.norm.folded()
    y = jnp.matmul(mean, self.kernel * scale[None], precision=jax.lax.Precision.HIGHEST)
    return y + bias[None], None


class AttentionHead(nn.Module):
  """Multi-head attention pooling: each head weighs the frames on its own, for each class."""

  features: int
  classes: int
  heads: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "b f t c"], mean: Float[Array, "b c"], train: bool = False
  ) -> tuple[Float[Array, "b classes"], None]:
    """(logits, None). Any number of frames; values are not activated."""
    frames = jnp.mean(x.astype(jnp.float32), axis=1)
    both = Linear(self.features, 2 * self.heads * self.classes, name="subspaces")(frames)
    attention, value = rearrange(both, "b t (path h k) -> path b t h k", path=2, h=self.heads)
    weight = jnp.clip(nn.sigmoid(attention), _MARGIN, 1 - _MARGIN)
    weight = weight / jnp.sum(weight, axis=1, keepdims=True)
    by_head = jnp.sum(weight * value, axis=1)
    share = self.param("head_weight", nn.initializers.constant(1 / self.heads), (self.heads,))
    return jnp.einsum("bhk,h->bk", by_head, share, precision=jax.lax.Precision.HIGHEST), None


class DecisionHead(nn.Module):
  """Linear at every time step, sigmoid, and the mean over time of the probabilities."""

  features: int
  classes: int
  dropout: float
  objective: str = "tags"

  @nn.compact
  def __call__(
    self, x: Float[Array, "b f t c"], train: bool = False
  ) -> tuple[Float[Array, "b classes"], Float[Array, "b t classes"]]:
    """(logits of the clips, probabilities of the steps). Training needs the stream "dropout".

    Where one class is true ("classes"), steps are a softmax and the clip's logits their mean.
    """
    steps = jnp.mean(x.astype(jnp.float32), axis=1)
    steps = nn.Dropout(self.dropout, deterministic=not train)(steps)
    steps = Linear(self.features, self.classes, name="logits")(steps)
    if self.objective == "classes":
      return jnp.mean(steps, axis=1), jax.nn.softmax(steps)
    return logits_of_mean(steps), nn.sigmoid(steps)


def logits_of_mean(steps: Float[Array, "b t classes"]) -> Float[Array, "b classes"]:
  """The logits whose sigmoid is the mean over time of the steps' sigmoids.

  With them a network that decides by probabilities is used, trained and distilled like any other.
  Binary cross entropy of these logits is that of the mean probability, and so are its gradients;
  neither saturates, as nothing here is rounded to 0 or 1 on the way.
  """
  # log p - log(1 - p), where both hold the same log of the number of steps.
  hit = jax.nn.logsumexp(jax.nn.log_sigmoid(steps), axis=1)
  return hit - jax.nn.logsumexp(jax.nn.log_sigmoid(-steps), axis=1)
