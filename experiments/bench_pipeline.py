"""Speed of the audio pipeline against the bare libsndfile decode loop, on the same files.

    python -m experiments.bench_pipeline [--seconds 5] [--files FOLDER] [--json OUT.json]

Rounds alternate between the two, so that whatever else the machine does falls on both; medians are
reported. A clip is 10 s of mono FLAC at 16 kHz. The clock of the pipeline runs from making the
iterator to its last batch, so nothing is prefetched for free. CPU time stands beside wall time:
it is what remains comparable on a machine with other work to do.
"""

import concurrent.futures
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import soundfile

from experiments.training import cli
from experiments.training.errors import UsageError
from pipelines.batch import batches
from pipelines.config import DataConfig
from pipelines.dataset import Dataset, open_dataset
from pipelines.progress import Progress
from pipelines.sources import open_source

_RATE = 16_000


@dataclasses.dataclass(frozen=True)
class BenchPipeline:
  """Settings of bench_pipeline."""

  # folder of FLAC files to read; empty: files are made in a temporary folder
  files: str = ""
  # files to make
  clips: int = 256
  # "synthetic": the embedded corpus; "tones": tones and noise, quicker to make
  content: str = "synthetic"
  # seconds that each of the two takes in each round, about
  seconds: float = 5.0
  # rounds per number of workers
  rounds: int = 5
  # clips per batch
  batch_size: int = 32
  # numbers of workers to try; 0: one per core
  workers: tuple[int, ...] = (1, 0)
  # file that the figures are written to
  json: str = ""
  about: str = "pipeline against bare decoding"


class Speed(NamedTuple):
  """Clips per second, and clips per second of CPU time."""

  wall: float
  cpu: float


def main(cfg: BenchPipeline) -> int:
  """Measures, prints a table, and writes it as JSON if asked."""
  if cfg.rounds < 1 or cfg.clips < 1 or cfg.batch_size < 1 or min(cfg.workers, default=-1) < 0:
    raise UsageError("--rounds, --clips and --batch_size must be positive, --workers not negative")
  with tempfile.TemporaryDirectory() as folder:
    if not cfg.files:
      make_files(folder, cfg.clips, cfg.content)
    where = cfg.files or folder
    counts = dict.fromkeys(n or os.cpu_count() or 1 for n in cfg.workers)
    results = [measure(where, cfg, workers) for workers in counts]
  for r in results:
    print(
      f"{r['workers']} worker(s): pipeline {r['pipeline']:.0f} clips/s, bare decoding "
      f"{r['bare']:.0f} clips/s, ratio {r['ratio']:.1%} (per CPU second: "
      f"{r['pipeline_cpu']:.0f} and {r['bare_cpu']:.0f}, ratio {r['ratio_cpu']:.1%})"
    )
  if cfg.json:
    with open(cfg.json, "w", encoding="utf-8") as file:
      json.dump({"cores": os.cpu_count(), "results": results}, file, indent=2)
  return 0


def measure(folder: str, cfg: BenchPipeline, workers: int) -> dict[str, float]:
  """Medians over rounds, for one number of workers."""
  dataset = open_dataset(DataConfig(source=(folder,), workers=workers), part="all")
  paths = [os.path.join(folder, name) for name in dataset.sources[0].ids]
  pipeline_run(dataset, cfg.batch_size, 1)  # loads TensorFlow
  speed = bare_run(paths, min(len(paths), 64), workers).wall
  steps = max(2, round(cfg.seconds * speed / cfg.batch_size))
  clips = steps * cfg.batch_size
  pairs = []
  for number in range(cfg.rounds):
    runs: list[Callable[[], Speed]] = [
      lambda: bare_run(paths, clips, workers),
      lambda: pipeline_run(dataset, cfg.batch_size, steps),
    ]
    first = number % 2  # who goes first alternates: neither always finds the warmer machine
    one, two = runs[first](), runs[1 - first]()
    pairs.append((two, one) if first else (one, two))
  bare, pipeline = zip(*pairs, strict=True)
  return {
    "workers": workers,
    "clips_per_run": clips,
    "rounds": cfg.rounds,
    "bare": statistics.median(s.wall for s in bare),
    "pipeline": statistics.median(s.wall for s in pipeline),
    "ratio": statistics.median(p.wall / b.wall for b, p in pairs),
    "bare_cpu": statistics.median(s.cpu for s in bare),
    "pipeline_cpu": statistics.median(s.cpu for s in pipeline),
    "ratio_cpu": statistics.median(p.cpu / b.cpu for b, p in pairs),
  }


def bare_run(paths: list[str], clips: int, workers: int) -> Speed:
  """Decodes with soundfile.read and nothing else, on `workers` threads."""

  def loop(first: int) -> None:
    for k in range(first, clips, workers):
      soundfile.read(paths[k % len(paths)], dtype="float32")

  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    with _timed(clips) as speed:
      list(pool.map(loop, range(workers)))
    return speed()


def pipeline_run(dataset: Dataset, batch_size: int, steps: int) -> Speed:
  """Runs the whole pipeline for some steps and throws the batches away."""
  with (
    _timed(steps * batch_size) as speed,
    batches(dataset, batch_size=batch_size, seed=0, steps=steps) as iterator,
  ):
    for batch in iterator:
      del batch
  return speed()


class _timed:
  """Times a with block; calling what it gives afterwards yields the speed."""

  def __init__(self, clips: int):
    self._clips = clips

  def __enter__(self) -> Callable[[], Speed]:
    self._wall, self._cpu = time.perf_counter(), time.process_time()
    return lambda: self._speed

  def __exit__(self, *exc) -> None:
    wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
    self._speed = Speed(self._clips / wall, self._clips / cpu)


def make_files(folder: str, clips: int, content: str) -> None:
  """Writes clips of 10 s as 16-bit FLAC at 16 kHz."""
  if content not in ("synthetic", "tones"):
    raise UsageError(f"--content {content}: choose synthetic or tones")
  with Progress("making files", clips, "files") as progress:
    for k, wave in enumerate(_synthetic(clips) if content == "synthetic" else _tones(clips)):
      name = os.path.join(folder, f"{k:05d}.flac")
      soundfile.write(name, wave, _RATE, subtype="PCM_16")
      progress.add()


def _synthetic(clips: int) -> Iterator[np.ndarray]:
  source = open_source(f"synthetic:{clips}", DataConfig())
  for i in range(clips):
    yield source.read(i, 0, 10 * _RATE)[0]


def _tones(clips: int) -> Iterator[np.ndarray]:
  """Gliding harmonics over coloured noise: about 160 kB each, as music and speech take in FLAC."""
  rng = np.random.default_rng(0)
  time_s = np.arange(10 * _RATE) / _RATE
  for _ in range(clips):
    pitch = rng.uniform(90, 400) * (1 + 0.05 * np.sin(2 * np.pi * rng.uniform(0.2, 2) * time_s))
    phase = 2 * np.pi * np.cumsum(pitch) / _RATE
    wave = sum(rng.uniform(0, 1) / k * np.sin(k * phase) for k in range(1, 12))
    noise = np.convolve(rng.standard_normal(time_s.size), np.ones(6) / 6, mode="same")
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.1, 1) * time_s)
    yield np.clip(swell * (0.15 * wave + 0.02 * noise), -1, 1).astype(np.float32)


if __name__ == "__main__":
  sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
  cli.run_main(
    main,
    {"default": BenchPipeline()},
    prog="bench_pipeline",
    default="default",
    description="Speed of the audio pipeline against the bare libsndfile decode loop.",
  )
