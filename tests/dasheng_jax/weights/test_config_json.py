"""Configurations out of files: ours come back as they were, of others every field is checked."""

import dataclasses
import json

import pytest

from dasheng_jax.config import DashengConfig
from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.config_json import Told, parsed_json, restored, told_by
from dasheng_jax.weights.record import content_of, read_json
from dasheng_jax.weights.safetensors_file import open_sharded
from pipelines.kaldi_mel import KALDI_MEL

DEEP = "[" * 100_000


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({"num_heads": [4]}, r"num_heads \[4\], which is not a whole number"),
    ({"num_heads": {}}, "num_heads {}, which is not a whole number"),
    ({"num_heads": "4"}, "num_heads '4', which is not a whole number"),
    ({"num_heads": True}, "num_heads True, which is not a whole number"),
    ({"num_heads": 4.9}, "num_heads 4.9, which is not a whole number"),
    ({"num_heads": float("inf")}, "num_heads inf, which is not a whole number"),
    ({"num_heads": 0}, "num_heads 0, which is not a whole number"),
    ({"num_heads": 10**5000}, "num_heads some int, which is not a whole number"),
    ({"patch_stride": 5}, "patch_stride 5, which is not a pair of whole numbers"),
    ({"patch_stride": [64]}, r"patch_stride \[64\], which is not a pair"),
    ({"patch_stride": [64, 4.0]}, "patch_stride .*, which is not a pair"),
    ({"top_db": [1]}, r"top_db \[1\], which is not a number of decibels above 0"),
    ({"top_db": 0}, "top_db 0, which is not a number of decibels above 0"),
    ({"top_db": float("nan")}, "top_db nan, which is not a number of decibels"),
    ({"top_db": True}, "top_db True, which is not a number of decibels"),
  ],
)
def test_fields_of_a_foreign_configuration(config, message):
  with pytest.raises(WeightsError, match=f"^x.pt: its configuration says {message}") as caught:
    told_by(config, "x.pt")
  assert "\n" not in str(caught.value)


def test_what_a_foreign_configuration_tells():
  assert told_by({}, "x") == told_by({"num_heads": None, "other": [1]}, "x") == Told()
  config = {"num_heads": 4, "patch_stride": [64, 4], "top_db": 80}
  assert told_by(config, "x") == Told(4, (64, 4), 80.0)


@pytest.mark.parametrize(
  ("saved", "message"),
  [
    ({"encoder": {"width": 4_000_000_001}}, "encoder.width is 4000000001, more than any model"),
    ({"mask_ratio": float("nan")}, "mask_ratio is nan, more than any model"),
    ({"encoder": {"mlp_ratio": 1e308}}, r"mlp_ratio is 1e\+308, more than any model"),
    ({"encoder": {"heads": True}}, "encoder.heads is True, not a int"),
  ],
)
def test_a_saved_configuration_of_no_model(saved, message):
  with pytest.raises(WeightsError, match=message):
    restored(DashengConfig(), saved, "x")


def test_an_optional_number_comes_back():
  mel = dataclasses.replace(KALDI_MEL, fmax=14_000.0)
  assert restored(KALDI_MEL, json.loads(json.dumps(dataclasses.asdict(mel))), "x") == mel
  assert restored(KALDI_MEL, {"fmax": None}, "x") == KALDI_MEL


def test_json_that_is_nested_too_deeply(tmp_path):
  with pytest.raises(ValueError, match="nested too deeply"):
    parsed_json(DEEP)
  assert content_of({}, {"config": DEEP}) == {"model": {}, "config": DEEP}
  for name, read in (("config.json", read_json), ("model.safetensors.index.json", open_sharded)):
    path = tmp_path / name
    path.write_text(DEEP)
    with pytest.raises(WeightsError, match=f"{name}: not .*readable") as caught:
      read(path)
    assert "\n" not in str(caught.value)
