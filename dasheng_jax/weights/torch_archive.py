"""A `.pt` file from outside: what kind of file it is, whether it is whole, why it is refused.

New files are zip archives, which hold a CRC-32 of every member. Old ones are pickles one behind the
other and have no checksum. Nothing here needs PyTorch or runs anything of a file.
"""

from __future__ import annotations

import hashlib
import io
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.config_json import shown

Kind = Literal["zip", "pickle"]
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
# What PyTorch's own pickles of tensors name.
_TENSORS = re.compile(
  r"torch(\._utils\._rebuild_\w+|\.\w+Storage|\.storage\.\w+|\.Size|\.device|\.nn\.parameter\.\w+"
  r"|\.(float|bfloat|u?int|bool|complex)\w*|\.serialization\._get_layout)|collections\.OrderedDict"
)
# A pickle that holds tensors' names and places is small; what lies behind is not looked at.
_LONGEST_PROGRAM = 1 << 26


def kind_of(path: Path) -> Kind:
  """Which of PyTorch's formats a file has; WeightsError for one that has none."""
  try:
    with path.open("rb") as file:
      head = file.read(9)
    if zipfile.is_zipfile(path):
      return "zip"
    if head[:1] == _PICKLE:
      return "pickle"
    reason = "it is neither a zip archive nor a pickle"
    if not head:
      reason = "it is empty"
    elif head[:4] == _ZIP:
      reason = "its end is missing"
    elif is_safetensors(path):
      raise WeightsError(
        f"{path}: not a readable PyTorch file but a safetensors file; "
        "let its name end in .safetensors"
      )
  except OSError as error:
    reason = error.strerror or type(error).__name__
  raise WeightsError(f"{path}: not a readable PyTorch file ({reason}); download it again")


def is_safetensors(path: Path) -> bool:
  """Whether a file starts as a .safetensors file does: the length of its header, and `{`."""
  with path.open("rb") as file:
    head = file.read(9)
  return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size


def is_torch(path: Path) -> bool:
  """Whether a file starts as a .pt file does."""
  with path.open("rb") as file:
    return file.read(4) == _ZIP


def verified(path: Path) -> bool:
  """Reads a zip archive against its checksums; whether all of it is stored as it is.

  WeightsError for a damaged one, or one that holds two members of one name.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      members = archive.infolist()
      names = [member.filename for member in members]
      if len(set(names)) < len(names):
        raise WeightsError(f"{path}: holds several members of one name; download it again")
      wrong = archive.testzip()
  except WeightsError:
    raise
  except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    raise WeightsError(
      f"{path}: not a readable PyTorch file ({reason}); download it again"
    ) from None
  if wrong:
    raise WeightsError(f"{path}: damaged: the checksum of {wrong} is wrong; download it again")
  return all(member.compress_type == zipfile.ZIP_STORED for member in members)


def archive_digest(path: Path) -> str:
  """A sha256 that tells one archive from another: over names, sizes and checksums of its members.

  "" for a file that is no archive. It reads the archive's directory alone.
  """
  if not zipfile.is_zipfile(path):
    return ""
  with zipfile.ZipFile(path) as archive:
    members = [(m.filename, m.file_size, m.CRC) for m in archive.infolist()]
  return hashlib.sha256(repr(members).encode()).hexdigest()


def refusal(path: Path, reason: str) -> str:
  """Why PyTorch's restricted loader refused a pickle: what it asks for, and under which key.

  reason: the loader's own words, which advise to allow the name and so to run it.
  """
  named = re.search(r"GLOBAL ([\w.]+) was not an allowed", reason)
  name, key = _foreign_name(path, named[1] if named else "")
  what = "it holds more than tensors and plain values"
  if name:
    what = f"it asks for {name}" + (f" under the key {shown(key)}" if key else "")
  return (
    f"{path}: refused, since loading it would run code of the file ({what}); "
    "re-save its state dict alone with torch.save(model.state_dict(), FILE)"
  )


def _foreign_name(path: Path, wanted: str) -> tuple[str, str]:
  """(module.name that no tensor needs, text before it), both "" where there is none.

  wanted: the name that PyTorch refused, where it said so; else the first that no tensor needs.
  """
  try:
    for program in _programs(path):
      texts = [""]
      for code, value, _ in pickletools.genops(program):
        if "UNICODE" in code.name:
          texts = [*texts[-2:], str(value)]
        elif code.name in ("GLOBAL", "STACK_GLOBAL"):
          text = code.name == "GLOBAL"
          full = str(value).replace(" ", ".", 1) if text else ".".join(texts[-2:])
          if full == wanted or (not wanted and not _TENSORS.fullmatch(full)):
            return full, texts[-1] if text else texts[0]
  except Exception:  # a hint for the message alone, from a file that is not to be trusted
    pass
  return wanted, ""


def _programs(path: Path) -> Iterator[io.BytesIO]:
  """The pickles of a file; of one without an archive those at its beginning."""
  if zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as archive:
      member = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
      yield io.BytesIO(archive.read(member))
    return
  with path.open("rb") as file:
    whole = io.BytesIO(file.read(_LONGEST_PROGRAM))
  # Two numbers and the system's settings stand before the contents.
  for _ in range(5):
    yield whole
