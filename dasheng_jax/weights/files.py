"""Encoder files: which layout a file has, its state dict under official names, and the way back.

Layouts read (reference text, section 8): the official {"model", "config"} file; the training
script's own layout ({"model", "config" with "model_args"}); a bare state dict; a complete
autoencoder (prefixes "encoder." and "decoder."); the Hugging Face variant (prefix "encoder.", no
front end). `.pt` or `.safetensors`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dasheng_jax.config import SIZES, DashengConfig, DecoderConfig, EncoderConfig
from dasheng_jax.errors import WeightsError
from dasheng_jax.models import MODELS
from dasheng_jax.weights.config_json import shown, told_by
from dasheng_jax.weights.names import FRONT_END, encoder_rules, front_end_buffers
from dasheng_jax.weights.record import (
  OURS,
  as_note,
  config_in,
  content_of,
  make_record,
  read_record,
)
from dasheng_jax.weights.safetensors_file import open_safetensors, write_safetensors
from dasheng_jax.weights.table import to_torch
from dasheng_jax.weights.tensors import (
  Arrays,
  Tensor,
  depth_of,
  headers,
  held,
  told_shape,
  without_prefix,
)
from dasheng_jax.weights.torch_file import open_torch, write_torch

# What an encoder file may carry beside the encoder: the decoder of a complete state and the
# AudioSet head.
BESIDE = (r"decoder\..*", r"outputlayer\..*")
COUNTER = "init_bn.1.num_batches_tracked"
# Largest departure from our own window and filters that float32 arithmetic of another library
# explains.
_FRONT_END_TOLERANCE = 2e-5


class EncoderFile(NamedTuple):
  """What an encoder file holds.

  state: arrays under official names, without prefixes; each is read when it is asked for. config:
  the constructor arguments that the file names. stored: the configuration itself, in files of ours.
  """

  state: Mapping[str, np.ndarray]
  config: Mapping[str, Any]
  layout: str
  stored: DashengConfig | None = None

  @property
  def tensors(self) -> Mapping[str, Tensor]:
    """The same arrays, unread."""
    return headers(self.state)


def read_encoder_file(path: str | os.PathLike) -> EncoderFile:
  """Read a `.pt` or `.safetensors` file; WeightsError where it is absent, damaged or foreign."""
  path = Path(path)
  if not path.is_file():
    raise WeightsError(f"{path}: no such weight file{_where_to_find(Path(path).stem)}")
  content: dict = _open_safetensors(path) if path.suffix == ".safetensors" else open_torch(path)
  file = encoder_file(path, content)
  if file is None:
    raise WeightsError(f"{path}: not a Dasheng encoder (it holds {first_names(content)})")
  return file


def first_names(content: Mapping) -> str:
  """The first names in opened contents, for the message about a foreign file."""
  inside = content
  for place in ("state_dict", "model", "model_state_dict"):
    if isinstance(content.get(place), Mapping):
      inside = content[place]
      break
  return ", ".join(shown(name)[1:-1] for name in list(inside)[:3]) or "no tensor at all"


def encoder_file(path: Path, content: Mapping) -> EncoderFile | None:
  """What an opened file holds; None where it is no Dasheng encoder."""
  config = content.get("config") or {}
  if not isinstance(config, Mapping):
    raise WeightsError(f"{path}: its config is no group of named values; not a Dasheng file")
  if isinstance(config.get("encoder_kwargs"), Mapping):
    config = config["encoder_kwargs"]
  layout = "bare state dict"
  state = content
  if isinstance(content.get("model"), Mapping):
    state = content["model"]
    layout = "official"
    if isinstance(config.get("model_args"), Mapping):
      layout, config = "training script", dict(config["model_args"])
  state = {name: x for name, x in state.items() if isinstance(x, Tensor)}
  if "time_pos_embed" not in state and "encoder.time_pos_embed" in state:
    complete = any(name.startswith("decoder.") for name in state)
    layout = "complete autoencoder" if complete else "Hugging Face"
    state = without_prefix(state, "encoder.", str(path))
  elif "outputlayer.1.weight" in state and layout == "bare state dict":
    layout = "AudioSet classifier"
  ranks = {"time_pos_embed": 4, "patch_embed.proj.weight": 4}
  if any(name not in state or len(state[name].shape) != rank for name, rank in ranks.items()):
    return None
  stored = config_in(read_record(path, content), {"dasheng": DashengConfig()}, path)
  return EncoderFile(Arrays(state), dict(config), layout, stored)


def _open_safetensors(path: Path) -> dict:
  return content_of(*open_safetensors(path))


def _where_to_find(stem: str) -> str:
  known = {key: m for name, m in MODELS.items() for key in (name, Path(m.file).stem)}
  return f"; download {known[stem].file} from {known[stem].url}" if stem in known else ""


def config_of(
  file: EncoderFile, heads: int | None = None, source: str = "the file", flag: str = "heads=..."
) -> DashengConfig:
  """The model configuration that fits a file's tensors.

  Width, depth and patch come from the tensors. No tensor reveals the number of heads: it comes from
  `heads`, else from the file's own configuration, else from the table of published sizes.
  WeightsError when none of them knows, which names the `flag` to pass. A file of ours says the rest
  too.
  """
  tensors, told = file.tensors, told_by(file.config, source)
  width, _, mel_bins, frames = told_shape(tensors, "patch_embed.proj.weight", 4, source)
  depth = depth_of(tensors, "blocks.", source)
  known, stored = published_size(width, depth), file.stored
  says = stored.encoder.heads if stored else told.heads
  if stored and heads and heads != says:
    raise WeightsError(f"{source}: this model has {says} heads; leave {heads} out")
  heads = heads or says or (known.encoder.heads if known else None)
  if not heads:
    raise WeightsError(
      f"{source}: the number of heads is in no tensor, and width {width} with depth {depth} "
      f"is no published size: pass {flag}"
    )
  if told.stride not in (None, (mel_bins, frames)):
    raise WeightsError(
      f"{source}: its patches of {mel_bins} x {frames} step by {list(told.stride or ())}; "
      "overlapping patches are not Dasheng's"
    )
  rows = told_shape(tensors, "time_pos_embed", 4, source)[-1]
  base = stored or known or DashengConfig(decoder=DecoderConfig())
  ratio = mlp_ratio(tensors, "", width, source)
  try:
    encoder = EncoderConfig(width, depth, heads, ratio, rows)
    # The official constructor takes the clamp's depth among its arguments; the default is 120 dB.
    mel = dataclasses.replace(base.mel, mel_bins=mel_bins, top_db=told.top_db or base.mel.top_db)
    cfg = dataclasses.replace(base, encoder=encoder, patch_frames=frames, mel=mel)
  except ValueError as error:
    raise WeightsError(f"{source}: {error}") from None
  if stored and stored != cfg:
    raise WeightsError(f"{source}: its tensors are not of the model that it says it holds")
  return cfg


def published_size(width: int, depth: int) -> DashengConfig | None:
  """The size of the table whose encoder has these."""
  published = {(c.encoder.width, c.encoder.depth): c for c in SIZES.values()}
  return published.get((width, depth))


def mlp_ratio(tensors: Mapping[str, Tensor], prefix: str, width: int, source: str) -> float:
  """Hidden over outer width of a stack's first block, under a prefix such as "decoder."."""
  name = f"{prefix}blocks.0.mlp.fc1.weight"
  return told_shape(tensors, name, 2, source)[0] / width if name in tensors else 4.0


