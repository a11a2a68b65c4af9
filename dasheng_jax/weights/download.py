"""One file from the web to the disk: resumed where it stopped, verified, there whole or not at all.

The file grows as FILE.partial, beside a note of what it is a part of, and takes its name once it is
complete. Processes that want the same file share the partial one through the kernel's lock on it:
the second waits, and then finds the file. A lock file made with O_EXCL would outlive a process that
is killed and need a guess at its age; the kernel's lock ends with its holder. Where there is no
such lock (some network disks) each process fills a partial file of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.web import Failed, Passing, Reply, ask

# Tries in a row that bring nothing new, after the first one.
RETRIES = 3
# Before the first of them; doubled before each further one.
BACKOFF_SECONDS = 1.0
# The longest wait that a server may ask for.
PATIENCE_SECONDS = 60.0
QUIET_SECONDS = 2.0
HASH = "sha256"
ROOM = "make room there, or let DASHENG_JAX_CACHE name another folder"


class Wanted(NamedTuple):
  """A file to be had: sha256 and size (bytes) as published, where they are known."""

  url: str
  path: Path
  sha256: str | None = None
  size: int | None = None


def download(want: Wanted) -> None:
  """Brings a file to its path by way of `path`.partial, which a later call continues.

  Without a published sha256 the one of what was received is written to `path`.sha256, in the format
  of the tool sha256sum. Raises WeightsError, in one line with the way out, when the file cannot be
  had, is another one, or cannot be kept.
  """
  from urllib.parse import urlsplit

  path, address = want.path, urlsplit(want.url)
  if address.scheme not in ("http", "https") or not address.hostname:
    raise WeightsError(f"{path.name}: {want.url!r} is no http or https address")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _claimed(path) as partial:
      if partial is None:
        return
      print(f"downloading {path.name} from {address.hostname} to {path.parent}", file=sys.stderr)
      digest = _received(want, partial)
      if want.sha256 is None:
        record_of(path).write_text(f"{digest}  {path.name}\n")
      os.fsync(partial.fileno())
      os.replace(partial.name, path)
      _note_of(partial).unlink(missing_ok=True)
  except Failed as problem:
    raise WeightsError(f"{path.name}: {problem}; {by_hand(want)}") from None
  except OSError as problem:
    reason = problem.strerror or type(problem).__name__
    raise WeightsError(
      f"{problem.filename or path}: cannot be written ({reason}); {ROOM}"
    ) from None


def by_hand(want: Wanted) -> str:
  """What to do where no download is possible."""
  return f"get it from {want.url} in another way and put it at {want.path}"


def record_of(path: Path) -> Path:
  """The file that keeps the sha256 of a downloaded one."""
  return path.with_name(f"{path.name}.{HASH}")


def digest_of(path: str | os.PathLike) -> str:
  """The sha256 of a file, in hexadecimal digits."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, HASH).hexdigest()


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[IO[bytes] | None]:
  """The partial file, open for appending, that no one else writes; None once `path` is there."""
  shared = path.with_name(f"{path.name}.partial")
  while True:
    with open(shared, "a+b") as partial:
      if not _lock(partial, path):
        break
      # While we waited, what we hold open may have been completed and renamed, or removed.
      current = _is_at(partial, shared)
      if path.exists():
        if current:
          shared.unlink()
        yield None
        return
      if current:
        try:
          yield partial
        finally:  # of a file that could not be had, nothing is left behind
          if _size(partial) == 0 and _is_at(partial, shared):
            shared.unlink()
            _note_of(partial).unlink(missing_ok=True)
        return
  if shared.stat().st_size == 0:
    shared.unlink()
  with open(path.with_name(f"{path.name}.{os.getpid()}.partial"), "a+b") as alone:
    yield alone


def _lock(file: IO[bytes], path: Path) -> bool:
  """Waits for the only lock on an open file; False where the system has none."""
  import fcntl

  try:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(f"another process downloads {path.name}; waiting for it", file=sys.stderr)
      fcntl.flock(file, fcntl.LOCK_EX)
  except OSError:
    return False
  return True


def _is_at(file: IO[bytes], path: Path) -> bool:
  """Whether an open file still lies at a path."""
  try:
    return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
  except FileNotFoundError:
    return False


def _received(want: Wanted, partial: IO[bytes]) -> str:
  """Completes the partial file; its sha256."""
  while True:
    had = _size(partial)
    _fill(want, partial)
    got, digest = _size(partial), digest_of(partial.name)
    if want.sha256 in (None, digest) and want.size in (None, got):
      return digest
    partial.truncate(0)
    # The part of an earlier call may be to blame; what came in one piece is what the server has.
    if not had:
      is_, was = (
        (digest, want.sha256) if want.sha256 else (f"{got:,} bytes", f"{want.size:,} bytes")
      )
      raise Failed(f"{want.url} holds another file ({is_}) than was published ({was})")


