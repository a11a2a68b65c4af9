"""Which recordings proved unusable while they were read: each is noted, and said, once."""

import logging
import threading
from collections.abc import Iterable

_log = logging.getLogger("pipelines")


class Ledger:
  """Unusable recordings of a data set, shared by all who read it and by their threads.

  log: say each in a warning. A caller that names them itself, from `items`, switches it off.
  into: takes note of each as well, such as the ledger of a run, whose data sets each have one.
  """

  def __init__(self, log: bool = True, into: "Ledger | None" = None):
    self._log, self._into = log, into
    self._lock = threading.Lock()
    self._reasons: dict[str, str] = {}
    self._met: dict[str, str] = {}

  def know(self, found: Iterable[tuple[str, str]]) -> None:
    """Takes over what an earlier start of a run found, so that nothing is said again."""
    with self._lock:
      for name, reason in found:
        self._reasons.setdefault(name, reason)

  def add(self, name: str, reason: str) -> list[tuple[str, str]]:
    """Notes a recording; the first time in this process, all that were met in it, else nothing.

    What an earlier start found counts when it is met again: it may have been repaired since.
    """
    with self._lock:
      if name in self._met:
        return []
      self._met[name] = reason
      new = name not in self._reasons
      self._reasons.setdefault(name, reason)
      met = list(self._met.items())
    if self._into is not None:
      self._into.add(name, reason)
    if new and self._log:
      _log.warning("unusable recording %s: %s; left out", name, reason)
    return met

  def items(self) -> list[tuple[str, str]]:
    """(id, reason) in the order of discovery, with those of earlier starts."""
    with self._lock:
      return list(self._reasons.items())
