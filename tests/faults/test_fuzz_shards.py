"""Damaged shards and indexes of shards, by accident and on purpose."""

import pytest

from tests.faults import fuzzing

pytestmark = [pytest.mark.faults, pytest.mark.fault(14)]
COUNTS = {"tar": 1800, "tar, forged": 800, "tfrecord": 1800, "tfrecord, forged": 800, "index": 800}


@pytest.mark.parametrize("name", COUNTS)
def test_damaged_shards(tmp_path, name):
  fuzzing.run("shard_readers", name, COUNTS[name], tmp_path / "fuzz")