def with_counter(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
  """With the counter that Hugging Face files of old tools lack; outputs do not use it."""
  return {COUNTER: held(np.zeros((), np.int64)), **tensors}


def check_front_end(file: EncoderFile, cfg: DashengConfig, source: str) -> None:
  """WeightsError when the file carries a window or filters that are not the ones we compute."""
  ours = front_end_buffers(cfg)
  for name in FRONT_END.values():
    if name not in file.tensors:
      continue
    same = file.tensors[name].shape == ours[name].shape
    # A NaN is no less a departure than a large difference.
    if not same or not np.abs(file.state[name] - ours[name]).max() <= _FRONT_END_TOLERANCE:
      raise WeightsError(
        f"{source}: {name} is not Dasheng's front end (16 kHz, 512-point Hann, 64 HTK mels), "
        "so its features would differ"
      )


def official_state(cfg: DashengConfig, encoder_variables: Mapping) -> dict[str, np.ndarray]:
  """The official state dict, front-end buffers included, of an encoder's variables."""
  state = to_torch(encoder_variables, encoder_rules(cfg))
  names = list(state)
  buffers = front_end_buffers(cfg)
  # The released order: position tables, then the front end, then the rest.
  return {
    **{name: state[name] for name in names[:2]},
    **buffers,
    **{name: state[name] for name in names[2:]},
  }


def official_config(cfg: DashengConfig) -> dict:
  """Arguments of the official encoder's constructor."""
  patch = [cfg.mel.mel_bins, cfg.patch_frames]
  return {
    "target_length": cfg.encoder.positions * cfg.patch_frames,
    "patch_size": patch,
    "patch_stride": patch,
    "embed_dim": cfg.encoder.width,
    "depth": cfg.encoder.depth,
    "num_heads": cfg.encoder.heads,
    "mlp_ratio": cfg.encoder.mlp_ratio,
    "top_db": cfg.mel.top_db,
  }


def write_encoder_file(
  path: str | os.PathLike, cfg: DashengConfig, encoder_variables: Mapping
) -> None:
  """Write an encoder in the official layout, as `.pt` or `.safetensors`, whole or not at all.

  Neither needs PyTorch.
  """
  path = Path(path)
  state = official_state(cfg, encoder_variables)
  write_official(path, state, cfg, make_record("dasheng", cfg))


def write_official(
  path: Path,
  tensors: Mapping[str, Tensor] | Mapping[str, np.ndarray],
  cfg: DashengConfig,
  record: Mapping,
) -> None:
  """Tensors under official names with both configurations: the constructor's, and our record."""
  config = official_config(cfg)
  if path.suffix == ".safetensors":
    write_safetensors(path, tensors, {"config": json.dumps(config), **as_note(record)})
  else:
    write_torch(path, {"model": tensors, "config": config, OURS: record})
