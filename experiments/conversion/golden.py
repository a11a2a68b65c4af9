"""Golden outputs on disk: a wave, what the original makes of it stage by stage, and who made it.

One `.npz` or `.safetensors` file: "wave" f32[b, s], any of the stages of `stages.stage_names` under
their names and in the original's layout, and "about", a JSON text (in safetensors among the notes).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.config_json import parsed_json
from dasheng_jax.weights.safetensors_file import read_safetensors, write_safetensors
from experiments.conversion.parity import Report, compare
from experiments.conversion.stages import Config, Stages, family, stages

ABOUT, WAVE = "about", "wave"
# Fields of a configuration that do not change what an encoder or a network computes of a wave.
_WITHOUT_EFFECT = (
  *("compute", "decoder", "decoder_init", "position_init", "mask_ratio", "mask_group"),
  *("target_norm", "bn_gradient", "padding", "dropout", "transform"),
)
# A header that lies may ask for more memory than there is.
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError)
# Files hold a few seconds of audio; a header that claims more would only fill the memory.
_MOST_BYTES = 8 * 2**30


class About(NamedTuple):
  """Where golden outputs come from.

  family: "dasheng", "mn" or "dymn". made_by: the package and its version, as "dasheng 0.0.9, torch
  2.11.0". size: a model's name, if it has one. config: our configuration as `config_record` gives
  it. sha256: of the weight file.
  """

  family: str
  made_by: str
  size: str = ""
  config: Mapping[str, Any] = {}
  sha256: str = ""


class Golden(NamedTuple):
  """What a golden file holds."""

  wave: np.ndarray
  stages: Stages
  about: About


def config_record(cfg: Config) -> dict[str, Any]:
  """A configuration as JSON knows it."""
  return json.loads(json.dumps(dataclasses.asdict(cfg)))


def write_golden(
  path: str | os.PathLike,
  wave: Float[np.ndarray, "b s"],
  stages: Mapping[str, np.ndarray],
  about: About,
) -> None:
  """Writes a golden file, whole or not at all; the suffix decides between the two formats."""
  path = Path(path)
  arrays = {WAVE: wave, **stages}
  arrays = {name: np.ascontiguousarray(x, np.float32) for name, x in arrays.items()}
  text = json.dumps({**about._asdict(), "digest": _digest(arrays)})
  if _suffix(path) == ".safetensors":
    write_safetensors(path, arrays, {ABOUT: text})
    return
  temporary = path.with_name(path.name + ".partial")
  try:
    with temporary.open("wb") as file:
      np.savez(file, allow_pickle=False, **{ABOUT: np.array(text)}, **arrays)  # type: ignore[arg-type]
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def read_golden(path: str | os.PathLike) -> Golden:
  """Reads a golden file; WeightsError where it is absent, damaged or something else.

  Nothing in the file is ever unpickled.
  """
  path = Path(path)
  suffix = _suffix(path)
  if not path.is_file():
    raise WeightsError(f"{path}: no such golden file; make one with write_golden")
  if suffix == ".safetensors":
    arrays, notes = read_safetensors(path)
    text = notes.get(ABOUT)
  else:
    arrays = _read_npz(path)
    text = str(arrays.pop(ABOUT)) if ABOUT in arrays else None
  about, digest = _parsed(text, path)
  if WAVE not in arrays or len(arrays) == 1:
    held = ", ".join(list(arrays)[:4]) or "nothing"
    raise WeightsError(f"{path}: not a golden file: it needs 'wave' and a stage, and holds {held}")
  for name, x in arrays.items():
    if x.dtype.kind != "f":
      raise WeightsError(f"{path}: not a golden file: {name} is {x.dtype}, not float32")
  if digest and digest != _digest(arrays):
    raise WeightsError(f"{path}: damaged: its contents differ from its digest; fetch it again")
  arrays = {name: x.astype(np.float32, copy=False) for name, x in arrays.items()}
  wave = arrays.pop(WAVE)
  if wave.ndim != 2 or not wave.size or not np.isfinite(wave).all():
    raise WeightsError(f"{path}: its wave of shape {wave.shape} is no batch of finite samples")
  return Golden(wave, arrays, about)


def check(
  cfg: Config, variables: Mapping, path: str | os.PathLike, tolerance: float | None = None
) -> Report:
  """Runs our model on a golden file's wave and compares every stage that the file holds.

  Raises WeightsError for a file that is damaged, or of another family.
  """
  golden = read_golden(path)
  about = golden.about
  if about.family != family(cfg):
    raise WeightsError(
      f"{path}: golden outputs of a {about.family} model, and this is {family(cfg)}; "
      "pass a file made with the same model"
    )
  notes = [f"golden outputs by {about.made_by}"]
  apart = differences(about.config, config_record(cfg))
  notes += [f"the configurations differ in {what}" for what in apart]
  return compare(stages(cfg, variables, golden.wave), golden.stages, tolerance, notes)


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> list[str]:
  """Fields with an effect on the outputs that two records hold differently, as text.

  A field that one of them lacks does not count: records may be short.
  """
  found = []
  for name in ours:
    if name in _WITHOUT_EFFECT or name not in theirs or theirs[name] == ours[name]:
      continue
    if isinstance(ours[name], Mapping) and isinstance(theirs[name], Mapping):
      found += differences(theirs[name], ours[name], f"{prefix}{name}.")
    else:
      found.append(f"{prefix}{name}: {theirs[name]} there, {ours[name]} here")
  return found


def _suffix(path: Path) -> str:
  if path.suffix not in (".npz", ".safetensors"):
    raise WeightsError(f"{path}: golden files end in .npz or .safetensors")
  return path.suffix


def _read_npz(path: Path) -> dict[str, np.ndarray]:
  try:
    with zipfile.ZipFile(path) as archive:
      claimed = sum(member.file_size for member in archive.infolist())
    if claimed > _MOST_BYTES:
      raise WeightsError(f"{path}: refused: it claims {claimed / 2**30:.0f} GiB of arrays")
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name] for name in file.files}
  except WeightsError:
    raise
  except _DAMAGE as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    raise WeightsError(f"{path}: not a readable golden file ({reason}); fetch it again") from None


def _parsed(text: str | None, path: Path) -> tuple[About, str]:
  """(about, digest) of the JSON text."""
  try:
    told = parsed_json(text or "")
    digest = str(told.pop("digest", ""))
    about = About(**{name: told[name] for name in About._fields if name in told})
    sound = all(isinstance(getattr(about, n), str) for n in About._fields if n != "config")
    if sound and isinstance(about.config, Mapping):
      return about, digest
  except (ValueError, TypeError, AttributeError):
    pass
  raise WeightsError(
    f"{path}: not a golden file: it does not say what it is about (family, made_by)"
  )


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
  """sha256 over names, types, shapes and values, since safetensors files have no checksum."""
  total = hashlib.sha256()
  for name in sorted(arrays):
    x = arrays[name]
    total.update(f"{name} {x.dtype} {x.shape}\n".encode())
    total.update(np.ascontiguousarray(x).tobytes())
  return total.hexdigest()
