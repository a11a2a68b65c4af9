"""What an MN or DyMN source is: family, size, head, classes, and what no tensor tells."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dasheng_jax.errors import ConfigError, WeightsError
from dasheng_jax.weights.found import Found
from dasheng_jax.weights.record import read_record
from dasheng_jax.weights.tensors import Tensor
from mobile_jax.config import SIZES, DyMNConfig, MNConfig
from mobile_jax.models import MODELS
from mobile_jax.network import Config, shapes
from mobile_jax.weights.load import classes_in, recorded, state_of, without_constants
from mobile_jax.weights.names import buffers, rules

# Settings that leave no trace in any tensor; a published name implies them.
UNSEEN = ("strides", "hop length", "mel bands", "dilation", "coordinate attention")


def identify(
  path: Path,
  content: Mapping[str, Any],
  *,
  name: str | None = None,
  temperature: float | None = None,
) -> Found | None:
  """The description of an opened weight file, or None where it is neither MN nor DyMN.

  name: of `MODELS` or `SIZES`; default: as a file of ours says, else by file name, else by the
  tensors. Raises WeightsError where the tensors contradict it.
  """
  state = state_of(content)
  family = "dymn" if "in_c.0.weight" in state.tensors else "mn"
  first = "in_c.0.weight" if family == "dymn" else "features.0.0.weight"
  if first not in state.tensors or len(state.tensors[first].shape) != 4:
    return None
  source = str(path)
  record = {} if name else read_record(path, content)
  known = name or str(record.get("name", "")) or _by_file(path)
  stored = recorded(record, path)
  if stored is not None:
    cfg, said = stored, ["configuration: as stored with the weights"]
  elif known:
    cfg = SIZES[known] if known in SIZES else MODELS[known].config
    origin = "as asked" if name else "by the file's name"
    said = [f"model: {known}, {origin}"]
  else:
    known, cfg = _by_tensors(state.tensors, family, source)
    said = [
      f"size: {known or f'width {cfg.width:g}'}, by its tensors; "
      f"{', '.join(UNSEEN)} leave no trace in them and are taken as usual: "
      "pass --name if they differ"
    ]
  if isinstance(cfg, DyMNConfig):
    if temperature is not None:
      cfg = dataclasses.replace(cfg, temperature=temperature)
    said.append(f"temperature of dynamic convolutions: {cfg.temperature:g}, in no tensor")
  elif temperature is not None:
    raise ConfigError("--temperature is of DyMN's dynamic convolutions; MN has none")
  state = without_constants(state, cfg, source)
  cfg = dataclasses.replace(cfg, classes=classes_in(state, cfg))
  head = cfg.head if isinstance(cfg, MNConfig) else "mlp"
  heads = ""
  if head == "attention" and isinstance(cfg, MNConfig):
    heads = f" of {cfg.attention_heads} heads"
  said.append(f"head: {head}{heads}, {cfg.classes} classes")
  return Found(
    family,
    "state dict of the released code",
    known,
    cfg,
    state.tensors,
    rules(cfg),
    shapes(cfg),
    (),
    buffers(cfg),
    tuple(said),
  )


def _by_file(path: Path) -> str:
  by_file = {model.file: name for name, model in MODELS.items()}
  stem = path.stem if path.suffix in (".pt", ".safetensors", ".ckpt") else path.name
  found = by_file.get(path.name) or by_file.get(f"{stem}.pt")
  return found or (stem if stem in MODELS else "")


def _by_tensors(tensors: Mapping[str, Tensor], family: str, source: str) -> tuple[str, Config]:
  """(name of the size or "", configuration) of a file that no name describes."""
  for width in _WIDTHS:
    for tail in (False, True) if family == "mn" else (False,):
      if _channels(tensors, family) == _wanted(_plain(family, width, tail)):
        cfg = _dymn(tensors, width) if family == "dymn" else _mn(tensors, width, tail)
        sizes = [n for n, size in SIZES.items() if (type(size), size.width) == (type(cfg), width)]
        return (sizes[0] if sizes and not tail else ""), cfg
  raise WeightsError(
    f"{source}: its channels are those of no {family.upper()} of known width; "
    "pass --name with the model it was made from"
  )


# Widths of the published models, and those of small tests.
_WIDTHS = (1.0, 0.4, 0.1, 0.2, 0.5, 2.0, 3.0, 4.0)


def _plain(family: str, width: float, tail: bool) -> Config:
  return DyMNConfig(width=width) if family == "dymn" else MNConfig(width=width, reduced_tail=tail)


def _wanted(cfg: Config) -> list[int]:
  """What `_channels` gives of a network of this configuration."""
  return [cfg.stem, *(block.expanded for block in cfg.blocks), cfg.features]


def _channels(tensors: Mapping[str, Tensor], family: str) -> list[int]:
  """Channels of the first convolution, of every block's depthwise one, and of the last."""
  if family == "mn":
    # The one kernel of a block that is k x k.
    kernels = {
      int(name.split(".")[1]): tensor.shape
      for name, tensor in tensors.items()
      if name.startswith("features.") and len(tensor.shape) == 4 and tensor.shape[2] > 1
    }
    last = tensors.get("features.16.0.weight")
    return [shape[0] for _, shape in sorted(kernels.items())] + list(last.shape[:1] if last else ())
  found = [tensors["in_c.0.weight"].shape[0]]
  for n in range(15):
    norm = tensors.get(f"layers.{n}.depth_norm.weight")
    if norm is not None:
      found.append(norm.shape[0])
      continue
    block = f"layers.{n}.block."
    shapes = [t.shape for name, t in tensors.items() if name.startswith(block)]
    found += [shape[0] for shape in shapes if len(shape) == 4 and shape[2] > 1]
  last = tensors.get("out_c.0.weight")
  return found + list(last.shape[:1] if last else ())


