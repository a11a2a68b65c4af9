"""The name table of Dasheng: official PyTorch names on the left, ours on the right.

Official names: reference text, section 8.
"""

from __future__ import annotations

import numpy as np

from dasheng_jax.config import DashengConfig
from dasheng_jax.weights.table import AS_IS, COUNT, LINEAR, Rule, Transform, shaped
from pipelines.mel import hann_window, mel_filterbank

# Constants of the front end that the official file carries as buffers. We compute them.
FRONT_END = {
  "window": "front_end.0.spectrogram.window",
  "filters": "front_end.0.mel_scale.fb",
}


def _qkv_weight(heads: int, width: int) -> Transform:
  """(3 d, d), laid out [q | k | v] and then by head, <-> [d, 3, h, c]."""
  return Transform(
    "qkv weight",
    lambda w: w.reshape(3, heads, width // heads, width).transpose(3, 0, 1, 2),
    lambda k: k.transpose(1, 2, 3, 0).reshape(3 * width, width),
  )


def _out_weight(heads: int, width: int) -> Transform:
  """(d, d) <-> [h, c, d]."""
  return Transform(
    "attention output weight",
    lambda w: w.T.reshape(heads, width // heads, width),
    lambda k: k.reshape(width, width).T,
  )


def _patch_conv(width: int, mel_bins: int, frames: int) -> Transform:
  """(d, 1, mel, frame) <-> [mel * frame, d]."""
  return Transform(
    "patch convolution",
    lambda w: w.reshape(width, mel_bins * frames).T,
    lambda k: k.T.reshape(width, 1, mel_bins, frames),
  )


def time_table(width: int) -> Transform:
  """(1, d, 1, t) <-> [t, d]."""
  return Transform(
    "time table",
    lambda w: w.reshape(width, -1).T,
    lambda k: k.T.reshape(1, width, 1, -1),
  )


def stack_rules(torch: str, ours: str, width: int, heads: int) -> tuple[Rule, ...]:
  """Rules of a stack of blocks and the norm behind it."""
  layer, path = f"{torch}blocks.{{n}}.", f"{ours}/blocks/layers/"
  qkv_bias = shaped("qkv bias", (3, heads, width // heads), (3 * width,))
  return (
    Rule(layer + "norm1.weight", path + "attn_norm/scale", AS_IS),
    Rule(layer + "norm1.bias", path + "attn_norm/bias", AS_IS),
    Rule(layer + "attn.qkv.weight", path + "attn/qkv_kernel", _qkv_weight(heads, width)),
    Rule(layer + "attn.qkv.bias", path + "attn/qkv_bias", qkv_bias),
    Rule(layer + "attn.proj.weight", path + "attn/out_kernel", _out_weight(heads, width)),
    Rule(layer + "attn.proj.bias", path + "attn/out_bias", AS_IS),
    Rule(layer + "norm2.weight", path + "mlp_norm/scale", AS_IS),
    Rule(layer + "norm2.bias", path + "mlp_norm/bias", AS_IS),
    Rule(layer + "mlp.fc1.weight", path + "mlp/up/kernel", LINEAR),
    Rule(layer + "mlp.fc1.bias", path + "mlp/up/bias", AS_IS),
    Rule(layer + "mlp.fc2.weight", path + "mlp/down/kernel", LINEAR),
    Rule(layer + "mlp.fc2.bias", path + "mlp/down/bias", AS_IS),
    Rule(torch + "norm.weight", f"{ours}/norm/scale", AS_IS),
    Rule(torch + "norm.bias", f"{ours}/norm/bias", AS_IS),
  )


def encoder_rules(cfg: DashengConfig, torch: str = "", ours: str = "") -> tuple[Rule, ...]:
  """Name table of the encoder.

  `torch` and `ours` are prefixes ("encoder.", "/encoder") in a complete autoencoder.
  """
  shape = cfg.encoder
  params, stats = "params" + ours, "batch_stats" + ours
  freq = shaped("frequency vector", (shape.width,), (1, shape.width, 1, 1))
  conv = _patch_conv(shape.width, cfg.mel.mel_bins, cfg.patch_frames)
  return (
    Rule(torch + "time_pos_embed", f"{params}/positions/time", time_table(shape.width)),
    Rule(torch + "freq_pos_embed", f"{params}/positions/freq", freq),
    Rule(torch + "init_bn.1.weight", f"{params}/init_bn/scale", AS_IS),
    Rule(torch + "init_bn.1.bias", f"{params}/init_bn/bias", AS_IS),
    Rule(torch + "init_bn.1.running_mean", f"{stats}/init_bn/mean", AS_IS),
    Rule(torch + "init_bn.1.running_var", f"{stats}/init_bn/var", AS_IS),
    Rule(torch + "init_bn.1.num_batches_tracked", f"{stats}/init_bn/count", COUNT),
    Rule(torch + "patch_embed.proj.weight", f"{params}/patch_embed/kernel", conv),
    Rule(torch + "patch_embed.proj.bias", f"{params}/patch_embed/bias", AS_IS),
    *stack_rules(torch, params, shape.width, shape.heads),
  )


def decoder_rules(cfg: DashengConfig, torch: str = "decoder.") -> tuple[Rule, ...]:
  """Name table of the decoder, as it stands in a complete pre-training state."""
  shape, rows, ours = cfg.decoder, cfg.encoder.positions + 1, "params/decoder"
  token = shaped("mask token", (shape.width,), (1, 1, shape.width))
  table = shaped("position table", (rows, shape.width), (1, rows, shape.width))
  return (
    Rule(torch + "mask_token", f"{ours}/mask_token", token),
    Rule(torch + "pos_embed", f"{ours}/pos_embed", table),
    Rule(torch + "input_proj.weight", f"{ours}/input_proj/kernel", LINEAR),
    Rule(torch + "input_proj.bias", f"{ours}/input_proj/bias", AS_IS),
    *stack_rules(torch, ours, shape.width, shape.heads),
    Rule(torch + "outputlayer.weight", f"{ours}/output/kernel", LINEAR),
    Rule(torch + "outputlayer.bias", f"{ours}/output/bias", AS_IS),
  )


def classifier_rules(torch: str = "outputlayer.") -> tuple[Rule, ...]:
  """Name table of the AudioSet head."""
  ours = "params/classifier"
  return (
    Rule(torch + "0.weight", f"{ours}/norm/scale", AS_IS),
    Rule(torch + "0.bias", f"{ours}/norm/bias", AS_IS),
    Rule(torch + "1.weight", f"{ours}/logits/kernel", LINEAR),
    Rule(torch + "1.bias", f"{ours}/logits/bias", AS_IS),
  )


def autoencoder_rules(cfg: DashengConfig) -> tuple[Rule, ...]:
  """Name table of the complete autoencoder, with the prefixes of the training code."""
  return encoder_rules(cfg, "encoder.", "/encoder") + decoder_rules(cfg)


def front_end_buffers(cfg: DashengConfig) -> dict[str, np.ndarray]:
  """The front end's constants under their official names."""
  return {
    FRONT_END["window"]: hann_window(cfg.mel.n_fft),
    FRONT_END["filters"]: mel_filterbank(cfg.mel),
  }
