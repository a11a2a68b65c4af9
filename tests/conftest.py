"""What every test shares: eight simulated devices, no silent rank promotion, the sample data."""

import collections
import importlib.util
import os
import pathlib
import signal

import jax
import jaxtyping
import pytest

from experiments.training.cluster import make_room_for_cpu_collectives
from tests.faults.table import FAULTS

# Where programs are not optimised anyway, the older emitter compiles them in half the time. JAX
# 0.11 has it no more. Processes that tests start get this too.
_UNOPTIMISED, _QUICK = "--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false"
_FLAGS = os.environ.get("XLA_FLAGS", "")
if jax.__version_info__ < (0, 11) and _UNOPTIMISED in _FLAGS and _QUICK not in _FLAGS:
  os.environ["XLA_FLAGS"] = f"{_FLAGS} {_QUICK}"

# A script's background job ignores Ctrl-C, and so would the runs that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
jax.config.update("jax_num_cpu_devices", 8)
make_room_for_cpu_collectives()
jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """Tests marked `torch`, or that ask for its fixture, skip where PyTorch is absent."""
  absent = importlib.util.find_spec("torch") is None
  for item in items:
    if "torch" in getattr(item, "fixturenames", ()):
      item.add_marker(pytest.mark.torch)
    for mark in item.iter_markers("fault"):
      item.user_properties.append(("fault", mark.args[0]))
    if absent and item.get_closest_marker("torch"):
      item.add_marker(pytest.mark.skip(reason="needs the extra [torch]: make test-torch"))


def pytest_terminal_summary(terminalreporter, config):
  """The table of faults, where these were asked for: `make test-faults`."""
  if "faults or fault" not in config.option.markexpr:
    return
  outcomes: dict[int, collections.Counter] = {}
  seconds: collections.Counter = collections.Counter()
  for outcome in ("passed", "failed", "error", "skipped"):
    for report in terminalreporter.stats.get(outcome, ()):
      for name, number in getattr(report, "user_properties", ()):
        if name == "fault":
          outcomes.setdefault(number, collections.Counter())[outcome] += 1
          seconds[number] += report.duration
  if not outcomes:
    return
  terminalreporter.section("faults")
  for number, what in FAULTS.items():
    count = outcomes.get(number)
    told = ", ".join(f"{n} {name}" for name, n in count.items()) if count else "not tried"
    terminalreporter.write_line(f"{number:>3}  {what:<52} {told:<24} {seconds[number]:6.0f} s")


@pytest.fixture(scope="session")
def torch():
  """PyTorch itself; published files are its pickles."""
  import torch

  return torch


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder of fixtures and recordings beside the repository; without it the test skips."""
  if not SHARED.is_dir():
    pytest.skip(f"needs the sample data in {SHARED.name}/ beside the repository")
  return SHARED


def _recordings_of(shared: pathlib.Path, name: str) -> pathlib.Path:
  folder = shared / "fixtures" / name
  if not folder.is_dir():
    pytest.skip(f"needs the recorded arrays in {SHARED.name}/fixtures/{name}")
  return folder


@pytest.fixture(scope="session")
def dasheng_fixtures(shared) -> pathlib.Path:
  """The complete recorded arrays of the Dasheng original."""
  return _recordings_of(shared, "dasheng")


@pytest.fixture(scope="session")
def mobile_fixtures(shared) -> pathlib.Path:
  """The complete recorded arrays of MN and DyMN, the published checkpoint and the recordings."""
  return _recordings_of(shared, "mobile")


@pytest.fixture(scope="session")
def scene_fixtures(shared) -> pathlib.Path:
  """The complete recorded arrays of the scene models, the published student and its clips."""
  return _recordings_of(shared, "scenes")


@pytest.fixture(scope="session")
def tagging_fixtures(shared) -> pathlib.Path:
  """The complete recorded arrays of the weakly supervised taggers."""
  return _recordings_of(shared, "tagging")


@pytest.fixture
def unchecked():
  """Switches the shape checks of the tests off: users run without, and meet our own messages."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)
