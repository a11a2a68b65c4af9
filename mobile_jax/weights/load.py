"""`load_model`: a weight file in, a pure function and its variables out; and the way back."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dasheng_jax.errors import ConfigError, WeightsError
from dasheng_jax.weights import folder as folders
from dasheng_jax.weights.hub import resolve
from dasheng_jax.weights.record import (
  OURS,
  as_note,
  beside,
  bound_to,
  config_in,
  content_of,
  make_record,
  read_record,
)
from dasheng_jax.weights.safetensors_file import open_safetensors, write_safetensors
from dasheng_jax.weights.table import Rule, flatten, from_torch, to_torch, unflatten
from dasheng_jax.weights.tensors import Arrays, Tensor, told_shape
from dasheng_jax.weights.torch_file import open_torch, write_torch
from mobile_jax.config import DyMNConfig, MNConfig
from mobile_jax.families import ALL_SIZES, FAMILIES, Config, Decision, family_of
from mobile_jax.inference import tag
from mobile_jax.models import MODELS
from mobile_jax.network import init_variables, shapes
from mobile_jax.passt_config import PaSSTConfig
from mobile_jax.weights.deit import is_deit, passt_state
from mobile_jax.weights.names import buffers, rules

Tag = Callable[..., tuple[jax.Array, jax.Array]]
# Where training scripts put the state dict inside a file.
_NESTED = ("state_dict", "model", "model_state_dict")
# The tensor that tells the number of classes, by head, and what a new number of classes replaces.
_CLASSES: dict[str, tuple[str, str | tuple[str, ...]]] = {
  "mlp": ("classifier.5.bias", "head/logits/"),
  "fully_convolutional": ("classifier.1.bias", "head/"),
  "class_maps": ("feed_forward.1.bias", "head/"),
  "transformer": ("head.1.bias", ("head/logits/", "head_dist/")),
  "steps": ("classifier.1.bias", "head/logits/"),
  "efficientnet_pytorch": ("head.bias", "head/logits/"),
}


def load_model(
  path: str | os.PathLike,
  *,
  name: str | None = None,
  config: Config | None = None,
  classes: int | None = None,
  temperature: float | None = None,
  dtype: str = "float32",
  kernels: str = "auto",
  key: jax.Array | None = None,
) -> tuple[Tag, dict]:
  """(tag, variables) from a published file, or from any state dict of the released code.

  `tag(variables, wave)` maps f32[b, s] at 32 kHz (MobileNetV2, EfficientNet: 16 kHz) to (logits
  f32[b, classes], features f32[b, c]) for any length from `inference.least_samples` on; it is a
  pure function, so `jax.jit(tag)` and `jax.vmap` apply.

  Args:
    path: `.pt` or `.safetensors`, or a folder of converted weights, or a name of `MODELS`, whose
      file is taken from the cache folder or downloaded (see `dasheng_jax.weights.hub`).
    name: a name of `MODELS` or `ALL_SIZES`, which implies the configuration. Default: by file name.
    config: the configuration itself, in place of a name.
    classes: default: the file's. Another number gives fresh layers that depend on it, for
      fine-tuning, drawn with `key`: the last one, or the head where it is convolutional or attends.
    temperature: of DyMN's dynamic convolutions; default: the name's (1 for AudioSet weights).
    dtype: "bfloat16" runs matrix products in that type.
    kernels: "xla" leaves the C++ kernels of a CPU out, which `jax.export` cannot store.
    key: for a fresh head; default `jax.random.key(0)`.

  Raises WeightsError for a file that is absent, damaged or of another model, ConfigError for a
  wrong name.
  """
  cfg, variables = read_model(
    path, name=name, config=config, classes=classes, temperature=temperature, key=key
  )
  return functools.partial(tag, cfg.with_compute(dtype=dtype, kernels=kernels)), variables


def read_model(
  path: str | os.PathLike,
  *,
  name: str | None = None,
  config: Config | None = None,
  classes: int | None = None,
  temperature: float | None = None,
  key: jax.Array | None = None,
) -> tuple[Config, dict]:
  """(configuration, variables on the device); see `load_model`."""
  name = name or (str(path) if str(path) in MODELS and not Path(path).exists() else None)
  path = resolve(path, MODELS)
  content = open_content(path)
  cfg = config
  if cfg is None and name is None:
    cfg = recorded(read_record(path, content), path)
  if cfg is None:
    cfg = config_of(path, name)
  if temperature is not None:
    if not isinstance(cfg, DyMNConfig):
      raise ConfigError("temperature is of DyMN's dynamic convolutions; MN has none")
    cfg = dataclasses.replace(cfg, temperature=temperature)
  if (path / folders.STATE).is_dir():
    cfg, variables = _from_our_folder(path, cfg, content[OURS], classes, key)
  else:
    cfg, variables = _from_state(state_of(content), cfg, str(path), classes, key)
  return cfg, {"batch_stats": {}, **variables}  # transformers have none


def network_of(cfg: Config, source: str) -> tuple[tuple[Rule, ...], Mapping]:
  """(name table, shapes of the variables) of a configuration out of a file.

  WeightsError where no network can be built of it.
  """
  return _built(lambda: (rules(cfg), shapes(cfg)), source)


def _built(make: Callable[[], Any], source: str) -> Any:
  """What is made of a configuration out of a file; WeightsError where nothing can be."""
  try:
    return make()
  except ConfigError:
    raise
  except (ValueError, TypeError, ArithmeticError, MemoryError) as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    raise WeightsError(
      f"{source}: no network can be built of its configuration ({reason}); foreign or damaged"
    ) from None


def recorded(record: Mapping[str, Any], where: Path) -> Config | None:
  """The configuration in a record of `dasheng_jax.weights.record`; None for an empty one."""
  return config_in(record, FAMILIES, where)


def _from_our_folder(
  folder: Path, cfg: Config, record: Mapping, classes: int | None, key: jax.Array | None
) -> tuple[Config, dict]:
  wanted = _built(lambda: shapes(cfg), str(folder))  # ablations have no names in PyTorch
  tree = unflatten(folders.read_state(folder, wanted, folders.arrays_of(folder, record)))
  if classes is not None and classes != cfg.classes:
    cfg = dataclasses.replace(cfg, classes=classes)
    tree = _with_fresh_head(cfg, tree, jax.random.key(0) if key is None else key)
  return cfg, jax.tree.map(jnp.asarray, tree)


def _from_state(
  state: Arrays, cfg: Config, source: str, classes: int | None, key: jax.Array | None
) -> tuple[Config, dict]:
  state = without_constants(state, cfg, source)
  if isinstance(cfg, PaSSTConfig) and is_deit(state.tensors):
    # Of images, whose classes are none of ours: what depends on them is always drawn.
    tensors = {name: state[name] for name in state.tensors}
    started = from_torch(passt_state(tensors, cfg, source), *network_of(cfg, source), source=source)
    cfg = cfg if classes is None else dataclasses.replace(cfg, classes=classes)
    tree = _with_fresh_head(cfg, started, jax.random.key(0) if key is None else key)
    return cfg, jax.tree.map(jnp.asarray, tree)
  wanted, cfg = classes, dataclasses.replace(cfg, classes=classes_in(state.tensors, cfg, source))
  table, target = network_of(cfg, source)
  tree = from_torch(state, table, target, source=source)
  if wanted is not None and wanted != cfg.classes:
    cfg = dataclasses.replace(cfg, classes=wanted)
    tree = _with_fresh_head(cfg, tree, jax.random.key(0) if key is None else key)
  return cfg, jax.tree.map(jnp.asarray, tree)


def config_of(path: Path, name: str | None) -> Config:
  """The configuration that a model name, or else a file name, implies."""
  if name is not None:
    return ALL_SIZES[name] if name in ALL_SIZES else MODELS[name].config
  by_file = {model.file: model.config for model in MODELS.values()}
  known = by_file.get(path.name) or by_file.get(f"{path.stem}.pt")
  known = known or (MODELS[path.stem].config if path.stem in MODELS else None)
  if known is None:
    raise WeightsError(
      f"{path}: no published file has this name; pass name='mn10_as' (see mobile_jax.MODELS) or "
      "config=MNConfig(...)"
    )
  return known


def open_content(path: Path) -> dict[str, Any]:
  """What a `.pt` or `.safetensors` file or a folder holds; no array is read before it is needed."""
  if folders.is_weights_folder(path):
    return folders.open_content(path)
  if not path.is_file():
    known = {m.file: m for m in MODELS.values()} | MODELS
    where = known.get(path.name) or known.get(path.stem)
    hint = f"; download {where.file} from {where.url}" if where else ""
    raise WeightsError(f"{path}: no such weight file{hint}")
  return content_of(*open_safetensors(path)) if path.suffix == ".safetensors" else open_torch(path)


def state_of(content: Mapping[str, Any]) -> Arrays:
  """The state dict in an opened file, without the prefixes of trainers."""
  for place in _NESTED:
    if isinstance(content.get(place), Mapping):
      content = content[place]
  state = {key: x for key, x in content.items() if isinstance(x, Tensor)}
  prefixes = {key.split(".", 1)[0] for key in state}
  if len(prefixes) == 1 and prefixes <= {"model", "module", "net"}:
    state = {key.split(".", 1)[1]: x for key, x in state.items()}
  return Arrays(state)


def without_constants(state: Arrays, cfg: Config, source: str) -> Arrays:
  """The state without the constants that we compute; WeightsError where they are not ours."""
  constants = buffers(cfg)
  for name, ours in constants.items():
    if name not in state.tensors:
      continue
    if state.tensors[name].shape != ours.shape:
      shape = state.tensors[name].shape
      raise WeightsError(f"{source}: {name} has shape {shape}, not the {ours.shape} of this model")
    # Filters of float32 arithmetic are up to 2e-6 apart.
    found = state[name]
    if not np.allclose(found, ours, atol=1e-5):
      # All of a few numbers, the first wrong ones of many, on one line.
      shown = np.ravel((found != ours) | (ours.size <= 8))
      theirs, wanted = (str(x.ravel()[shown][:8].tolist()) for x in (found, ours))
      raise WeightsError(f"{source}: {name} is {theirs}, not the {wanted} of this model")
  return Arrays({name: x for name, x in state.tensors.items() if name not in constants})


def classes_in(tensors: Mapping[str, Tensor], cfg: Config, source: str) -> int:
  """Number of classes, by the shapes of the head."""
  if isinstance(cfg, MNConfig) and cfg.head == "attention":
    name, heads = "classifier.subspace_proj.bias", 2 * cfg.attention_heads
  else:
    name, heads = _CLASSES[_head(cfg)][0], 1
  return (
    max(1, told_shape(tensors, name, 1, source)[0] // heads) if name in tensors else cfg.classes
  )


def _head(cfg: Config) -> str:
  if isinstance(cfg, MNConfig):
    return cfg.head
  if isinstance(cfg, PaSSTConfig):
    return "transformer"
  if isinstance(cfg, Decision):
    return "efficientnet_pytorch" if cfg.lineage == "efficientnet_pytorch" else "steps"
  return "mlp" if isinstance(cfg, DyMNConfig) else "class_maps"


def _with_fresh_head(cfg: Config, tree: Mapping, key: jax.Array) -> dict:
  """The tree with those layers of the head drawn anew that depend on the number of classes."""
  # Under jit, whose compiler drops the draws of all the rest.
  return unflatten({**flatten(tree), **jax.jit(functools.partial(fresh_head, cfg))(key)})


def fresh_head(cfg: Config, key: jax.Array) -> dict[str, jax.Array]:
  """Fresh arrays, by path, of those layers of the head that depend on the number of classes."""
  _, replaced = _CLASSES.get(_head(cfg), ("", "head/"))
  fresh = flatten(init_variables(cfg, key))
  return {p: x for p, x in fresh.items() if p.split("/", 1)[1].startswith(replaced)}


def has_names(cfg: Config) -> bool:
  """Whether the released code has names for a configuration's weights: not for every ablation."""
  try:
    rules(cfg)
  except ConfigError:
    return False
  return True


