"""What the entry points of training share: what they say, and what identifies their data."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.training.metrics import write_json
from experiments.training.run import Outcome
from pipelines import Dataset

SUMMARY = "summary.json"
NAMED_AT_START = 20  # unusable recordings

# Fields of every kind of run that may change when it goes on: they move no bit of what it computes.
MAY_DIFFER = (
  "config.about",
  "config.workdir",
  "config.dry_run",
  "config.compile_cache",
  "config.mesh",
  "config.loop.log_every",
  "config.loop.save_every",
  "config.loop.keep",
  "config.loop.keep_best",
  "config.loop.max_skipped",
  "config.loop.max_skipped_in_row",
  "config.loop.failed_save",
  "config.loop.peer_seconds",
  "config.data.source",  # the fingerprint of what they hold is compared instead
  "config.data.data_dir",
  "config.data.workers",
  "config.data.prefetch",
  "config.data.max_bad_share",
  "config.data.stall_seconds",
)


def say(text: str) -> None:
  """A line on standard error, from the first process alone."""
  if jax.process_index() == 0:
    print(text, file=sys.stderr, flush=True)


def say_unusable(skipped: Sequence[tuple[str, str]]) -> None:
  """Names what indexing left out; the rest of a long list is in the run's unusable.json."""
  for name, reason in skipped[:NAMED_AT_START]:
    say(f"unusable recording {name}: {reason}; left out")
  if len(skipped) > NAMED_AT_START:
    say(f"and {len(skipped) - NAMED_AT_START} more, all listed in unusable.json")


def devices_line(mesh: Mesh, megabytes: float) -> str:
  """The devices, the mesh over them, and what each holds."""
  shape = " x ".join(f"{axis} {n}" for axis, n in mesh.shape.items() if n > 1) or "one"
  devices = f"{mesh.size} {jax.devices()[0].platform} device(s)"
  return f"devices   {devices}, mesh {shape}, {megabytes:,.1f} MB of state on each"


def fingerprint(dataset: Dataset, labels: bool = False) -> str:
  """What the order of batches depends on: names and lengths of the recordings of every source.

  labels: what the recordings are labelled counts too.
  """
  digest = hashlib.blake2b(digest_size=12)
  for number, source in enumerate(dataset.sources):
    chosen = dataset.recordings_of(number)
    digest.update(np.asarray(source.frames)[chosen].astype("<i8").tobytes())
    digest.update(np.asarray(source.rates)[chosen].astype("<i8").tobytes())
    for i in chosen:
      digest.update(str(source.ids[i]).encode("utf-8", "surrogateescape") + b"\n")
  if labels:
    for name in dataset.classes or ():
      digest.update(name.encode() + b"\n")
    for first in range(0, len(dataset), 1 << 16):
      rows = np.arange(first, min(first + (1 << 16), len(dataset)))
      for values_of in dataset.fields.values():
        digest.update(np.ascontiguousarray(values_of(rows)).tobytes())
  return f"{len(dataset)} clips, {digest.hexdigest()}"


def run_figures(outcome: Outcome, steps: int, began: float, workdir: Path) -> dict[str, Any]:
  """What every run sums up: its length, its pace and what it left out.

  A start that found nothing left to train tells the pace of the run itself, from its summary.
  """
  figures = {
    "steps": steps,
    "resumed_at": outcome.start_step,
    "clips_per_second": outcome.clips_per_second,
    "idle_share": outcome.idle_share,
    "skipped_batches": outcome.skipped,
    "unusable_recordings": len(outcome.bad_recordings),
    "seconds": time.monotonic() - began,
    "seconds_to_first_step": outcome.start_seconds,
  }
  if outcome.start_step >= steps:
    figures |= _pace_of(workdir / SUMMARY)
  return figures


def _pace_of(path: Path) -> dict[str, Any]:
  """How fast the finished run of an older summary went."""
  if not path.is_file():
    return {}
  old = json.loads(path.read_text(encoding="utf-8"))
  names = ("resumed_at", "clips_per_second", "idle_share", "seconds", "seconds_to_first_step")
  return {name: old[name] for name in names if name in old}


def write_record(path: Path, content: Any) -> None:
  """JSON, from the first process alone."""
  if jax.process_index() == 0:
    write_json(path, content)
