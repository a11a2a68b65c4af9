"""Trains for a while and watches what the process holds: does anything grow?

    python -m experiments.soak --minutes 30 --workdir runs/soak [--source FOLDER SHARDS ...]

The run is a real one: `pretrain` with the model of `demo`, its data decoded from files, with
checkpoints and validation on the way. A thread beside it notes memory (resident, and what of it is
in use), open file handles, threads and live JAX arrays. Each must be flat: the exit code is 0 if
all are, else 1.

How flat is decided. After the warm-up the samples are cut into 12 blocks of equal time, and each
block is represented by its median, since neighbouring samples are not independent. The slope over
the medians is that of Theil and Sen (the median of the slopes between all pairs; a passing peak
does not move it), and its interval is Sen's (1968), which assumes no distribution. A quantity is
flat if the upper bound of its slope, at 95 % one-sided, is below its limit: a run that is too short
or too restless to tell does not pass.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import jax
import numpy as np
import soundfile

from experiments import pretrain
from experiments.configs.pretrain import EXPERIMENTS, PretrainConfig
from experiments.training import cli, pictures
from experiments.training.errors import RunError, UsageError
from experiments.training.memory import in_use
from experiments.training.metrics import FILE as METRICS_FILE
from experiments.training.metrics import read_metrics
from pipelines.config import DataConfig
from pipelines.dataset import open_dataset
from pipelines.shards import ShardPlan, write_shards
from pipelines.synthetic import SyntheticSource

BLOCKS = 12
CONFIDENCE = 0.95  # one-sided
_ENDLESS = 100_000_000  # steps; the clock ends the run
_STOPPED = 128 + signal.SIGTERM


@dataclasses.dataclass(frozen=True)
class Limits:
  """Growth per hour from which on something is called a leak.

  One thing kept at every step would be thousands per hour, one at every checkpoint or validation a
  hundred. Of memory, Orbax itself keeps about 0.1 MB per checkpoint of this model; the rest is what
  half an hour can tell from the allocator's coming and going.
  """

  memory_mb: float = 60.0  # resident
  in_use_mb: float = 20.0  # of it, what was asked for and not freed
  handles: float = 20.0  # open files, pipes and sockets
  threads: float = 20.0
  arrays: float = 20.0  # JAX arrays that are alive
  arrays_mb: float = 20.0


@dataclasses.dataclass(frozen=True)
class SoakConfig:
  """How long, on what, and how strictly."""

  about: str = ""
  minutes: float = 30.0  # from the first step on
  workdir: str = "runs/soak"  # every soak makes a folder of its own below it
  # folder, manifest or shards; none: clips of the embedded corpus, written as files and as shards
  source: tuple[str, ...] = ()
  clips: int = 120  # of the embedded corpus, in each of the formats
  batch_size: int = 64
  save_every: int = 100  # steps between checkpoints, and between validations
  sample_seconds: float = 2.0  # between two looks at the process
  warm_up_share: float = 0.4  # of the time: caches fill and the allocator finds its size
  limits: Limits = Limits()

  def __post_init__(self):
    if not self.minutes > 0 or not self.sample_seconds > 0 or not 0 <= self.warm_up_share < 1:
      raise UsageError(
        "--minutes and --sample_seconds must be positive, --warm_up_share within [0, 1)"
      )
    if self.clips < 10:
      raise UsageError(f"--clips {self.clips}: give at least 10")
    if (1 - self.warm_up_share) * 60 * self.minutes / self.sample_seconds < 3 * BLOCKS:
      raise UsageError(
        f"--minutes {self.minutes:g}: too few samples to judge by; take longer, or sample more "
        f"often than each {self.sample_seconds:g} s"
      )


class Sample(NamedTuple):
  """What the process holds at one moment."""

  seconds: float  # since the first sample
  memory_mb: float
  in_use_mb: float
  handles: int
  threads: int
  arrays: int
  arrays_mb: float


class Growth(NamedTuple):
  """One quantity over the judged part of a run; slopes are per hour."""

  name: str
  begin: float  # median of the first block
  end: float  # median of the last block
  slope: float
  upper: float
  limit: float

  @property
  def flat(self) -> bool:
    """Whether the slope is below the limit, beyond reasonable doubt."""
    return self.upper < self.limit


def main(cfg: SoakConfig) -> int:
  """Trains, samples, judges; 0 if everything is flat, 1 if not."""
  source = cfg.source or make_audio(Path(cfg.workdir) / "audio", cfg.clips)
  folder = Path(cfg.workdir) / time.strftime("%Y%m%d-%H%M%S")
  run = folder / "run"
  watcher = Watcher(cfg.minutes * 60, cfg.sample_seconds, run / METRICS_FILE)
  with watcher:
    code = pretrain.main(_run(cfg, source, run))
  watcher.check()
  if code != _STOPPED or not watcher.finished:
    raise RunError(f"the run ended by itself with exit code {code}; its folder is {run}")
  _write_csv(folder / "soak.csv", watcher.samples)
  table = judge(watcher.samples, cfg.warm_up_share, cfg.limits)
  draw(watcher.samples, table, cfg.warm_up_share, folder / "soak.png")
  steps = read_metrics(run / METRICS_FILE)[-1]["step"]
  print(report(table, steps, watcher.samples[-1].seconds, cfg))
  return 0 if all(growth.flat for growth in table) else 1


def _run(cfg: SoakConfig, source: Sequence[str], folder: Path) -> PretrainConfig:
  """The demonstration run without its memory of waves, so that every clip is decoded anew."""
  demo = EXPERIMENTS["demo"]
  data = dataclasses.replace(
    demo.data, source=tuple(source), cache="none", max_bad_share=0.05, holdout=0.1
  )
  loop = dataclasses.replace(
    demo.loop,
    steps=_ENDLESS,
    batch_size=cfg.batch_size,
    validate_every=cfg.save_every,
    save_every=cfg.save_every,
  )
  knn = dataclasses.replace(demo.knn, tasks=())
  return dataclasses.replace(demo, data=data, loop=loop, knn=knn, workdir=str(folder))


def make_audio(folder: Path, clips: int) -> tuple[str, ...]:
  """The embedded corpus as FLAC and WAV files, one of them cut short, and as shards."""
  if not (folder / "files").exists():
    corpus = SyntheticSource(clips=clips, seconds=4.0)
    dataset = open_dataset(DataConfig(), "all", sources=[corpus])
    for kind in ("tfrecord", "tar"):
      write_shards(dataset, str(folder / kind), ShardPlan(kind=kind, clips_per_shard=40))
    (folder / "files").mkdir()
    for i in range(clips):
      path = folder / "files" / f"{i:04d}.{('flac', 'wav')[i % 2]}"
      soundfile.write(path, corpus.read(i, 0, 64_000)[0], 16_000)
    cut = folder / "files" / "0000.flac"
    cut.write_bytes(cut.read_bytes()[:20_000])
  return tuple(str(folder / name) for name in ("files", "tfrecord", "tar"))


class Watcher:
  """A thread that samples the process from the first logged step on, and ends the run in time.

  Where it fails it ends the run too: nothing else would.

  Attributes: samples, in order; finished, whether the whole time was watched; error, what ended the
  watching before that.
  """

  def __init__(self, seconds: float, every: float, metrics: Path):
    self.samples: list[Sample] = []
    self.finished = False
    self.error: Exception | None = None
    self._sent = False
    self._seconds, self._every, self._metrics = seconds, every, metrics
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._watch, name="soak", daemon=True)

  def check(self) -> None:
    """Raises RunError if the run could not be watched to its end."""
    if self.error is not None:
      reason = f"{type(self.error).__name__}: {self.error}"
      raise RunError(f"the run could not be watched: {reason}; its figures are in {self._metrics}")

  def _watch(self) -> None:
    try:
      self.finished = self._sample()
    except Exception as error:
      self.error = error
    finally:
      if not self._stop.is_set():
        # Where the training loop listens it takes the signal, and the next one is someone else's.
        ours = signal.getsignal(signal.SIGTERM) == self._on_sigterm
        self._sent = True
        os.kill(os.getpid(), signal.SIGTERM)  # as a scheduler would: the run saves and ends
        if not ours:
          self._sent = False

  def _sample(self) -> bool:
    """Takes samples; True when the time is up, False where the run ended before."""
    while not (self._metrics.is_file() and self._metrics.stat().st_size):
      if self._stop.wait(0.2):
        return False
    began = time.monotonic()
    while (seconds := time.monotonic() - began) < self._seconds:
      self.samples.append(take_sample(seconds))
      late = (time.monotonic() - began) % self._every
      if self._stop.wait(self._every - late):
        return False
    return True

  def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
    """Takes a SIGTERM that comes before the run listens to signals, or after it has ended."""
    del frame
    if self._sent:
      self._sent = False
      if not self._stop.is_set():  # else the run has ended by itself at the same moment
        self.check()
      return
    signal.signal(number, self._before)
    signal.raise_signal(number)

  def __enter__(self) -> Watcher:
    self._before = signal.signal(signal.SIGTERM, self._on_sigterm)
    try:
      self._thread.start()
    except BaseException:  # a watcher that fails at once: nothing calls __exit__ then
      self._stop.set()
      signal.signal(signal.SIGTERM, self._before)
      raise
    return self

  def __exit__(self, *exception: object) -> None:
    try:
      self._stop.set()
      self._thread.join()
    finally:  # another signal may raise here
      signal.signal(signal.SIGTERM, self._before)


def take_sample(seconds: float) -> Sample:
  """What this process holds now; needs the /proc of Linux."""
  with open("/proc/self/statm", encoding="ascii") as file:
    pages = int(file.read().split()[1])
  arrays = jax.live_arrays()
  return Sample(
    seconds=seconds,
    memory_mb=pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
    in_use_mb=in_use() / 1e6,
    handles=len(os.listdir("/proc/self/fd")),
    threads=len(os.listdir("/proc/self/task")),
    arrays=len(arrays),
    arrays_mb=sum(x.nbytes for x in arrays) / 1e6,
  )


def judge(samples: Sequence[Sample], warm_up_share: float, limits: Limits) -> list[Growth]:
  """The growth of every quantity after the warm-up."""
  seconds = np.array([s.seconds for s in samples])
  kept = np.flatnonzero(seconds >= warm_up_share * seconds[-1])
  blocks = np.array_split(kept, BLOCKS)
  hours = np.array([np.median(seconds[block]) for block in blocks]) / 3600
  table = []
  for field in dataclasses.fields(limits):
    values = np.array([getattr(s, field.name) for s in samples], np.float64)
    medians = np.array([np.median(values[block]) for block in blocks])
    slope, upper = slope_and_bound(hours, medians)
    limit = getattr(limits, field.name)
    table.append(Growth(field.name, medians[0], medians[-1], slope, upper, limit))
  return table


def slope_and_bound(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
  """Theil and Sen's slope of y over x, and its upper bound at CONFIDENCE, one-sided."""
  from scipy import stats

  fit = stats.theilslopes(y, x, alpha=1 - 2 * (1 - CONFIDENCE))
  return float(fit.slope), float(fit.high_slope)


