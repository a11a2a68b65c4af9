"""The recordings that a run cannot use: each is named once, and `unusable.json` lists them all."""

import json
import pathlib
from collections.abc import Sequence

import jax

from experiments.training.metrics import write_json
from pipelines.ledger import Ledger

FILE = "unusable.json"


class Unusable:
  """Unusable recordings of a run in `folder`, over all its starts, training and validation.

  The file is written before each checkpoint, so that a resumed run knows what was found up to it;
  later finds are made again with the steps that are repeated.

  Attributes:
    ledger: of the data sets of the run; it holds what was found while reading.
    skipped: (id, reason) of what was found while indexing, which the run has named already.
  """

  def __init__(self, folder: pathlib.Path, ledger: Ledger, skipped: Sequence[tuple[str, str]] = ()):
    self.path, self.ledger, self.skipped = folder / FILE, ledger, tuple(skipped)
    self._named = 0
    self._written: int | None = None

  def resume(self) -> None:
    """Takes over what earlier starts of the run found; a file that is no list of them is ignored.

    It is a report and no part of the state: what it lost is found again when it is met.
    """
    try:
      rows = json.loads(self.path.read_text(encoding="utf-8"))
      found = [(str(row["recording"]), str(row["reason"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
      return
    known = {name for name, _ in self.skipped}
    self.ledger.know((name, reason) for name, reason in found if name not in known)
    self._named = len(self.ledger.items())

  def all(self) -> tuple[tuple[str, str], ...]:
    """(id, reason) of every one, those of the index first."""
    return (*self.skipped, *self.ledger.items())

  def news(self) -> list[tuple[str, str]]:
    """(id, reason) of what was found while reading since the last call."""
    found = self.ledger.items()[self._named :]
    self._named += len(found)
    return found

  def write(self) -> None:
    """Writes the list, if it has grown since it was last written."""
    rows = [{"recording": name, "reason": reason} for name, reason in self.all()]
    if self._written == len(rows) or jax.process_index() != 0:
      return
    write_json(self.path, rows)
    self._written = len(rows)
