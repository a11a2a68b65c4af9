"""WebDataset shards: tar files whose members share keys: 0007.flac, 0007.json, 0007.cls."""

import json
import os
from collections.abc import Iterator

from pipelines import crew, files, index
from pipelines.config import DataConfig
from pipelines.decode import AUDIO_SUFFIXES
from pipelines.errors import DataError
from pipelines.files import RangeFile
from pipelines.sources.shard import UNKNOWN, Row, ShardSource
from pipelines.sources.tar_members import KINDS, Cut, Damaged, Member, members

_LABEL_KEYS = ("label", "cls", "class")
_MOST_NOTE_BYTES = 1 << 20


class TarSource(ShardSource):
  """Audio members of tar shards; a .json or .cls member with the same key gives the label.

  The key of a member is its path up to the first dot of the file name. An "id" in the .json member
  replaces it. Nothing is unpacked, so names are only names. Tar files must not be compressed: there
  is no random access into a compressed one.
  """

  kind = "tar"

  def __init__(self, spec: str, paths: list[str], cfg: DataConfig):
    super().__init__(os.path.basename(spec), paths, cfg, scan_tar)


def scan_tar(path: str, size: int) -> Iterator[Row]:
  """Lists the audio members of one tar file; what is no plain file is listed as unusable.

  A member has no more bytes than follow its header, whatever that claims.
  """
  base = os.path.basename(path)
  audio: list[tuple[str, Member]] = []
  notes: dict[str, dict[str, str]] = {}
  end: Row | None = None
  try:
    with files.open_binary(path) as file:
      for member in members(file, size):
        crew.alive()
        key, suffix = _key(member.name)
        if suffix.endswith(AUDIO_SUFFIXES):
          audio.append((key, member))
        elif _is_note(member, size):
          data = files.read_range(path, member.offset, member.size)
          notes.setdefault(key, {}).update(_note(suffix, data))
  except Damaged as error:
    if error.at == 0:
      raise DataError(
        f"{path} is not an uncompressed tar file (no tar header); unpack it first"
      ) from None
    whole = all(m.offset + m.size <= size for _, m in audio)
    if whole or not isinstance(error, Cut):  # else the member that is cut tells of it
      lost = 0 if isinstance(error, Cut) else size - error.at
      end = (f"{base}#end", UNKNOWN, 0, min(error.at, size), lost, "", f"{base} {error}")
  seen: set[str] = set()
  for key, member in audio:
    note = notes.get(key, {})
    reason = f"another recording of {base} has the same name" if key in seen else ""
    seen.add(key)
    frames, rate, found = 0, 0, ""
    if not reason:
      frames, rate, found = _header(path, base, member, size)
    reason = reason or note.get("damage", "") or found
    yield (
      note.get("id", key),
      frames,
      rate,
      member.offset,
      min(member.size, size - member.offset),
      note.get("label", ""),
      reason,
    )
  if end is not None:
    yield end


def _header(path: str, base: str, member: Member, size: int) -> tuple[int, int, str]:
  """(frames, rate, "") of a member, or (0, 0, why it is unusable)."""
  if member.kind != "0":
    return 0, 0, f"is {KINDS.get(member.kind, 'no plain file')} in {base}"
  if member.offset + member.size > size:
    return UNKNOWN, 0, f"{base} ends inside this member"
  if files.is_remote(path):
    data = files.read_range(path, member.offset, member.size)
    return index.header_or_reason(data, member.size)
  with RangeFile(path, member.offset, member.size) as window:
    return index.header_or_reason(window, member.size)


def _is_note(member: Member, size: int) -> bool:
  """Whether a member may describe audio and can be read."""
  small = member.size < _MOST_NOTE_BYTES and member.offset + member.size <= size
  return member.kind == "0" and small and member.name.endswith((".json", ".cls"))


def _key(name: str) -> tuple[str, str]:
  folder, _, base = name.removeprefix("./").rpartition("/")
  stem, dot, suffix = base.partition(".")
  return (f"{folder}/{stem}" if folder else stem), (dot + suffix).lower()


def _note(suffix: str, data: bytes) -> dict[str, str]:
  """What a member tells, label and id; "damage" where it cannot be read."""
  text = data.decode("utf-8", "replace").strip()
  if suffix.endswith(".cls"):
    return {"label": text}
  try:
    fields = json.loads(text)
  except (ValueError, RecursionError) as error:
    return {"damage": f"its .json is not JSON: {getattr(error, 'msg', '') or 'too deep or large'}"}
  if not isinstance(fields, dict):
    return {}
  labels = [str(fields[k]) for k in _LABEL_KEYS if isinstance(fields.get(k), str | int)]
  note = {"label": labels[0]} if labels else {}
  if isinstance(fields.get("id"), str):
    note["id"] = fields["id"]
  return note
