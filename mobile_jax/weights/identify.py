"""What a weight file of ours is of: family, size, head, classes, and what no tensor tells."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dasheng_jax.errors import ConfigError, WeightsError
from dasheng_jax.weights.found import Found
from dasheng_jax.weights.record import read_record
from dasheng_jax.weights.tensors import Tensor, told_shape
from mobile_jax.config import SIZES, DyMNConfig, MNConfig
from mobile_jax.families import ALL_SIZES, Config, Tagger, size_of
from mobile_jax.models import MODELS
from mobile_jax.weights import identify_decision, identify_scenes
from mobile_jax.weights.identify_decision import decision_by_tensors, decision_family
from mobile_jax.weights.identify_scenes import scene_by_tensors, scene_family
from mobile_jax.weights.load import (
  classes_in,
  network_of,
  recorded,
  state_of,
  without_constants,
)
from mobile_jax.weights.names import buffers

# Settings that leave no trace in any tensor; a published name implies them.
UNSEEN = {
  **dict.fromkeys(
    ("mn", "dymn"), ("strides", "hop length", "mel bands", "dilation", "coordinate attention")
  ),
  **identify_scenes.UNSEEN,
  **identify_decision.UNSEEN,
}


def identify(
  path: Path,
  content: Mapping[str, Any],
  *,
  name: str | None = None,
  temperature: float | None = None,
) -> Found | None:
  """The description of an opened weight file, or None where it is of none of these families.

  name: of `MODELS` or `ALL_SIZES`; default: as a file of ours says, else by file name, else by the
  tensors. Raises WeightsError where the tensors contradict it.
  """
  state = state_of(content)
  family = scene_family(state.tensors) or decision_family(state.tensors)
  if not family:
    family = "dymn" if "in_c.0.weight" in state.tensors else "mn"
    first = "in_c.0.weight" if family == "dymn" else "features.0.0.weight"
    if first not in state.tensors or len(state.tensors[first].shape) != 4:
      return None
  source = str(path)
  record = {} if name else read_record(path, content)
  known = name or known_name(record.get("name")) or _by_file(path)
  stored = recorded(record, path)
  if stored is not None:
    cfg, said = stored, ["configuration: as stored with the weights"]
  elif known:
    cfg = ALL_SIZES[known] if known in ALL_SIZES else MODELS[known].config
    origin = "as asked" if name else "by the file's name"
    said = [f"model: {known}, {origin}"]
  else:
    told = _TELLERS.get(family, scene_by_tensors)
    known, cfg = told(state.tensors, source)
    said = [
      f"size: {known or size_of(cfg)}, by its tensors; "
      f"{', '.join(UNSEEN[family])} leave no trace in them and are taken as usual: "
      "pass --name if they differ"
    ]
  if temperature is not None:
    if not isinstance(cfg, DyMNConfig):
      raise ConfigError("--temperature is of DyMN's dynamic convolutions; MN has none")
    cfg = dataclasses.replace(cfg, temperature=temperature)
  state = without_constants(state, cfg, source)
  cfg = dataclasses.replace(cfg, classes=classes_in(state.tensors, cfg, source))
  table, target = network_of(cfg, source)
  return Found(
    family,
    "state dict of the released code",
    known,
    cfg,
    state.tensors,
    table,
    target,
    (),
    buffers(cfg),
    (*said, *described(cfg)),
  )


def described(cfg: Config) -> list[str]:
  """Head, classes and what else no name of a size tells, in sentences."""
  if not isinstance(cfg, Tagger):
    return [f"{cfg.classes} classes"]
  head: str = cfg.head if isinstance(cfg, MNConfig) else "mlp"
  if isinstance(cfg, MNConfig) and head == "attention":
    head += f" of {cfg.attention_heads} heads"
  said = [f"head: {head}, {cfg.classes} classes"]
  if isinstance(cfg, DyMNConfig):
    said.insert(0, f"temperature of dynamic convolutions: {cfg.temperature:g}, in no tensor")
  return said


def known_name(name: Any) -> str:
  """A name of `MODELS` or `ALL_SIZES` that a record holds; "" for any other."""
  return name if isinstance(name, str) and (name in MODELS or name in ALL_SIZES) else ""


def _by_file(path: Path) -> str:
  by_file = {model.file: name for name, model in MODELS.items()}
  stem = path.stem if path.suffix in (".pt", ".safetensors", ".ckpt") else path.name
  found = by_file.get(path.name) or by_file.get(f"{stem}.pt")
  return found or (stem if stem in MODELS else "")


def _by_tensors(tensors: Mapping[str, Tensor], source: str) -> tuple[str, Tagger]:
  """(name of the size or "", configuration) of a file that no name describes."""
  family = "dymn" if "in_c.0.weight" in tensors else "mn"
  shapes = _telling_shapes(tensors, source)
  for width in _WIDTHS:
    for tail in (False, True) if family == "mn" else (False,):
      if _channels(shapes, family) == _wanted(_plain(family, width, tail)):
        cfg = _dymn(shapes, width) if family == "dymn" else _mn(shapes, width, tail)
        sizes = [n for n, size in SIZES.items() if (type(size), size.width) == (type(cfg), width)]
        return (sizes[0] if sizes and not tail else ""), cfg
  raise WeightsError(
    f"{source}: its channels are those of no {family.upper()} of known width; "
    "pass --name with the model it was made from"
  )


# What finds a family's configuration; scene models have one of their own.
_TELLERS = {
  "mn": _by_tensors,
  "dymn": _by_tensors,
  "mobilenet_v2": decision_by_tensors,
  "efficientnet": decision_by_tensors,
}
# Names of the tensors whose shapes tell a configuration, and how many axes they have.
_TELLING = {
  re.compile(pattern): rank
  for pattern, rank in {
    r"features\.\d{1,4}(\.block\.\d{1,4})?\.0\.weight": 4,
    r"in_c\.0\.weight": 4,
    r"out_c\.0\.weight": 4,
    r"layers\.\d{1,4}\.block\.\d{1,4}\.0\.weight": 4,
    r"layers\.\d{1,4}\.depth_norm\.weight": 1,
    r"layers\.\d{1,4}\.depth_conv\.weight": 4,
    r"layers\.\d{1,4}\.depth_conv\.residuals\.0\.weight": 2,
    r"layers\.\d{1,4}\.depth_act\.lambdas": 1,
    r"layers\.\d{1,4}\.depth_act\.coef_net\.0\.weight": 2,
    r"layers\.\d{1,4}\.context_gen\.joint_conv\.weight": 4,
    r"features\.\d{1,4}\.block\.\d{1,4}\.conc_se_layers\.\d{1,4}\.fc1\.weight": 2,
    r"classifier\.head_weight": 3,
    r"classifier\.0\.weight": 4,
    r"classifier\.5\.bias": 1,
  }.items()
}
Shapes = Mapping[str, tuple[int, ...]]


def _telling_shapes(tensors: Mapping[str, Tensor], source: str) -> Shapes:
  """The shapes that tell a configuration, by name; all others are left out."""
  ranks = {
    name: rank for name in tensors for form, rank in _TELLING.items() if form.fullmatch(name)
  }
  return {name: told_shape(tensors, name, rank, source) for name, rank in ranks.items()}


# Widths of the published models, and those of small tests.
_WIDTHS = (1.0, 0.4, 0.1, 0.2, 0.5, 2.0, 3.0, 4.0)


def _plain(family: str, width: float, tail: bool) -> Tagger:
  return DyMNConfig(width=width) if family == "dymn" else MNConfig(width=width, reduced_tail=tail)


def _wanted(cfg: Tagger) -> list[int]:
  """What `_channels` gives of a network of this configuration."""
  return [cfg.stem, *(block.expanded for block in cfg.blocks), cfg.features]


def _channels(shapes: Shapes, family: str) -> list[int]:
  """Channels of the first convolution, of every block's depthwise one, and of the last."""
  if family == "mn":
    # The one kernel of a block that is k x k.
    kernels = {
      int(name.split(".")[1]): shape[0]
      for name, shape in shapes.items()
      if name.startswith("features.") and len(shape) == 4 and shape[2] > 1
    }
    last = shapes.get("features.16.0.weight")
    return [size for _, size in sorted(kernels.items())] + list(last[:1] if last else ())
  found = [shapes["in_c.0.weight"][0]]
  for n in range(15):
    norm = shapes.get(f"layers.{n}.depth_norm.weight")
    if norm is not None:
      found += norm
      continue
    block = f"layers.{n}.block."
    found += [s[0] for name, s in shapes.items() if name.startswith(block) and s[2] > 1]
  last = shapes.get("out_c.0.weight")
  return found + list(last[:1] if last else ())


