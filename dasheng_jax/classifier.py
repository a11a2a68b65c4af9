"""The AudioSet head of the released classifier: LayerNorm and a linear layer on the mean embedding.

Reference text, section 8 (49.7 mAP, base). Names of its variables: "classifier" beside those of
the encoder.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dasheng_jax.config import DashengConfig
from dasheng_jax.inference import embed, valid_tokens

# The head's own; the encoder's norms have 1e-6.
EPS = 1e-5


def classify(
  cfg: DashengConfig,
  variables: dict,
  wave: Float[Array, "b s"],
  lengths: Int[Array, " b"] | None = None,
) -> Float[Array, "b classes"]:
  """Logits of waves f32[b, s] at 16 kHz; their sigmoid is the released score.

  lengths: valid samples per row of a zero-padded batch, whose padding is left out of the mean.
  """
  head = variables["params"]["classifier"]
  tokens = embed(cfg, variables, wave, lengths).astype(jnp.float32)
  if lengths is None:
    mean = jnp.mean(tokens, axis=1)
  else:
    keep = jnp.arange(tokens.shape[1])[None] < jnp.maximum(valid_tokens(cfg, lengths), 1)[:, None]
    count = jnp.sum(keep, axis=1)[:, None]
    mean = jnp.sum(tokens * keep[..., None], axis=1) / count
  centred = mean - jnp.mean(mean, axis=-1, keepdims=True)
  rate = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + EPS)
  normed = centred * rate * head["norm"]["scale"][None] + head["norm"]["bias"][None]
  kernel = head["logits"]["kernel"]
  product = jnp.matmul(normed, kernel, precision=jax.lax.Precision.HIGHEST)
  return product + head["logits"]["bias"][None]
