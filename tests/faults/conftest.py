"""A run that nothing disturbs, and compiled programs that all starts share."""

import pytest

from tests.experiments.tiny_pretrain import rows
from tests.faults.processes import STEPS, Process


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
  """Compiled programs, which all starts but the undisturbed one share."""
  return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
  """The folder of an undisturbed run."""
  folder = tmp_path_factory.mktemp("unbroken") / "run"
  code, err = Process(folder).end()
  assert code == 0, err
  assert len(rows(folder)) == STEPS + 3
  return folder
