"""Embeddings for waves of any length: one per 40 ms, in chunks of the time table's length.

Reference text, section 5: log-mel, input normalisation and patch projection run once over the
complete input; the patch sequence is then cut into consecutive chunks (252 patches, 10.08 s), the
last one shorter, each with positions from 0 and attention within itself.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dasheng_jax.config import DashengConfig
from dasheng_jax.encoder import Encoder, chunk_rows, unchunk_rows
from dasheng_jax.errors import ConfigError
from pipelines.mel import log_mel as compute_log_mel

# Chunks that go through the blocks side by side. More would only cost memory: an hour of audio has
# 357.
CHUNKS_AT_ONCE = 32


def embed(
  cfg: DashengConfig,
  variables: dict,
  wave: Float[Array, "b s"],
  lengths: Int[Array, " b"] | None = None,
) -> Float[Array, "b t d"]:
  """Embeddings f32[b, t, d] at 25 Hz of waves f32[b, s] at 16 kHz in [-1, 1].

  lengths: valid samples per row of a zero-padded batch. Patches from floor(length / 640) on are
  then not attended to; their own outputs are finite but meaningless, so pooling has to leave them
  out (see `valid_tokens`). Raises ConfigError for a wave of another rank or type, or of fewer than
  480 samples. A NaN in a wave turns the chunk that holds it to NaN and touches no other row.
  """
  check_wave(cfg, wave, lengths)
  return embed_log_mel(cfg, variables, compute_log_mel(wave, cfg.mel), lengths)


def embed_log_mel(
  cfg: DashengConfig,
  variables: dict,
  log_mel: Float[Array, "b f frames"],
  lengths: Int[Array, " b"] | None = None,
) -> Float[Array, "b t d"]:
  """As `embed`, from the log-mel in dB. `lengths` are in samples here too."""
  encoder = Encoder(cfg)
  variables = encoder_variables(variables)
  tokens = encoder.apply(variables, log_mel, method="patches")
  batch, count, _ = tokens.shape
  keep = None
  if lengths is not None:
    keep = jnp.arange(count)[None] < valid_tokens(cfg, lengths)[:, None]

  def encode(chunk: jax.Array, chunk_keep: jax.Array | None) -> jax.Array:
    positioned = encoder.apply(variables, chunk, method="positioned")
    return encoder.apply(variables, positioned, chunk_keep, method="encode")

  size = cfg.encoder.positions
  rows, rest = chunk_rows(tokens, size)
  keep_rows, keep_rest = (None, None) if keep is None else chunk_rows(keep, size)
  if rows is not None and len(rows) > CHUNKS_AT_ONCE:
    # lax.map hands over single chunks, which it runs CHUNKS_AT_ONCE at a time.
    rows = jax.lax.map(
      lambda row: encode(*jax.tree.map(lambda x: x[None], row))[0],
      (rows, keep_rows),
      batch_size=CHUNKS_AT_ONCE,
    )
  elif rows is not None:
    rows = encode(rows, keep_rows)
  if rest is not None:
    rest = encode(rest, keep_rest)
  return unchunk_rows(rows, rest, batch)


def valid_tokens(cfg: DashengConfig, lengths: Int[Array, " b"]) -> Int[Array, " b"]:
  """Number of valid embeddings of rows with `lengths` valid samples: floor(length / 640).

  It can be one less than the number of embeddings of a full row (16480 samples: 25 of 26), as
  released.
  """
  return jnp.asarray(lengths) // cfg.patch_samples


def encoder_variables(variables: dict) -> dict:
  """The encoder's share of a masked autoencoder's variables; an encoder's own pass through."""
  if "encoder" not in variables["params"]:
    return variables
  return {name: variables[name]["encoder"] for name in ("params", "batch_stats")}


def check_wave(cfg: DashengConfig, wave: jax.Array, lengths: jax.Array | None) -> None:
  """ConfigError, at trace time, for input that the encoder cannot take."""
  if not hasattr(wave, "dtype"):
    raise ConfigError(f"wave is a {type(wave).__name__}; expected an array: use jnp.asarray(wave)")
  shape = jnp.shape(wave)
  if len(shape) != 2:
    raise ConfigError(
      f"wave has shape {shape}; expected [batch, samples]: use wave[None] for one clip, "
      "average channels to mono"
    )
  if not jnp.issubdtype(jnp.result_type(wave), jnp.floating):
    raise ConfigError(
      f"wave is {jnp.result_type(wave)}; expected floats in [-1, 1]: divide 16-bit samples by 32768"
    )
  if shape[0] == 0 or shape[1] < cfg.min_samples:
    raise ConfigError(
      f"wave of shape {shape} is too short: at least one clip of {cfg.min_samples} samples "
      f"({1000 * cfg.min_samples / cfg.mel.sample_rate:.0f} ms) is needed for one embedding; "
      "pad with zeros"
    )
  if lengths is not None and jnp.shape(lengths) != shape[:1]:
    raise ConfigError(
      f"lengths has shape {jnp.shape(lengths)}; "
      f"expected one number of samples per clip, {shape[:1]}"
    )
  if lengths is not None and not jnp.issubdtype(jnp.result_type(lengths), jnp.integer):
    raise ConfigError(f"lengths is {jnp.result_type(lengths)}; expected whole numbers of samples")
  if lengths is None or isinstance(lengths, jax.core.Tracer):
    return
  outside = [int(n) for n in np.asarray(lengths) if not 0 <= n <= shape[1]]
  if outside:
    raise ConfigError(f"lengths holds {outside[0]}; the clips have 0 to {shape[1]} samples")
