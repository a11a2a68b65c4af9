"""Checkpoints that are damaged, of another run or of another version."""

import json
import shutil
import signal

import pytest

from tests.faults.processes import STEPS, Process, checkpoints, finish

pytestmark = pytest.mark.faults


@pytest.mark.fault(9)
def test_a_damaged_newest_checkpoint(unbroken, cache, tmp_path):
  folder = tmp_path / "run"
  process = Process(folder, cache=cache)
  assert process.wait_for(14)
  process.send(signal.SIGTERM)
  before, newest = checkpoints(folder)[-2:]
  data = max(
    (p for p in (folder / "checkpoints" / str(newest) / "state").rglob("*") if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 0x10
  data.write_bytes(content)
  err = finish(folder, unbroken, cache)
  (warning,) = [line for line in err if " is damaged: " in line]
  assert f"checkpoint {newest} in " in warning
  assert warning.endswith(f"going back to checkpoint {before}")
  assert f"resuming after step {before} of {STEPS}" in err
  assert (folder / "checkpoints" / f"{newest}.damaged").is_dir()


def metas(folder):
  return sorted((folder / "checkpoints").glob("*/meta/metadata"))


@pytest.mark.fault(10)
def test_a_checkpoint_of_another_configuration(unbroken, cache, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(unbroken, folder)
  code, err = Process(folder, "--optim.peak_lr", "0.5", "--model.decoder.width", "48").end()
  assert code == 2
  assert "--model.decoder.width 32 -> 48; --optim.peak_lr" in err[-1]
  assert "choose another directory or the saved values" in err[-1]
  finish(folder, unbroken, cache)


@pytest.mark.fault(10)
def test_a_checkpoint_of_an_older_version_goes_on(unbroken, cache, tmp_path):
  """Saved before some fields of the configuration, and the format's number, were there."""
  folder = tmp_path / "run"
  process = Process(folder, cache=cache)
  assert process.wait_for(14)
  process.send(signal.SIGTERM)
  for path in metas(folder):
    meta = json.loads(path.read_text())
    del meta["format"], meta["config"]["loop"]["failed_save"], meta["config"]["model"]["padding"]
    path.write_text(json.dumps(meta))
  step = checkpoints(folder)[-1]
  assert f"resuming after step {step} of {STEPS}" in finish(folder, unbroken, cache)


@pytest.mark.fault(10)
def test_a_checkpoint_of_a_newer_version_is_refused(unbroken, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(unbroken, folder)
  for path in metas(folder):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9}))
  code, err = Process(folder).end()
  assert code == 2
  assert "in format 9 by a newer version of this library" in err[-1]
