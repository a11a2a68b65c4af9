"""The members of a tar file, read with nothing but bounded reads and steps that only go forward.

Written for files that nobody vouches for: Python's own reader takes sizes from a header at their
word, ends silently at the first damaged header, and versions of it have looped or backtracked for
ever on crafted ones. Understood are ustar, GNU and pax archives (POSIX.1-2017, pax, "ustar
Interchange Format"; GNU tar manual, "Basic Tar Format"). Nothing is ever unpacked.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

BLOCK = 512
_EMPTY = bytes(BLOCK)
_MOST_HEADER_BYTES = 1 << 20  # of a long name or of pax records
_FILES = "0\x007"
_WITHOUT_DATA = "123456"
# Kinds of members that are no plain files, for messages.
KINDS = {
  "1": "a link to another member",
  "2": "a symbolic link",
  "3": "a device",
  "4": "a device",
  "5": "a folder",
  "6": "a pipe",
  "S": "a sparse file",
}


@runtime_checkable
class Seekable(Protocol):
  """What is asked of a file: local, remote or in memory."""

  def seek(self, offset: int, /) -> object:
    """Moves to a byte counted from the start."""
    ...

  def read(self, size: int, /) -> bytes:
    """At most that many bytes."""
    ...


class Member(NamedTuple):
  """One member: its name, "0" for a plain file or the letter of its kind, where its data lie."""

  name: str
  kind: str
  offset: int
  size: int


class Damaged(ValueError):
  """The archive cannot be read on; `at` is the byte where it cannot, the text says why."""

  def __init__(self, at: int, reason: str):
    self.at = at
    super().__init__(reason)


class Cut(Damaged):
  """The archive ends without its end mark."""


def members(file: Seekable, size: int) -> Iterator[Member]:
  """Every member in order, up to the end mark. Data of the last one may lie beyond the file's end.

  Args:
    file: seekable; where it stands between two members does not matter.
    size: of the file in bytes.

  Raises:
    Damaged: a header is damaged, or something follows the end mark.
    Cut: the file ends before the end mark.
  """
  at = 0
  long_name: str | None = None
  pax: dict[str, str] = {}
  while True:
    if at + BLOCK > size:
      raise Cut(at, "has no end mark; its last members may be missing")
    block = _read(file, at, BLOCK)
    if block == _EMPTY:
      _check_end(file, at)
      return
    if not _sum_agrees(block):
      raise Damaged(at, f"is damaged at byte {at}")
    kind, length = chr(block[156]), _number(block[124:136], at)
    data = at + BLOCK
    if kind in "LKxXg":
      content = _extra(file, data, length, size, at)
      if kind == "L":
        long_name = _text(content.split(b"\0", 1)[0])
      elif kind in "xX":
        pax = _records(content, at)
      at = data + _rounded(length)
      continue
    name = long_name or pax.get("path") or _name(block, kind)
    if not name:  # the checksum is a mere sum: it does not see bytes that changed places
      raise Damaged(at, f"is damaged at byte {at}")
    if "size" in pax:
      length = _decimal(pax["size"], at)
    if kind == "S":
      data = _past_sparse_map(file, data, block[482], size)
    elif any(key.startswith("GNU.sparse") for key in pax):
      kind = "S"
    folder = kind == "\0" and name.endswith("/")  # as archives older than the standard say it
    empty = kind in _WITHOUT_DATA
    # An unknown kind is to be taken for a file, says the standard, but it is named as what it is.
    shown = "5" if folder else "0" if kind in _FILES else kind
    yield Member(name, shown, data, 0 if empty else length)
    at = data + (0 if empty else _rounded(length))
    long_name, pax = None, {}


def _read(file: Seekable, at: int, size: int) -> bytes:
  file.seek(at)
  return file.read(size)


def _extra(file: Seekable, at: int, length: int, size: int, header: int) -> bytes:
  """What stands behind a header that only describes the next one."""
  if length > _MOST_HEADER_BYTES:
    raise Damaged(header, f"claims {length} bytes for a name at byte {header}")
  if at + length > size:
    raise Cut(header, "has no end mark; its last members may be missing")
  return _read(file, at, length)


def _check_end(file: Seekable, at: int) -> None:
  """Damaged where anything but zeros follows: a block that was wiped out looks like the end."""
  file.seek(at)
  while data := file.read(BLOCK << 7):
    if data.count(0) != len(data):
      raise Damaged(at, f"goes on behind its end mark at byte {at}")


def _sum_agrees(block: bytes) -> bool:
  """The header's checksum: the sum of its bytes with blanks for itself; some took them signed."""
  try:
    stated = _number(block[148:156], 0)
  except Damaged:
    return False
  rest = block[:148] + b" " * 8 + block[156:]
  plain = sum(rest)
  return stated in (plain, plain - 256 * sum(byte > 127 for byte in rest))


def _number(field: bytes, at: int) -> int:
  """Octal text, or the GNU form: the high bit set, and a big-endian number behind it."""
  if field[0] == 0x80:
    return int.from_bytes(field[1:], "big")
  text = field.split(b"\0", 1)[0].strip()
  if not text:
    return 0
  if not all(48 <= byte < 56 for byte in text):
    raise Damaged(at, f"is damaged at byte {at}")
  return int(text, 8)


def _decimal(text: str, at: int) -> int:
  if not (text.isascii() and text.isdecimal() and len(text) < 20):
    raise Damaged(at, f"is damaged at byte {at}")
  return int(text)


def _records(content: bytes, at: int) -> dict[str, str]:
  """Records of a pax header: "LENGTH KEY=VALUE" and a line end, each as long as it says."""
  found = {}
  start = 0
  while start < len(content) and content[start]:
    blank = content.find(b" ", start, start + 20)
    length = _decimal(_text(content[start:blank]), at) if blank > start else 0
    record = content[blank + 1 : start + length]
    key, equals, value = record.partition(b"=")
    if length < 5 or start + length > len(content) or not equals or not value.endswith(b"\n"):
      raise Damaged(at, f"is damaged at byte {at}")
    found[_text(key)] = _text(value[:-1])
    start += length
  return found


def _name(block: bytes, kind: str) -> str:
  name, prefix = (_text(part.split(b"\0", 1)[0]) for part in (block[:100], block[345:500]))
  return f"{prefix}/{name}" if prefix and kind != "S" else name


def _past_sparse_map(file: Seekable, at: int, more: int, size: int) -> int:
  """Where the data of an old GNU sparse member begin: behind the blocks that go on with its map."""
  while more and at + BLOCK <= size:
    more = _read(file, at, BLOCK)[504]
    at += BLOCK
  return at


def _rounded(length: int) -> int:
  return -(-length // BLOCK) * BLOCK


def _text(data: bytes) -> str:
  return data.decode("utf-8", "surrogateescape")