def _fill(want: Wanted, partial: IO[bytes]) -> None:
  """Appends to the partial file until it is whole, over as many connections as that takes."""
  tries, most = 0, -1
  with _Meter(want.path.name) as meter:
    while True:
      try:
        return _attempt(want, partial, meter)
      except Passing as problem:
        if problem.restart:
          partial.truncate(0)
        have = _size(partial)
        if have > most:
          tries, most = 0, have
        if tries == RETRIES:
          kept = f" ({have / 1e6:,.1f} MB are kept for the next call)" if have else ""
          raise Failed(f"{problem}{kept}") from None
        wait = BACKOFF_SECONDS * 2**tries if problem.wait is None else problem.wait
        wait = min(wait, PATIENCE_SECONDS)
        tries += 1
        print(f"{want.path.name}: {problem}; trying again in {wait:g} s", file=sys.stderr)
        time.sleep(wait)


def _attempt(want: Wanted, partial: IO[bytes], meter: _Meter) -> None:
  """One request, from where the partial file ends, and all that it brings."""
  have, validator = _resumable(want, partial)
  with ask(want.url, have, validator) as reply:
    _check(want, reply)
    if reply.begin == 0:
      partial.truncate(0)
      note = {"url": want.url, "validator": reply.validator}
      _note_of(partial).write_text(json.dumps(note))
    meter.start(reply.begin, reply.total)
    try:
      for chunk in reply.chunks:
        partial.write(chunk)
        meter.add(len(chunk))
    finally:
      partial.flush()
  got = _size(partial)
  if reply.total is not None and got < reply.total:
    raise Passing(f"the connection ended after {got:,} of {reply.total:,} bytes")


def _resumable(want: Wanted, partial: IO[bytes]) -> tuple[int, str]:
  """(bytes to keep, the server's mark of the version that they are of).

  Nothing is kept where neither that mark nor a published sha256 could tell two versions of the file
  apart.
  """
  try:
    note = json.loads(_note_of(partial).read_text())
    url, validator = note["url"], str(note["validator"])
  except (OSError, ValueError, LookupError, TypeError):
    return 0, ""
  if url != want.url or not (validator or want.sha256):
    return 0, ""
  return _size(partial), validator


def _check(want: Wanted, reply: Reply) -> None:
  """Refuses before a byte is written what cannot be the file, or cannot be kept."""
  if reply.page:
    raise Failed("the server sends a web page in its place (a proxy's, or one to sign in?)")
  if not reply.framed and want.sha256 is None and want.size is None:
    raise Failed("the server does not say how long it is, so a part could pass for the whole")
  if want.size is not None and reply.total not in (None, want.size):
    raise Failed(f"the server has {reply.total:,} bytes of it, published are {want.size:,}")
  folder = want.path.parent
  free, needed = shutil.disk_usage(folder).free, (reply.total or 0) - reply.begin
  if free < needed:
    raise WeightsError(
      f"{want.path.name}: needs {needed / 1e6:,.0f} MB, {folder} has {free / 1e6:,.0f} MB free; "
      f"{ROOM}"
    )


def _size(file: IO[bytes]) -> int:
  return os.fstat(file.fileno()).st_size


def _note_of(partial: IO[bytes]) -> Path:
  return Path(f"{partial.name}.json")


class _Meter:
  """Megabytes, rate and time left on standard error; silent for the first seconds.

  `pipelines.progress` is like it, but model packages do not use `pipelines`.
  """

  def __init__(self, name: str):
    self.name, self.done = name, 0
    self.total: int | None = None
    self._received = 0
    self._begin = time.monotonic()
    self._due = self._begin + QUIET_SECONDS
    self._shown = False

  def start(self, done: int, total: int | None) -> None:
    self.done, self.total = done, total

  def add(self, count: int) -> None:
    self.done += count
    self._received += count
    if time.monotonic() >= self._due:
      self._show()
      self._due = time.monotonic() + (0.5 if sys.stderr.isatty() else 15.0)

  def line(self) -> str:
    """Such as "dasheng_base.pt: 120.0/341.9 MB, 11.2 MB/s, 20 s left"."""
    rate = self._received / max(1e-9, time.monotonic() - self._begin)
    whole = "" if self.total is None else f"/{self.total / 1e6:,.1f}"
    text = f"{self.name}: {self.done / 1e6:,.1f}{whole} MB, {rate / 1e6:,.1f} MB/s"
    left = 0 if self.total is None else self.total - self.done
    if not left or not rate:
      return text
    minutes, seconds = divmod(int(left / rate + 0.5), 60)
    return f"{text}, {f'{minutes:,} min ' if minutes else ''}{seconds} s left"

  def _show(self) -> None:
    self._shown = True
    line = f"\r{self.line()}\033[K" if sys.stderr.isatty() else f"{self.line()}\n"
    sys.stderr.write(line)
    sys.stderr.flush()

  def __enter__(self) -> _Meter:
    return self

  def __exit__(self, *exc: object) -> None:
    if self._shown:
      self._show()
      if sys.stderr.isatty():
        sys.stderr.write("\n")