def _mn(tensors: Mapping[str, Tensor], width: float, tail: bool) -> MNConfig:
  cfg = MNConfig(width=width, reduced_tail=tail)
  if "classifier.head_weight" in tensors:
    heads = tensors["classifier.head_weight"].shape[1]
    cfg = dataclasses.replace(cfg, head="attention", attention_heads=heads)
  elif "classifier.5.bias" not in tensors and "classifier.0.weight" in tensors:
    cfg = dataclasses.replace(cfg, head="fully_convolutional")
  cfg = dataclasses.replace(cfg, se=_squeezed(tensors, cfg))
  return dataclasses.replace(cfg, frames=_frames(tensors, cfg)) if "t" in cfg.squeezed else cfg


def _squeezed(tensors: Mapping[str, Tensor], cfg: MNConfig) -> str:
  """Axes of squeeze-and-excitation, by what the last block's layers take in."""
  last = cfg.blocks[-1]
  rows, _ = cfg.sizes(cfg.mel.mel_bins, cfg.frames)[last.number]
  axes = ""
  for _, size in sorted(_excited(tensors, last.number).items()):
    if size == last.expanded and "c" not in axes:
      axes += "c"
    else:
      axes += "f" if size == rows and "f" not in axes else "t"
  return axes or "none"


def _excited(tensors: Mapping[str, Tensor], number: int) -> dict[int, int]:
  """Inputs of each squeeze-and-excitation of a block, by its place."""
  return {
    int(name.split(".conc_se_layers.")[1].split(".")[0]): tensor.shape[1]
    for name, tensor in tensors.items()
    if name.startswith(f"features.{number}.")
    and ".conc_se_layers." in name
    and name.endswith(".fc1.weight")
  }


def _frames(tensors: Mapping[str, Tensor], cfg: MNConfig) -> int:
  """A length of log-mel that gives the sizes of time SE; several may, and they compute the same."""
  place = cfg.squeezed.index("t")
  wanted = {
    block.number: _excited(tensors, block.number).get(place) for block in cfg.blocks if block.se
  }
  for frames in (cfg.frames, *range(100, _LONGEST, 100), *range(1, _LONGEST)):
    sizes = cfg.sizes(cfg.mel.mel_bins, frames)
    if all(sizes[number][1] == size for number, size in wanted.items()):
      return frames
  return cfg.frames


# Frames of a minute at the usual hop: longer clips are not looked for.
_LONGEST = 6001


def _dymn(tensors: Mapping[str, Tensor], width: float) -> DyMNConfig:
  contexts = {
    int(name.split(".")[1]): tensor.shape[0]
    for name, tensor in tensors.items()
    if name.endswith(".context_gen.joint_conv.weight")
  }
  relus = any(name.endswith("depth_act.coef_net.0.weight") for name in tensors)
  dynamic = any(name.endswith(".depth_conv.residuals.0.weight") for name in tensors)
  kernels, pieces = 4, 2
  for name, tensor in tensors.items():
    if name.endswith(".depth_conv.weight") and dynamic:
      kernels = tensor.shape[2]
    if name.endswith(".depth_act.lambdas"):
      pieces = tensor.shape[0] // 2
  cfg = DyMNConfig(
    width=width,
    dynamic="all" if len(contexts) == 15 else "replace_se",
    convs=("expand", "depthwise", "project") if dynamic else (),
    relus=("depthwise",) if relus else (),
    kernels=kernels,
    pieces=pieces,
  )
  for ratio in (4, 8, 2, 16):
    tried = dataclasses.replace(cfg, context_ratio=ratio)
    if all(tried.context_size(tried.blocks[n]) == size for n, size in contexts.items()):
      return tried
  return cfg
