"""WebDataset shards: tar files whose members share keys: 0007.flac, 0007.json, 0007.cls."""

import json
import os
import tarfile
from collections.abc import Iterator

from pipelines import files, index
from pipelines.config import DataConfig
from pipelines.decode import AUDIO_SUFFIXES
from pipelines.errors import DataError
from pipelines.files import RangeFile
from pipelines.sources.shard import Row, ShardSource

_LABEL_KEYS = ("label", "cls", "class")


class TarSource(ShardSource):
  """Audio members of tar shards; a .json or .cls member with the same key gives the label.

  The key of a member is its path up to the first dot of the file name. An "id" in the .json member
  replaces it. Tar files must not be compressed: there is no random access into a compressed one.
  """

  kind = "tar"

  def __init__(self, spec: str, paths: list[str], cfg: DataConfig):
    super().__init__(os.path.basename(spec), paths, cfg, scan_tar)


def scan_tar(path: str, size: int) -> Iterator[Row]:
  """Lists the audio members of one tar file."""
  audio: dict[str, tarfile.TarInfo] = {}
  notes: dict[str, dict] = {}
  for member, data in _members(path, size):
    key, suffix = _key(member.name)
    if suffix.endswith(AUDIO_SUFFIXES):
      audio.setdefault(key, member)
    elif data is not None:
      notes.setdefault(key, {}).update(_note(path, member.name, suffix, data))
  for key, member in audio.items():
    note = notes.get(key, {})
    offset, length = member.offset_data, member.size
    if offset + length > size:
      frames, rate, reason = 0, 0, f"{os.path.basename(path)} ends inside this member"
    elif files.is_remote(path):
      data = files.read_range(path, offset, length)
      frames, rate, reason = index.header_or_reason(data, length)
    else:
      window = RangeFile(path, offset, length)
      frames, rate, reason = index.header_or_reason(window, length)
      window.close()
    yield (note.get("id", key), frames, rate, offset, length, note.get("label", ""), reason)
  whole = all(m.offset_data + m.size <= size for m in audio.values())
  if whole and any(files.read_range(path, max(0, size - tarfile.BLOCKSIZE), tarfile.BLOCKSIZE)):
    # Cut between two members: what is missing left no trace but this.
    name = os.path.basename(path)
    yield f"{name}#end", 0, 0, 0, 0, "", f"{name} has no end mark; its last members may be missing"


def _members(path: str, size: int) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
  """Members in order, with the content of the small ones that describe audio."""
  try:
    with files.open_binary(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
      while (member := tar.next()) is not None:
        if not member.isfile():
          continue
        small = member.name.endswith((".json", ".cls")) and member.size < 1 << 20
        at = file.tell()
        data = files.read_range(path, member.offset_data, member.size) if small else None
        file.seek(at)
        yield member, data
        tar.members = []  # type: ignore[attr-defined]  # tarfile remembers every member, which a scan has no use for
  except tarfile.ReadError as error:
    if size == 0:
      raise DataError(f"{path} is empty; delete it or copy it again") from None
    if "unexpected end of data" in str(error):  # members before the cut were listed
      return
    raise DataError(f"{path} is not an uncompressed tar file ({error}); unpack it first") from None


def _key(name: str) -> tuple[str, str]:
  folder, _, base = name.removeprefix("./").rpartition("/")
  stem, dot, suffix = base.partition(".")
  return (f"{folder}/{stem}" if folder else stem), (dot + suffix).lower()


def _note(path: str, member: str, suffix: str, data: bytes) -> dict[str, str]:
  text = data.decode("utf-8", "replace").strip()
  if suffix.endswith(".cls"):
    return {"label": text}
  try:
    fields = json.loads(text)
  except json.JSONDecodeError as error:
    raise DataError(f"{path}: member {member} is not JSON: {error.msg}") from None
  if not isinstance(fields, dict):
    return {}
  labels = [str(fields[k]) for k in _LABEL_KEYS if isinstance(fields.get(k), str | int)]
  note = {"label": labels[0]} if labels else {}
  if isinstance(fields.get("id"), str):
    note["id"] = fields["id"]
  return note
