"""Two processes on this machine train as one does."""

import pytest

from tests.experiments.tiny_pretrain import rows
from tests.faults.processes import Process, free_port, ids, pair

FLAGS = ("--loop.steps", "6", "--loop.save_every", "0", "--data.holdout", "0")


def test_two_processes_train_as_one(tmp_path):
  """Each holds half of every batch; losses and gradient norms agree to 1e-5."""
  one = Process(tmp_path / "one", *FLAGS)
  assert one.end()[0] == 0
  ends = [process.end() for process in pair(tmp_path / "two", free_port(), *FLAGS)]
  assert [code for code, _ in ends] == [0, 0], ends
  assert ids(tmp_path / "two") == ids(tmp_path / "one")
  want, got = rows(tmp_path / "one"), rows(tmp_path / "two")
  assert list(want) == list(got) == [(step, "train") for step in range(1, 7)]
  for key, values in want.items():
    for name in ("loss", "grad_norm", "param_norm", "lr"):
      assert got[key][name] == pytest.approx(values[name], rel=1e-5), (key, name)
