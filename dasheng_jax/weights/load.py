"""`load_encoder`: a weight file or a run in, a pure function and its variables out."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from dasheng_jax.config import DashengConfig
from dasheng_jax.errors import WeightsError
from dasheng_jax.inference import embed
from dasheng_jax.mae import init_variables
from dasheng_jax.models import MODELS
from dasheng_jax.weights import folder as folders
from dasheng_jax.weights.files import (
  BESIDE,
  EncoderFile,
  check_front_end,
  config_of,
  encoder_file,
  first_names,
  read_encoder_file,
  with_counter,
)
from dasheng_jax.weights.hub import resolve
from dasheng_jax.weights.names import FRONT_END, encoder_rules
from dasheng_jax.weights.positions import resize_time_table
from dasheng_jax.weights.record import OURS, checked, config_in
from dasheng_jax.weights.run import newest_step, read_checkpoint
from dasheng_jax.weights.table import from_torch, unflatten
from dasheng_jax.weights.tensors import Arrays
from pipelines.mel import Clamp

# Where a training run leaves its encoder, relative to the run's folder.
EXPORTED = ("encoder.safetensors", "export/encoder.safetensors")

Embed = Callable[..., jax.Array]


def load_encoder(
  path: str | os.PathLike,
  *,
  heads: int | None = None,
  positions: int | None = None,
  clamp: Clamp | None = None,
  dtype: str = "float32",
) -> tuple[Embed, dict]:
  """(embed, params) from an official or Hugging Face file (.pt, .safetensors) or a run.

  A name will do: one of `dasheng_jax.MODELS`, which is taken from the cache folder or downloaded,
  or ORGANISATION/NAME on Hugging Face (see `dasheng_jax.weights.hub`).

  A folder of converted weights serves too (`python -m experiments.convert_weights`), and one of
  Hugging Face's. A run is its folder, of which the export is taken, or the newest complete
  checkpoint where it has exported nothing yet; or one checkpoint of it, RUN/checkpoints/STEP.

  `embed(params, wave, lengths=None)` maps f32[b, s] at 16 kHz to f32[b, t, d] at 25 Hz for any
  length; it is a pure function, so `jax.jit(embed)` and `jax.vmap` apply. heads: for sizes that are
  not published (no tensor reveals it). positions: length of the time table, cut or stretched to fit
  (default: the file's). clamp: which maximum the dB clamp looks at, "batch" or "sample" (default:
  the file's where it is ours, else "batch", the released behaviour). dtype: "bfloat16" runs matrix
  products in that type. Raises WeightsError for anything that is not a sound Dasheng encoder.
  """
  cfg, variables = read_encoder(path, heads=heads, positions=positions)
  cfg = cfg.with_compute(dtype=dtype)
  if clamp is not None:
    cfg = dataclasses.replace(cfg, mel=dataclasses.replace(cfg.mel, clamp=clamp))
  return functools.partial(embed, cfg), variables


def read_encoder(
  path: str | os.PathLike, *, heads: int | None = None, positions: int | None = None
) -> tuple[DashengConfig, dict]:
  """(configuration, encoder variables on the device) from a weight file or a run's folder."""
  found = _resolve(resolve(path, MODELS))
  if folders.is_weights_folder(found):
    cfg, tree = _from_folder(found, heads)
  else:
    cfg, tree = _from_run(found, heads) if found.is_dir() else _from_file(found, heads)
  if positions is not None and positions != cfg.encoder.positions:
    table = tree["params"]["positions"]
    tree["params"]["positions"] = table | {"time": resize_time_table(table["time"], positions)}
    cfg = dataclasses.replace(cfg, encoder=dataclasses.replace(cfg.encoder, positions=positions))
  return cfg, jax.tree.map(jnp.asarray, tree)


def _from_run(step: Path, heads: int | None) -> tuple[DashengConfig, dict]:
  cfg, tree = read_checkpoint(step)
  if heads is not None and heads != cfg.encoder.heads:
    raise WeightsError(f"{step}: this run has {cfg.encoder.heads} heads; leave heads={heads} out")
  return cfg, tree


def _from_folder(folder: Path, heads: int | None) -> tuple[DashengConfig, dict]:
  content = folders.open_content(folder)
  ours = checked(content.get(OURS), folder / folders.CONFIG)
  if ours and ours.get("family") != "dasheng":
    raise WeightsError(f"{folder}: holds a model of family {ours.get('family')!r}, not Dasheng")
  if (folder / folders.STATE).is_dir():
    cfg = config_in(ours, {"dasheng": DashengConfig()}, folder / folders.CONFIG)
    if heads and heads != cfg.encoder.heads:
      raise WeightsError(
        f"{folder}: this model has {cfg.encoder.heads} heads; leave heads={heads} out"
      )
    return cfg, unflatten(
      folders.read_state(folder, encoder_shapes(cfg), folders.arrays_of(folder, ours))
    )
  file = encoder_file(folder, content)
  if file is None:
    raise WeightsError(f"{folder}: not a Dasheng encoder (it holds {first_names(content)})")
  return _from_tensors(file, heads, str(folder))


def _from_file(path: Path, heads: int | None) -> tuple[DashengConfig, dict]:
  return _from_tensors(read_encoder_file(path), heads, str(path))


def _from_tensors(file: EncoderFile, heads: int | None, source: str) -> tuple[DashengConfig, dict]:
  cfg = config_of(file, heads, source)
  check_front_end(file, cfg, source)
  tree = from_torch(
    Arrays(with_counter(file.tensors)),
    encoder_rules(cfg),
    encoder_shapes(cfg),
    ignore=(*map(literal, FRONT_END.values()), *BESIDE),
    source=source,
  )
  return cfg, tree


def encoder_shapes(cfg: DashengConfig) -> Mapping:
  """Shapes of the encoder's variables, with scanned layers; nothing is allocated."""
  cfg = cfg.with_compute(scan=True)
  shapes = jax.eval_shape(functools.partial(init_variables, cfg), jax.random.key(0))
  return {name: shapes[name]["encoder"] for name in ("params", "batch_stats")}


def literal(name: str) -> str:
  """A name as a regular expression."""
  return name.replace(".", r"\.")


def _resolve(path: Path) -> Path:
  if not path.is_dir():
    return path
  for name in EXPORTED:
    if (path / name).is_file():
      return path / name
  if folders.is_weights_folder(path):
    return path
  step = newest_step(path)
  if step is not None:
    return step
  raise WeightsError(
    f"{path}: holds neither {EXPORTED[0]} nor a checkpoint; "
    "pass the folder of a run, or a .pt or .safetensors file"
  )