def _mn(shapes: Shapes, width: float, tail: bool) -> MNConfig:
  cfg = MNConfig(width=width, reduced_tail=tail)
  if "classifier.head_weight" in shapes:
    heads = shapes["classifier.head_weight"][1]
    cfg = dataclasses.replace(cfg, head="attention", attention_heads=heads)
  elif "classifier.5.bias" not in shapes and "classifier.0.weight" in shapes:
    cfg = dataclasses.replace(cfg, head="fully_convolutional")
  cfg = dataclasses.replace(cfg, se=_squeezed(shapes, cfg))
  return dataclasses.replace(cfg, frames=_frames(shapes, cfg)) if "t" in cfg.squeezed else cfg


def _squeezed(shapes: Shapes, cfg: MNConfig) -> str:
  """Axes of squeeze-and-excitation, by what the last block's layers take in."""
  last = cfg.blocks[-1]
  rows, _ = cfg.sizes(cfg.mel.mel_bins, cfg.frames)[last.number]
  axes = ""
  for _, size in sorted(_excited(shapes, last.number).items()):
    if size == last.expanded and "c" not in axes:
      axes += "c"
    else:
      axes += "f" if size == rows and "f" not in axes else "t"
  return axes or "none"


def _excited(shapes: Shapes, number: int) -> dict[int, int]:
  """Inputs of each squeeze-and-excitation of a block, by its place."""
  return {
    int(name.split(".conc_se_layers.")[1].split(".")[0]): shape[1]
    for name, shape in shapes.items()
    if name.startswith(f"features.{number}.") and ".conc_se_layers." in name
  }


