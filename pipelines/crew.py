"""Threads that say which file they are at, and that can be left behind when it never comes.

A read from a dead network mount does not return, and no thread can be made to end. So work is done
by threads that the process does not wait for, and whoever needs it waits with a limit. The limit is
for one read: work that takes long in all gives a sign of life after each of its parts. A clip that
hangs is not passed over: which clips make up a step must not depend on how fast a disk was. The run
stops, says what it waited for, and goes on from there when it is started again.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable

from pipelines.errors import DataError

_log = logging.getLogger("pipelines")
_WARN_AT = (0.1, 0.5)  # shares of the limit
_LOOK_SECONDS = 1.0  # between two looks at work that takes long
_thread = threading.local()  # .job: what the thread is at


class Stalled(DataError):
  """A read has taken longer than data.stall_seconds, without an end."""


class Job:
  """A piece of work under way.

  Attributes:
    done: set when it has ended.
    error: what ended it, if anything went wrong.
  """

  def __init__(self, work: Callable[["Job"], None]):
    self.work = work
    self.done = threading.Event()
    self.error: BaseException | None = None
    self._at: tuple[float, Callable[[], str]] | None = None

  def at(self, what: Callable[[], str]) -> None:
    """Notes what the work turns to now; `what` is called only if that takes long."""
    self._at = time.monotonic(), what

  def alive(self) -> None:
    """Notes that a part of what the work is at has ended."""
    if self._at is not None:
      self._at = time.monotonic(), self._at[1]

  def standing(self) -> tuple[float, str]:
    """(seconds since the last sign of life, what it is at); 0 while the work waits for a thread."""
    if self._at is None:
      return 0.0, ""
    since, what = self._at
    return time.monotonic() - since, what()


def alive() -> None:
  """Says for the job of this thread, if it has one, that a read has ended and others follow."""
  job = getattr(_thread, "job", None)
  if job is not None:
    job.alive()


class Crew:
  """Some threads that work through jobs in the order of submission; none before the first job.

  Args:
    workers: threads.
    stall_seconds: how long one read may take; 0 waits for ever.
  """

  def __init__(self, workers: int, stall_seconds: float):
    self._limit = stall_seconds
    self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
    self._closed = False
    self._workers = workers
    self._started = 0
    self._starting = threading.Lock()
    self._stalled: Stalled | None = None  # the first one: it may have taken every thread

  def submit(self, work: Callable[[Job], None]) -> Job:
    """Queues work; it is handed its own job, to say what it is at."""
    job = Job(work)
    self._jobs.put(job)
    with self._starting:
      while self._started < self._workers and not self._closed:
        threading.Thread(target=self._work, name="pipelines", daemon=True).start()
        self._started += 1
    return job

  def wait(self, job: Job) -> None:
    """Returns when a job has ended, or the crew is closed; raises what the job raised.

    Raises:
      Stalled: the job has been at one read for longer than the limit, after warnings; or another
        one has, while this one waits for a thread that may never be free again.
    """
    warned, said = 0, ""
    look = min(_LOOK_SECONDS, self._limit / 20) if self._limit else _LOOK_SECONDS
    while not job.done.wait(look):
      if self._closed:
        return
      if not self._limit:
        continue
      seconds, what = job.standing()
      if not what:
        if self._stalled is not None:
          raise self._stalled
        continue
      warned, said = (warned, said) if what == said else (0, what)
      if seconds >= self._limit:
        stalled = Stalled(
          f"reading {what} has not ended after {self._limit:g} s; see whether its disk or network "
          "mount is alive, then run the same command again (data.stall_seconds is the limit)"
        )
        self._stalled = self._stalled or stalled
        raise stalled
      while warned < len(_WARN_AT) and seconds >= _WARN_AT[warned] * self._limit:
        warned += 1
        _log.warning(
          "waiting for %s since %.3g s; the run stops at %g s (data.stall_seconds)",
          *(what, seconds, self._limit),
        )
    if job.error is not None:
      raise job.error

  def close(self) -> None:
    """Lets the threads end after the job that each is at; what is queued is dropped."""
    with self._starting:
      self._closed = True
      for _ in range(self._started):
        self._jobs.put(None)

  def __enter__(self) -> "Crew":
    return self

  def __exit__(self, *exc) -> None:
    self.close()

  def _work(self) -> None:
    while (job := self._jobs.get()) is not None:
      _thread.job = job
      try:
        if not self._closed:
          job.work(job)
      except BaseException as error:
        job.error = error
      job.done.set()
      del job, _thread.job  # or the last batch would live until the next one comes
