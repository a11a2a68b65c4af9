"""Damaged checkpoints and weight files, and what stands beside them."""

import pytest

from tests.faults import fuzzing

pytestmark = [pytest.mark.faults, pytest.mark.fault(14)]
COUNTS = {
  "checkpoint, meta": 300,
  "checkpoint, arrays": 300,
  "safetensors": 700,
  "safetensors index": 400,
  "weights config": 400,
}


@pytest.mark.parametrize("name", COUNTS)
def test_damaged_weights(tmp_path, name):
  # Orbax leaves coroutines behind whose errors Python reports as traces of its own.
  quiet = not name.startswith("checkpoint")
  fuzzing.run("weight_readers", name, COUNTS[name], tmp_path / "fuzz", quiet)
