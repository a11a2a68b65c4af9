"""Where a source comes from: its digest, and whether it is a published file, untouched.

A name, in a configuration or of a file, proves nothing. A published sha256 does; where none is
known, the published file name or a download by the published name is taken for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dasheng_jax.config import DashengConfig
from dasheng_jax.errors import WeightsError
from dasheng_jax.models import MODELS as DASHENG
from dasheng_jax.weights import folder as folders
from dasheng_jax.weights.download import digest_of
from dasheng_jax.weights.found import Found
from experiments.conversion.source import read_part
from mobile_jax.models import MODELS as MOBILE

_FROM, _SHA = "converted from", "sha256 of the source"
_FIRST_FROM, _FIRST_SHA = "which was converted from", "sha256 of that"


class Origin(NamedTuple):
  """Where a source comes from.

  about: rows for the report, the card and config.json. digest: of the source. name: of the
  published model that the source is, unchanged, or "".
  """

  about: Mapping[str, str]
  digest: str
  name: str


def origin(asked: str, source: Path, found: Found) -> Origin:
  """What is known of a source. asked: as the user wrote it; source: the path that it stands for.

  found: what is converted, so that a changed model is not taken for the published one. Raises
  WeightsError for another file under the name of a published one whose sha256 is known.
  """
  part = read_part(source)
  digest = source_digest(part)
  about = {_FROM: source.name, _SHA: digest}
  earlier = found.earlier
  first = {_FIRST_FROM: earlier.get(_FIRST_FROM) or earlier.get(_FROM)}
  first[_FIRST_SHA] = earlier.get(_FIRST_SHA) or earlier.get(_SHA)
  about |= {key: text for key, text in first.items() if text}
  name = _published(asked, part, digest)
  same = bool(name) and _same_model(found.cfg, _models()[name].config)
  return Origin(about, digest, name if same else "")


def source_digest(part: Path) -> str:
  """The sha256 of a file; of a folder, over the name and the sha256 of each file that is read."""
  if part.is_file():
    return digest_of(part)
  whole = hashlib.sha256()
  for file in _files_of(part):
    whole.update(f"{file.relative_to(part).as_posix()} {digest_of(file)}\n".encode())
  return whole.hexdigest()


def _files_of(folder: Path) -> Iterator[Path]:
  """What we read of a folder of weights, or of a checkpoint, in the order of their names."""
  weights = folders.is_weights_folder(folder)
  for file in sorted(folder.rglob("*")):
    place = file.relative_to(folder).parts[0]
    read = place in (folders.CONFIG, folders.INDEX, folders.STATE) or place == file.name
    if file.is_file() and (not weights or (read and file.suffix != ".md")):
      yield file


def _models() -> dict[str, Any]:
  return {**MOBILE, **DASHENG}


def _published(asked: str, part: Path, digest: str) -> str:
  """The published model whose file this is, or ""; see the head of this file."""
  models = _models()
  for name, model in models.items():
    if model.sha256 == digest:
      return name
  for name, model in models.items():
    named = part.is_file() and part.name == model.file
    if named and model.sha256 is not None:
      raise WeightsError(
        f"{part}: is not the published file of this name (another sha256); download it again, or "
        "give your own file another name"
      )
    downloaded = not Path(asked).exists() and asked in (name, model.hub)
    if model.sha256 is None and (named or downloaded):
      return name
  return ""


def _same_model(cfg: Any, published: Any) -> bool:
  """Whether a configuration is the published one in all that the weights were made for."""
  if isinstance(cfg, DashengConfig):
    same = isinstance(published, DashengConfig)
    return same and (cfg.encoder, cfg.mel) == (published.encoder, published.mel)
  return bool(cfg.with_compute() == published)
