"""A gradient that is NaN under a finite loss, in a real run."""

import math

import numpy as np
import pytest

from tests.experiments.tiny_pretrain import arrays, read_json, rows
from tests.faults.processes import Process, checkpoints

pytestmark = [pytest.mark.faults, pytest.mark.fault(6)]


def broken(steps):
  return {"NAN_GRADIENT_AT": ",".join(map(str, steps))}


def test_a_nan_gradient_changes_nothing_and_is_counted(cache, tmp_path):
  folder = tmp_path / "run"
  flags = ("--loop.steps", "9", "--loop.save_every", "1", "--loop.keep", "99")
  code, err = Process(folder, *flags, cache=cache, env=broken([5, 6])).end()
  assert code == 0, err
  table = rows(folder)
  for step in (6, 7):
    assert math.isfinite(float(table[step, "train"]["loss"]))
    assert not math.isfinite(float(table[step, "train"]["grad_norm"]))
  assert [table[n, "train"]["skipped_in_row"] for n in (5, 6, 7, 8)] == [0, 1, 2, 0]
  assert read_json(folder / "summary.json")["skipped_batches"] == 2
  before, after = arrays(folder, 5), arrays(folder, 7)
  counters = {"step", "skipped", "skipped_in_row"}
  for path in before.keys() - counters:
    assert before[path].tobytes() == after[path].tobytes(), path
  assert int(after["step"]) == 7
  moved = arrays(folder, 8)
  assert any(before[path].tobytes() != moved[path].tobytes() for path in before.keys() - counters)


def test_too_many_end_the_run_and_what_is_saved_is_sound(cache, tmp_path):
  folder = tmp_path / "run"
  flags = ("--loop.save_every", "1", "--loop.max_skipped_in_row", "4")
  code, err = Process(folder, *flags, cache=cache, env=broken(range(5, 36))).end()
  assert code == 1, err
  assert "loss or gradient were not finite in 4 batches in a row" in err[-1]
  assert "--loop.max_skipped_in_row" in err[-1]
  newest = arrays(folder, checkpoints(folder)[-1])
  assert all(np.isfinite(x).all() for path, x in newest.items() if x.dtype.kind == "f")