def _frames(shapes: Shapes, cfg: MNConfig) -> int:
  """A length of log-mel that gives the sizes of time SE; several may, and they compute the same."""
  place = cfg.squeezed.index("t")
  wanted = {
    block.number: _excited(shapes, block.number).get(place) for block in cfg.blocks if block.se
  }
  for frames in (cfg.frames, *range(100, _LONGEST, 100), *range(1, _LONGEST)):
    sizes = cfg.sizes(cfg.mel.mel_bins, frames)
    if all(sizes[number][1] == size for number, size in wanted.items()):
      return frames
  return cfg.frames


# Frames of a minute at the usual hop: longer clips are not looked for.
_LONGEST = 6001


def _dymn(shapes: Shapes, width: float) -> DyMNConfig:
  contexts = {
    int(name.split(".")[1]): shape[0]
    for name, shape in shapes.items()
    if name.endswith(".context_gen.joint_conv.weight")
  }
  relus = any(name.endswith("depth_act.coef_net.0.weight") for name in shapes)
  dynamic = any(name.endswith(".depth_conv.residuals.0.weight") for name in shapes)
  kernels, pieces = 4, 2
  for name, shape in shapes.items():
    if name.endswith(".depth_conv.weight") and dynamic:
      kernels = shape[2]
    if name.endswith(".depth_act.lambdas"):
      pieces = max(1, shape[0] // 2)
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
    sizes = dict(enumerate(map(tried.context_size, tried.blocks)))
    if all(sizes.get(n) == size for n, size in contexts.items()):
      return tried
  return cfg
