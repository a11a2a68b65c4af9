"""How fast a run goes, and the one line that says so.

`Chrono` is arithmetic on a clock that can be replaced: wall time is split into starting (compiling
and the first batch), other parked time (checkpoints, validation) and the time spent on steps, of
which a part is waiting for data. `ProgressLine` writes text in place on a terminal and now and then
a plain line elsewhere.
"""

import collections
import contextlib
import dataclasses
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

Clock = Callable[[], float]
ONCE = ("compile", "start")  # parked at the start of a process and never again


@dataclasses.dataclass(frozen=True)
class Speed:
  """Where a run stands. Seconds unless the name says otherwise; shares in [0, 1]."""

  step: int
  total: int
  clips_per_second: float
  audio_hours: float
  idle_share: float
  eta_seconds: float | None
  compile_seconds: float
  parked_seconds: float
  elapsed_seconds: float


class Chrono:
  """Timing of a run of `total` steps that begins at `start_step`, steps counted when done.

  Rates are taken over the last `window` steps and leave out parked time; the ETA takes the mean of
  the whole run, with what is parked but without starting, because validation and checkpoints come
  again and compiling does not. Audio hours count from step 0, so a resumed run goes on counting.
  """

  def __init__(
    self,
    total: int,
    *,
    clips_per_step: int,
    seconds_per_clip: float,
    start_step: int = 0,
    window: int = 50,
    clock: Clock = time.monotonic,
  ):
    self.total = total
    self.clips_per_step = clips_per_step
    self.seconds_per_clip = seconds_per_clip
    self.start_step = self.at = start_step
    self.clock = clock
    self.began = clock()
    self.parked: dict[str, float] = collections.defaultdict(float)
    self._nested = False
    # (step, seconds on steps, seconds of these spent waiting) at the end of the latest steps
    self._marks = collections.deque([(start_step, 0.0, 0.0)], maxlen=window + 1)

  @contextlib.contextmanager
  def park(self, what: str) -> Iterator[None]:
    """Counts the time inside apart, under a name such as "compile" or "checkpoint".

    Inside another `park` it changes nothing: the outer name keeps the time.
    """
    if self._nested:
      yield
      return
    self._nested, began = True, self.clock()
    try:
      yield
    finally:
      self._nested = False
      self.parked[what] += self.clock() - began

  def done(self, step: int, waited_seconds: float = 0.0) -> None:
    """Notes that `step` steps are done and that the loop has waited so long for data in all."""
    self.at = step
    self._marks.append((step, self.stepping_seconds, waited_seconds))

  @property
  def elapsed_seconds(self) -> float:
    """Wall time since the start of this process's part of the run."""
    return self.clock() - self.began

  @property
  def stepping_seconds(self) -> float:
    """Wall time that was spent on steps: nothing was parked."""
    return self.elapsed_seconds - sum(self.parked.values())

  def speed(self) -> Speed:
    """The figures at this moment."""
    (first, began, waited_before), (last, ended, waited) = self._marks[0], self._marks[-1]
    seconds, steps = ended - began, last - first
    once = sum(self.parked.get(name, 0.0) for name in ONCE)
    here = self.at - self.start_step
    lasting = self.elapsed_seconds - once
    return Speed(
      step=self.at,
      total=self.total,
      clips_per_second=steps * self.clips_per_step / seconds if seconds > 0 else 0.0,
      audio_hours=self.at * self.clips_per_step * self.seconds_per_clip / 3600,
      idle_share=min(1.0, max(0.0, (waited - waited_before) / seconds)) if seconds > 0 else 0.0,
      eta_seconds=lasting / here * (self.total - self.at) if here > 0 else None,
      compile_seconds=self.parked.get("compile", 0.0),
      parked_seconds=sum(self.parked.values()) - once,
      elapsed_seconds=self.elapsed_seconds,
    )


def duration(seconds: float | None) -> str:
  """`0:42`, `1:05:09` or `3d 04:00`; a dash for None."""
  if seconds is None:
    return "-"
  minutes, s = divmod(round(seconds), 60)
  hours, m = divmod(minutes, 60)
  days, h = divmod(hours, 24)
  if days:
    return f"{days}d {h:02}:{m:02}"
  return f"{h}:{m:02}:{s:02}" if h else f"{m}:{s:02}"


def line(speed: Speed, values: Mapping[str, float]) -> str:
  """The progress line; `values` are the latest metrics, of which `loss` and `lr` are shown."""
  parts = [f"step {speed.step}/{speed.total}"]
  parts += [f"loss {values['loss']:.4f}"] if "loss" in values else []
  parts += [f"lr {values['lr']:.2e}"] if "lr" in values else []
  parts += [
    f"{speed.clips_per_second:.1f} clips/s",
    f"{speed.audio_hours:.{2 if speed.audio_hours < 10 else 0}f} h audio",
    f"idle {speed.idle_share:.0%}",
    f"ETA {duration(speed.eta_seconds)}",
  ]
  parts += [f"compile {duration(speed.compile_seconds)}"] if speed.compile_seconds >= 0.5 else []
  return "  ".join(parts)


class ProgressLine:
  """One line that is rewritten in place on a terminal; elsewhere a line every `plain_seconds`."""

  def __init__(
    self,
    stream: TextIO | None = None,
    *,
    plain_seconds: float = 30.0,
    terminal_seconds: float = 0.1,
    clock: Clock = time.monotonic,
  ):
    self.stream = sys.stderr if stream is None else stream
    self.terminal = self.stream.isatty()
    self.clock = clock
    self.every = terminal_seconds if self.terminal else plain_seconds
    self._next = -float("inf")
    self._shown = ""
    self._latest = ""

  def update(self, text: str) -> None:
    """Shows `text` now, or keeps it for later where the last one is too fresh."""
    self._latest = text
    if self.clock() >= self._next:
      self._write(text)

  def message(self, text: str) -> None:
    """Prints `text` on a line of its own, above the progress line of a terminal."""
    self.stream.write(("\r\x1b[K" if self.terminal and self._shown else "") + text + "\n")
    if self.terminal and self._shown:
      self._put(self._shown)
    self.stream.flush()

  def close(self) -> None:
    """Shows the latest text if it was held back, and ends the line."""
    if self._latest != self._shown:
      self._write(self._latest)
    if self.terminal and self._shown:
      self.stream.write("\n")
      self.stream.flush()
    self._shown = self._latest = ""

  def _write(self, text: str) -> None:
    self._shown, self._next = text, self.clock() + self.every
    self._put(text)
    self.stream.flush()

  def _put(self, text: str) -> None:
    if self.terminal:  # a line that wraps could not be overwritten
      self.stream.write("\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1])
    else:
      self.stream.write(text + "\n")
