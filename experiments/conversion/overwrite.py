"""Where a conversion may write: what must not be there yet, and what of it may be replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast, get_args

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights import folder as folders
from dasheng_jax.weights.record import OURS, beside, read_json

Kind = Literal["orbax", "safetensors", "torch", "huggingface"]
SUFFIXES = {"safetensors": ".safetensors", "torch": ".pt"}
# Stands in the head of every model card of ours.
LIBRARY = "library_name: dasheng-jax"


def kind_of(dest: Path, asked: str) -> Kind:
  """The kind that --to names, or that the suffix of DEST does; WeightsError where neither does."""
  by_suffix = {suffix: kind for kind, suffix in SUFFIXES.items()}
  kind = asked or by_suffix.get(dest.suffix, "")
  if kind not in get_args(Kind):
    raise WeightsError(f"{dest}: its name tells no kind; pass --to {'|'.join(get_args(Kind))}")
  return cast(Kind, kind)


def check_dest(dest: Path, kind: Kind, overwrite: bool, source: Path | None = None) -> None:
  """WeightsError where DEST cannot be written, or would take away what is not ours.

  --overwrite replaces the named file, what we wrote beside it, and folders with nothing in them but
  what we write. source: where it is a path that exists, which DEST must not touch.
  """
  suffix = SUFFIXES.get(kind)
  if dest.name in ("", ".."):
    raise WeightsError(f"{dest}: write the name of the {'file' if suffix else 'folder'} itself")
  if suffix and dest.suffix != suffix:
    raise WeightsError(f"{dest}: --to {kind} writes one file; end its name in {suffix}")
  if not suffix and dest.suffix in SUFFIXES.values():
    raise WeightsError(f"{dest}: --to {kind} writes a folder; leave {dest.suffix} out")
  if source is not None:
    _check_apart(dest.resolve(), source.resolve())
  if suffix:
    _check_file(dest, kind, overwrite)
  else:
    _check_folder(dest, kind, overwrite)
  if not dest.parent.is_dir():
    raise WeightsError(f"{dest.parent}: no such folder; make it first")


def card_of(file: Path) -> Path:
  """The model card of a file."""
  return file.with_name(f"{file.name}.md")


def _check_apart(dest: Path, source: Path) -> None:
  if source.is_relative_to(dest):
    raise WeightsError(f"{dest}: holds SOURCE, which would be lost; choose another DEST")
  if dest.is_relative_to(source):
    raise WeightsError(f"{dest}: lies within SOURCE; choose a DEST outside of it")


def _check_file(dest: Path, kind: Kind, overwrite: bool) -> None:
  if dest.is_dir():
    raise WeightsError(f"{dest}: is a folder, and --to {kind} writes one file; choose another name")
  for file in (dest, beside(dest), card_of(dest)):
    if (file.exists() or file.is_symlink()) and not overwrite:
      raise WeightsError(f"{file}: is there already; pass --overwrite or another name")
  for file, ours in ((beside(dest), _is_our_config), (card_of(dest), _is_our_card)):
    if file.exists() and not ours(file):
      raise WeightsError(f"{file}: is not ours and is not overwritten; choose another DEST")


def _check_folder(dest: Path, kind: Kind, overwrite: bool) -> None:
  if dest.is_symlink():
    raise WeightsError(f"{dest}: is a link, which is not overwritten; write the folder itself")
  if not dest.exists():
    return
  if not dest.is_dir():
    raise WeightsError(f"{dest}: is a file, and --to {kind} writes a folder; choose another name")
  if not overwrite:
    raise WeightsError(f"{dest}: is there already; pass --overwrite or another name")
  entries = sorted(path.name for path in dest.iterdir())
  if not entries:
    return
  # Many folders hold a config.json: only one that we wrote may go.
  if not folders.our_part(dest, folders.read_config(dest)):
    raise WeightsError(f"{dest}: is a folder of something else; it is not overwritten")
  foreign = [name for name in entries if not folders.OWN_ENTRIES.fullmatch(name)]
  state = dest / folders.STATE
  parts = sorted(path.name for path in state.iterdir()) if state.is_dir() else []
  foreign += [f"{folders.STATE}/{name}" for name in parts if not name.isdecimal()]
  if foreign:
    raise WeightsError(
      f"{dest}: holds {foreign[0]}, which we did not write; move it away, or choose another DEST"
    )


def _is_our_config(file: Path) -> bool:
  try:
    return isinstance(read_json(file).get(OURS), dict)
  except WeightsError:
    return False


def _is_our_card(file: Path) -> bool:
  try:
    with file.open(encoding="utf-8", errors="replace") as text:
      return f"---\n{LIBRARY}\n" == text.readline(8) + text.readline(80)
  except OSError:
    return False
