"""A file that is only appended to, in pieces that stand in it whole."""

import contextlib
import os
import pathlib


class WholeFile:
  """Appends to the file at `path`; with `anew` it starts empty.

  Every piece reaches the system at once. One that cannot be written, as on a full disk, is taken
  back as far as it got and kept: it goes before the next piece, so that nothing is lost or torn
  where the caller decides to go on.
  """

  def __init__(self, path: str | os.PathLike, *, anew: bool = False):
    # Whole pieces are its affair: a buffer would write what is left of one when it likes.
    self._file = pathlib.Path(path).open("wb" if anew else "ab", buffering=0)  # noqa: SIM115
    self._size = os.fstat(self._file.fileno()).st_size
    self._kept = b""

  def write(self, piece: bytes) -> None:
    """Appends what was kept, and the piece. Raises OSError where the system does not take it."""
    self._kept += piece
    written = 0
    try:
      while written < len(self._kept):
        written += self._file.write(self._kept[written:])
    except OSError:
      with contextlib.suppress(OSError):
        self._file.truncate(self._size)
        self._file.seek(self._size)
      raise
    self._size += written
    self._kept = b""

  def close(self) -> None:
    """Ends the file, with a last try for what was kept."""
    try:
      if self._kept:
        self.write(b"")
    finally:
      self._file.close()
