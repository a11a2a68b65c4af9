"""The soak notices a leak, and finds none where there is none; its verdict on made-up samples."""

import os
import subprocess
import sys

import numpy as np
import pytest

from experiments import soak
from experiments.training.errors import UsageError
from tests.faults.processes import ROOT

pytestmark = [pytest.mark.faults, pytest.mark.fault(13)]
MINUTES = 20 / 60
FLAGS = (
  f"--minutes {MINUTES:.4f} --sample_seconds 0.2 --clips 10 --batch_size 4 --save_every 1000000 "
  "--warm_up_share 0.3 --limits.memory_mb 6000 --limits.in_use_mb 600 --limits.handles 600 "
  "--limits.threads 2000 --limits.arrays 12000 --limits.arrays_mb 600"
).split()
LEAK = """
import os, sys
import numpy as np
import jax
from experiments import soak
from experiments.training import cli, loop
kept, real = [], loop.to_device
def leaking(rows, sharding):
  placed = real(rows, sharding)
  {}
  return placed
loop.to_device = leaking
cli.run_main(soak.main, {{"default": soak.SoakConfig()}}, prog="soak", default="default")
"""
LEAKS: dict[str, tuple[str, set[str]]] = {
  "nothing": ("pass", set()),
  "at every step": (
    "kept.extend([np.ones(300_000), os.open('/dev/null', os.O_RDONLY), placed['valid']])",
    {"memory_mb", "in_use_mb", "handles", "arrays"},
  ),
}


@pytest.mark.parametrize("what", LEAKS)
def test_a_leak_is_noticed(tmp_path, cache, what):
  done = subprocess.run(
    [
      sys.executable,
      "-c",
      LEAK.format(LEAKS[what][0]),
      "--workdir",
      str(tmp_path / "soak"),
      *FLAGS,
    ],
    cwd=ROOT,
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(cache),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    },
    capture_output=True,
    text=True,
    timeout=400,
    check=False,
  )
  table = done.stdout
  assert done.returncode == (0 if what == "nothing" else 1), table + done.stderr[-2000:]
  lines = [line for line in table.splitlines() if not line.startswith("soak:")]
  rows = [line.split() for line in lines if line.lower().endswith("flat")]
  grew = {row[0] for row in rows if row[-2] == "NOT"}
  assert len(rows) == 6, table
  assert grew == LEAKS[what][1], table
  for name in ("soak.csv", "soak.png"):
    (path,) = tmp_path.glob(f"soak/*/{name}")
    assert path.stat().st_size > 500


def samples(memory, seconds=1800, every=2.0):
  times = np.arange(0, seconds, every)
  return [
    soak.Sample(t, m, 0.5 * m, 9, 30, 150, 8.0) for t, m in zip(times, memory(times), strict=True)
  ]


def memory_verdict(memory):
  (found, *_) = soak.judge(samples(memory), 0.4, soak.Limits())
  return found


def noise(times):
  return np.random.default_rng(0).normal(0, 3.0, len(times))


def test_what_is_flat_and_what_is_not():
  assert memory_verdict(lambda t: 1500 + noise(t)).flat
  leak = memory_verdict(lambda t: 1500 + 90 * t / 3600 + noise(t))
  assert not leak.flat
  assert leak.slope == pytest.approx(90, rel=0.1)
  # Warming up, and a peak that passes, are no leaks.
  assert memory_verdict(lambda t: 1500 - 300 * np.exp(-t / 60) + noise(t)).flat
  assert memory_verdict(lambda t: 1500 + 200 * ((t > 1000) & (t < 1100)) + noise(t)).flat
  # Too restless to tell: that is no pass.
  assert not memory_verdict(lambda t: 1500 + 50 * noise(t)).flat


def test_the_bound_holds_as_often_as_it_says():
  draw = np.random.default_rng(1)
  x = np.arange(soak.BLOCKS) / 10
  above = [
    soak.slope_and_bound(x, 5 * x + draw.normal(0, 1, soak.BLOCKS))[1] >= 5 for _ in range(400)
  ]
  assert 0.92 <= np.mean(above) <= 0.99


@pytest.mark.parametrize("flags", [{"minutes": 0.1}, {"minutes": -1.0}, {"clips": 2}])
def test_settings_that_tell_nothing(flags):
  with pytest.raises(UsageError, match="--"):
    soak.SoakConfig(**flags)