def report(table: Sequence[Growth], steps: int, seconds: float, cfg: SoakConfig) -> str:
  """The table that is printed, with the verdict."""
  head = f"{'':<10} {'begin':>9} {'end':>9} {'per hour':>9} {'at most':>9} {'limit':>7}"
  lines = [
    f"{steps:,} steps, {seconds / 60:.1f} min watched, the first {cfg.warm_up_share:.0%} left out;"
    f" 'at most': upper bound of the slope per hour, {CONFIDENCE:.0%} one-sided",
    head,
  ]
  for g in table:
    row = f"{g.name:<10} {g.begin:>9.1f} {g.end:>9.1f} {g.slope:>9.2f} {g.upper:>9.2f}"
    lines.append(f"{row} {g.limit:>7g}  {'flat' if g.flat else 'NOT FLAT'}")
  wrong = [g.name for g in table if not g.flat]
  lines.append(f"soak: {', '.join(wrong)} grew, or may have" if wrong else "soak: all flat")
  return "\n".join(lines)


def draw(
  samples: Sequence[Sample], table: Sequence[Growth], warm_up_share: float, path: Path
) -> None:
  """One panel per quantity over time, with the fitted slope over the judged part."""
  import matplotlib
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  minutes = np.array([s.seconds for s in samples]) / 60
  judged = np.array([warm_up_share * minutes[-1], minutes[-1]])
  with matplotlib.rc_context(pictures.STYLE):
    figure = Figure(figsize=(7.2, 8.0), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(table), 1, sharex=True)
    for axes, growth in zip(panels, table, strict=True):
      values = np.array([getattr(s, growth.name) for s in samples], np.float64)
      axes.plot(minutes, values, color=pictures.SERIES[0], linewidth=1.2)
      middle = np.median(values[minutes >= judged[0]])
      line = middle + growth.slope * (judged - judged.mean()) / 60
      axes.plot(judged, line, color=pictures.SERIES[1])
      axes.set(
        title=f"{growth.name}: {growth.slope:+.2f} per hour, at most {growth.upper:.2f} "
        f"(limit {growth.limit:g})"
      )
      axes.set_ylim(0, max(1.0, 1.15 * float(values.max())))
    panels[-1].set_xlabel("minutes")
    figure.savefig(path)


def _write_csv(path: Path, samples: Sequence[Sample]) -> None:
  with open(path, "w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(Sample._fields)
    writer.writerows([f"{value:.6g}" for value in sample] for sample in samples)


if __name__ == "__main__":
  cli.run_main(
    main,
    {"default": SoakConfig(about="half an hour on the embedded corpus")},
    prog="soak",
    default="default",
    description="Trains for a while and watches whether memory, handles or threads grow.",
  )
