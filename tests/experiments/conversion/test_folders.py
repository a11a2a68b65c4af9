"""Folders of weights: two models in one, stray tensors, records that lie, what is said of them."""

import json
import logging

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dasheng_jax
from dasheng_jax.errors import WeightsError
from tests.experiments.conversion.files import convert, left_in, saved


@pytest.fixture
def source(tiny_state, tmp_path):
  return saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)


def refused(message, folder):
  for load in (lambda p: convert(p, dry_run=True), lambda p: dasheng_jax.load_encoder(p)):
    with pytest.raises(WeightsError, match=message) as caught:
      load(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_with_two_models(source, tmp_path):
  folder = tmp_path / "b"
  convert(source, folder, to="huggingface", shard_size="100kB")
  convert(source, tmp_path / "c", to="huggingface")
  (tmp_path / "c" / "model.safetensors").rename(folder / "model.safetensors")
  refused("holds both model.safetensors.index.json and model.safetensors,", folder)
  convert(source, tmp_path / "d", to="orbax")
  (folder / "model.safetensors").rename(tmp_path / "d" / "model.safetensors")
  refused("holds both state and model.safetensors,", tmp_path / "d")


def test_tensors_that_the_index_does_not_place(source, tmp_path):
  folder = tmp_path / "b"
  convert(source, folder, to="huggingface", shard_size="100kB")
  shard = folder / "model-00002-of-00005.safetensors"
  whole = load_file(shard)
  save_file({**whole, "extra.tensor": np.zeros(3, np.float32)}, shard)
  refused("00002-of-00005.safetensors: holds extra.tensor, which .*index.json does not", folder)
  index = json.loads((folder / "model.safetensors.index.json").read_text())
  elsewhere = next(n for n, f in index["weight_map"].items() if f != shard.name)
  save_file({**whole, elsewhere: np.zeros(3, np.float32)}, shard)
  refused(f"holds {elsewhere}, which", folder)


def test_a_folder_with_a_pickle(tmp_path):
  (tmp_path / "pytorch_model.bin").write_bytes(b"x")
  with pytest.raises(WeightsError, match=r"; pass .*pytorch_model.bin$"):
    convert(tmp_path, dry_run=True)
  (tmp_path / "config.json").write_text("{}")
  refused(r"; pass .*pytorch_model.bin$", tmp_path)


@pytest.mark.parametrize(
  ("path", "entry", "message"),
  [
    ("params/norm/bias", 5, "does not say shape, type, checksum and part of 'params/norm/bias'"),
    ("params/norm/bias", [5, "float32", 0, 0], "does not say shape"),
    ("params/norm/bias", [["x"], "float32", 0, 0], "does not say shape"),
    ("params/norm/bias", [[48], "float32", 0, -1], "does not say shape"),
    ("params/norm/bias", [[48], "float32", 0, True], "does not say shape"),
    ("params/norm/bias", [[48], "object", 0, 0], "is not that of the model"),
    ("params/norm/bias", [[48], "nodtype", 0, 0], "is not that of the model"),
    ("params/classifier/x", 5, "does not say shape"),
    ("params/decoder/mask_token", [[1, 1, 5], "object", 0, 0], "lists no params/decoder/"),
    ("params/decoder/zzz", [[1], "float32", 0, 0], "zzz, which is no part of this model"),
    ("params/classifier/logits/bias", [[9], "float32", 0, 0], "lists no params/classifier/"),
  ],
)
def test_a_record_of_arrays_that_lies(tmp_path, ours, path, entry, message):
  config = json.loads((ours / "config.json").read_text())
  config["dasheng_jax"]["arrays"][path] = entry
  folder = tmp_path / "b"
  folder.mkdir()
  (folder / "state").symlink_to(ours / "state")
  (folder / "config.json").write_text(json.dumps(config))
  with pytest.raises(WeightsError, match=message) as caught:
    convert(folder, dry_run=True)
  assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def ours(tiny_state, tmp_path_factory):
  """The tiny encoder as one of our own folders."""
  folder = tmp_path_factory.mktemp("ours")
  convert(saved(folder / "a.safetensors", tiny_state, num_heads=4), folder / "b", to="orbax")
  return folder / "b"


def test_what_is_said_of_our_own_folder(ours, recorded, tmp_path, capsys):
  convert(ours, dry_run=True)
  said = capsys.readouterr().out
  for sentence in (
    "layout: our own folder",
    "encoder: width 48, depth 3, 252 positions, no published size; clamp at 120 dB below",
    "heads: 4, as stored with the weights",
    "no classifier",
  ):
    assert f"  {sentence}" in said
  mn = saved(tmp_path / "m.safetensors", recorded("mn01_c_mlp").state)
  convert(mn, tmp_path / "n", to="orbax")
  capsys.readouterr()
  convert(tmp_path / "n", dry_run=True)
  said = capsys.readouterr().out
  for sentence in ("layout: our own folder", "width 0.1, as stored", "head: mlp, 20 classes"):
    assert f"  {sentence}" in said


def test_writing_our_own_folder_warns_of_nothing(source, tmp_path):
  heard = []

  class Listener(logging.Handler):
    def emit(self, record):
      heard.append(record.getMessage())

  logger, listener = logging.getLogger("absl"), Listener()
  before = logger.level
  logger.addHandler(listener)
  try:
    convert(source, tmp_path / "b", to="orbax")
  finally:
    logger.removeHandler(listener)
  assert not heard
  assert logger.level == before
  assert left_in(tmp_path) == {"a.safetensors", "b"}
