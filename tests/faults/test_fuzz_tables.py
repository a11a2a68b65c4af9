"""Damaged manifests and stored logits."""

import pytest

from tests.faults import fuzzing

pytestmark = [pytest.mark.faults, pytest.mark.fault(14)]
COUNTS = {"manifest": 1500, "stored tensor": 1500}


@pytest.mark.parametrize("name", COUNTS)
def test_damaged_tables(tmp_path, name):
  fuzzing.run("table_readers", name, COUNTS[name], tmp_path / "fuzz")
