"""Golden files: what goes in comes out, and what is refused."""

import dataclasses
import io
import json
import pickle
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from dasheng_jax.errors import WeightsError
from experiments.conversion import golden
from experiments.conversion.golden import (
  About,
  check,
  config_record,
  differences,
  read_golden,
  write_golden,
)
from experiments.conversion.parity import table
from experiments.conversion.stages import default_wave, stage_names, stages
from mobile_jax.config import MNConfig
from tests.dasheng_jax.conftest import TINY, with_encoder

SUFFIXES = ("npz", "safetensors")


@pytest.fixture
def about():
  config = config_record(TINY)
  return About("dasheng", "original 1.0, torch 2.0", "tiny", config, sha256="ab" * 32)


@pytest.fixture
def passed():
  draw = np.random.default_rng(0)
  shapes = {"log_mel": (2, 64, 9), "block_1": (2, 2, 48)}
  return {name: draw.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def wave():
  return np.random.default_rng(1).uniform(-0.5, 0.5, (2, 1600)).astype(np.float32)


@pytest.fixture(params=SUFFIXES)
def stored(request, tmp_path, wave, passed, about):
  path = tmp_path / f"golden.{request.param}"
  write_golden(path, wave, passed, about)
  return path


def test_what_goes_in_comes_out(stored, wave, passed, about):
  found = read_golden(stored)
  np.testing.assert_array_equal(found.wave, wave)
  assert set(found.stages) == set(passed)
  for name, value in passed.items():
    np.testing.assert_array_equal(found.stages[name], value)
    assert found.stages[name].dtype == np.float32
  assert found.about == about
  assert [path.name for path in stored.parent.iterdir()] == [stored.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_model_against_its_own_golden_file(suffix, tmp_path, tiny, about):
  path = tmp_path / f"golden.{suffix}"
  wave = default_wave(TINY)
  found = stages(*tiny, wave)
  write_golden(path, wave, found, about)
  report = check(*tiny, path)
  assert report.ok
  assert len(report.rows) == len(stage_names(TINY))
  assert all(row.difference == 0 for row in report.rows)
  assert report.notes == ("golden outputs by original 1.0, torch 2.0",)
  found["block_2"] = found["block_2"] + np.float32(0.1)
  del found["log_mel"]
  write_golden(path, wave, found, about)
  report = check(*tiny, path)
  assert report.first_departure.stage == "block_2"
  assert report.only_ours == ("log_mel",)


def test_another_family_is_refused(tmp_path, tiny, wave, passed, about):
  path = tmp_path / "golden.npz"
  write_golden(path, wave, passed, about._replace(family="mn"))
  with pytest.raises(WeightsError, match="golden outputs of a mn model, and this is dasheng"):
    check(*tiny, path)


def test_configurations_that_differ_are_named(tmp_path, tiny, about):
  """What no tensor reveals, as the number of heads, explains a departure."""
  path = tmp_path / "golden.npz"
  wave = default_wave(TINY)
  other = with_encoder(TINY, heads=8)
  write_golden(path, wave, stages(*tiny, wave), about._replace(config=config_record(other)))
  report = check(*tiny, path)
  assert "note: the configurations differ in encoder.heads: 8 there, 4 here" in table(report)


def test_differences_without_effect_do_not_count():
  quick = dataclasses.replace(TINY, mask_ratio=0.5).with_compute(scan=False)
  assert differences(config_record(quick), config_record(TINY)) == []
  assert differences({}, config_record(TINY)) == []
  theirs = config_record(MNConfig(strides=(2, 2, 2, 1), dropout=0.0))
  expected = ["strides: [2, 2, 2, 1] there, [2, 2, 2, 2] here"]
  assert differences(theirs, config_record(MNConfig())) == expected


def refused(path, message):
  with pytest.raises(WeightsError, match=message) as caught:
    read_golden(path)
  assert "\n" not in str(caught.value)
  assert str(caught.value).startswith(str(path))


def test_damaged_files_are_refused(stored):
  whole = stored.read_bytes()
  for size in (0, 7, len(whole) // 2, len(whole) - 1):
    stored.write_bytes(whole[:size])
    refused(stored, "not a readable")
  for place in (len(whole) // 3, len(whole) // 2, 2 * len(whole) // 3):
    broken = bytearray(whole)
    broken[place] ^= 0x10
    stored.write_bytes(broken)
    refused(stored, "damaged|not a readable")


def test_foreign_files_are_refused(tmp_path, wave, passed):
  npz, safe = tmp_path / "x.npz", tmp_path / "x.safetensors"
  np.savez(npz, **passed)
  refused(npz, "does not say what it is about")
  save_file(passed, safe)
  refused(safe, "does not say what it is about")
  told = json.dumps({"family": "mn", "made_by": "someone"})
  np.savez(npz, about=np.array(told), **passed)
  refused(npz, "needs 'wave' and a stage, and holds log_mel, block_1")
  save_file({"wave": wave}, safe, metadata={"about": told})
  refused(safe, "needs 'wave' and a stage, and holds wave")
  np.savez(npz, about=np.array(told), wave=wave, logits=np.arange(5))
  refused(npz, "logits is int64, not float32")
  np.savez(npz, about=np.array(told), wave=wave[0], **passed)
  refused(npz, "shape .1600,. is no batch of finite samples")
  for odd in ("[]", "{", '{"family": 3, "made_by": "x"}', '{"family": "mn"}'):
    np.savez(npz, about=np.array(odd), wave=wave, **passed)
    refused(npz, "does not say what it is about")
  (tmp_path / "x.pt").write_bytes(b"")
  refused(tmp_path / "x.pt", "end in .npz or .safetensors")
  refused(tmp_path / "absent.npz", "no such golden file")


def test_nothing_is_unpickled(tmp_path, wave):
  ran = tmp_path / "ran"

  class Payload:
    def __reduce__(self):
      return (ran.write_text, ("x",))

  path = tmp_path / "x.npz"
  objects = np.array([Payload()], object)
  np.savez(path, wave=wave, block_1=objects, allow_pickle=True)
  refused(path, "Object arrays cannot be loaded")
  path.write_bytes(pickle.dumps(Payload()))
  refused(path, "not a readable golden file")
  assert not ran.exists()


def test_claims_of_more_than_there_is(tmp_path, stored, monkeypatch):
  path = tmp_path / "x.npz"
  head = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    head, {"descr": "<f4", "fortran_order": False, "shape": (2**50,)}
  )
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("wave.npy", head.getvalue())
  refused(path, "not a readable golden file")
  if stored.suffix == ".npz":
    monkeypatch.setattr(golden, "_MOST_BYTES", 2000)
    refused(stored, "it claims .* GiB of arrays")


def test_a_write_that_fails_leaves_the_old_file(stored, wave, about):
  before = stored.read_bytes()
  with pytest.raises(ValueError):
    write_golden(stored, wave, {"block_1": np.array(["text"])}, about)
  assert stored.read_bytes() == before
  assert [path.name for path in stored.parent.iterdir()] == [stored.name]