def write_folder(folder: str | os.PathLike, cfg: Config, variables: Mapping) -> None:
  """Writes one of our own folders, which holds any configuration; whole or not at all.

  A folder of ours under the same name is replaced; WeightsError for anything else that is there.
  """
  folder = Path(folder)
  if folder.exists() and not (folder / folders.STATE).is_dir():
    raise WeightsError(f"{folder}: is there and no folder of our weights; choose another name")
  part = folder.with_name(f"{folder.name}.partial")
  shutil.rmtree(part, ignore_errors=True)
  part.mkdir(parents=True)
  leaves = {path: np.asarray(x) for path, x in flatten(variables).items()}
  groups = folders.parts_of({path: x.nbytes for path, x in leaves.items()})
  arrays = folders.write_state(part, ({path: leaves[path] for path in group} for group in groups))
  family = family_of(cfg)
  record = {**make_record(family, cfg), "arrays": arrays}
  text = json.dumps({"model_type": family, OURS: record}, indent=2)
  (part / folders.CONFIG).write_text(text + "\n")
  shutil.rmtree(folder, ignore_errors=True)
  part.replace(folder)


def write_model(path: str | os.PathLike, cfg: Config, variables: Mapping) -> None:
  """Writes a state dict of the released code, as `.pt` or `.safetensors`, whole or not at all.

  Neither needs PyTorch. The configuration goes into a `.safetensors` file, and beside a `.pt` as
  FILE.config.json, which names the file by a digest. Raises ConfigError for ablations that the
  released code cannot hold.
  """
  path = Path(path)
  state = {**to_torch(variables, rules(cfg)), **buffers(cfg)}
  record = make_record(family_of(cfg), cfg)
  if path.suffix == ".safetensors":
    write_safetensors(path, state, as_note(record))
    return
  write_torch(path, state)
  beside(path).write_text(json.dumps({OURS: bound_to(path, record)}, indent=2) + "\n")
