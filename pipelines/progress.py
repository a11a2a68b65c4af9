"""A progress line on stderr for work that takes long: count, rate and time left."""

import sys
import time


class Progress:
  """Counts finished items; stays silent for the first seconds, so short work prints nothing.

  On a terminal the line is rewritten each half second, in a log file a new line comes each 15 s.
  """

  def __init__(self, label: str, total: int, unit: str, quiet_seconds: float = 2.0):
    self.label, self.total, self.unit = label, total, unit
    self.done = 0
    self._skipped = 0
    self._begin = time.monotonic()
    self._due = self._begin + quiet_seconds
    self._every = 0.5 if sys.stderr.isatty() else 15.0
    self._shown = False

  def add(self, count: int = 1) -> None:
    """Notes that `count` more items are done."""
    self.done += count
    if time.monotonic() >= self._due:
      self._show("\r" if sys.stderr.isatty() else "")
      self._due = time.monotonic() + self._every

  def skip(self, count: int) -> None:
    """Notes that `count` items were done before, and must not count as speed."""
    self._skipped += count
    self.done += count

  def line(self) -> str:
    """Such as "indexing audio: 1,200/5,000 files, 412 files/s, 9 s left"."""
    seconds = max(1e-9, time.monotonic() - self._begin)
    rate = (self.done - self._skipped) / seconds
    text = f"{self.label}: {self.done:,}/{self.total:,} {self.unit}, {rate:,.0f} {self.unit}/s"
    if rate > 0 and self.done < self.total:
      text += f", {_clock((self.total - self.done) / rate)} left"
    return text

  def _show(self, start: str) -> None:
    self._shown = True
    end = "\033[K" if start else "\n"
    sys.stderr.write(start + self.line() + end)
    sys.stderr.flush()

  def close(self) -> None:
    """Prints the last line, if any was printed before."""
    if self._shown:
      self._show("\r" if sys.stderr.isatty() else "")
      if sys.stderr.isatty():
        sys.stderr.write("\n")

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, *exc) -> None:
    self.close()


def _clock(seconds: float) -> str:
  seconds = int(seconds + 0.5)
  if seconds < 60:
    return f"{seconds} s"
  if seconds < 3600:
    return f"{seconds // 60} min {seconds % 60:02d} s"
  return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
