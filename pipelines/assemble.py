"""Batches put together in place: threads decode chunks of rows straight into the batch's arrays.

Engines differ only in who waits for the chunks. Chunk c belongs to step c // chunks; each chunk
fills its rows and nothing else, so what a batch holds cannot depend on who was first.
"""

import dataclasses
import os
import threading
from collections.abc import Callable

import numpy as np

from pipelines.crew import Crew, Job
from pipelines.order import Rows
from pipelines.reader import ClipReader, Row

_CHUNK_ROWS = 8  # one call from the engine per this many clips: calls are cheap next to decoding


@dataclasses.dataclass
class Pending:
  """A batch that is being filled."""

  rows: Rows
  wave: np.ndarray
  found: list[Row | None]
  error: BaseException | None = None


class Assembler:
  """Fills the batches of one host.

  Args:
    reader: reads clips.
    plan: the clips of this host's rows of a step.
    rows: rows per batch on this host.
    start_step, stop_step: the steps to make; stop None means without end.
    blank: evaluation: leave unusable clips and padding out, and hand over "mask".
    samples: of the rows of a step; None: those of the configured clip.
  """

  def __init__(
    self,
    reader: ClipReader,
    plan: Callable[[int], Rows],
    rows: int,
    start_step: int,
    stop_step: int | None,
    blank: bool = False,
    samples: Callable[[int], int] | None = None,
  ):
    cfg = reader.dataset.cfg
    self.reader, self.blank = reader, blank
    self.start_step, self.stop_step = start_step, stop_step
    self.workers = cfg.workers or os.cpu_count() or 1
    self.prefetch = cfg.prefetch
    self._plan, self._rows = plan, rows
    self._samples = samples or (lambda step: cfg.crop_samples)
    self._size = max(1, min(_CHUNK_ROWS, -(-rows // self.workers)))
    self.chunks = -(-rows // self._size)
    self._lock = threading.Lock()
    self._pending: dict[int, Pending] = {}
    self._closed = False
    self._crew = Crew(self.workers, cfg.stall_seconds)

  def run_chunk(self, number: int) -> None:
    """Fills one chunk; a failure is kept for `take`, to be raised where the user can see it."""
    self.finish_chunk(number, self.start_chunk(number))

  def start_chunk(self, number: int) -> Job:
    """Has a chunk filled by a thread that can be left behind."""

    def fill(job: Job) -> None:
      step, part = divmod(number, self.chunks)
      batch = self._open(step)
      if batch is None:
        return
      for row in range(part * self._size, min(self._rows, (part + 1) * self._size)):
        if self._closed or batch.error is not None:
          return
        batch.found[row] = self._read(batch, row, job)

    return self._crew.submit(fill)

  def finish_chunk(self, number: int, job: Job) -> None:
    """Waits for a chunk, unless its batch is lost already; as `run_chunk`."""
    batch = self._open(number // self.chunks)
    if batch is None or batch.error is not None:
      return
    try:
      self._crew.wait(job)
    except BaseException as error:
      batch.error = error

  def take(self, step: int) -> dict[str, np.ndarray]:
    """The finished batch of a step; the arrays are the caller's own."""
    with self._lock:
      batch = self._pending.pop(step)
    if batch.error is not None:
      raise batch.error
    found = [row for row in batch.found if row is not None]
    result = {
      "wave": batch.wave,
      "valid": np.array([row.valid for row in found], np.int32),
      "id": np.array([row.id for row in found]),
    }
    examples = np.array([row.example for row in found], np.int64)
    for name, values_of in self.reader.dataset.fields.items():
      result[name] = values_of(examples)
    if self.blank:
      result["mask"] = result["valid"] > 0
    return result

  def close(self) -> None:
    """Lets running chunks end soon and drops what was prepared."""
    with self._lock:
      self._closed = True
      self._pending.clear()
    self._crew.close()

  def _open(self, step: int) -> Pending | None:
    """The batch of a step, begun if need be; None once all is closed."""
    with self._lock:
      if self._closed:
        return None
      if step not in self._pending:
        try:
          rows, error = self._plan(step), None
        except Exception as failure:
          rows, error = Rows(*[np.zeros(0, np.int64)] * 3), failure
        wave = np.empty((self._rows, self._samples(step)), np.float32)
        self._pending[step] = Pending(rows, wave, [None] * self._rows, error)
      return self._pending[step]

  def _read(self, batch: Pending, row: int, job: Job) -> Row:
    out, rows = batch.wave[row], batch.rows
    if self.blank:
      return self.reader.read_or_blank(out, int(rows.example[row]), job)
    return self.reader.read(
      out, int(rows.position[row]), int(rows.epoch[row]), int(rows.example[row]), job
    )
