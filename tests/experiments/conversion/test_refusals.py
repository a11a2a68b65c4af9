"""What is unsound is refused by name, and nothing is written."""

import json
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

import dasheng_jax
from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.torch_file import open_torch, write_torch
from experiments.training.errors import UsageError
from tests.experiments.conversion.files import convert, left_in, saved
from tests.state_dicts import SUFFIXES


@pytest.mark.torch
def test_another_file_under_a_published_name(recorded, tmp_path):
  source = tmp_path / "mn04_as_mAP_432.pt"
  write_torch(source, recorded("mn01_c_mlp").state)
  with pytest.raises(WeightsError, match="is not the published file of this name"):
    convert(source, tmp_path / "b", to="orbax", name="mn01_as")
  assert left_in(tmp_path) == {source.name}


@pytest.mark.parametrize(
  ("paths", "settings", "message"),
  [
    ((), {}, "give SOURCE and DEST"),
    (("a",), {}, "DEST is missing"),
    (("a", "a"), {}, "are the same"),
    (("a", "b"), {"shard_size": "five"}, "--shard_size five"),
    (("a", "b"), {"positions": -1}, "must not be negative"),
  ],
)
def test_wrong_command_lines(paths, settings, message):
  with pytest.raises(UsageError, match=message):
    convert(*paths, **settings)


def test_destinations_that_cannot_be(tiny_state, tmp_path):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  (tmp_path / "there").mkdir()
  (tmp_path / "there" / "thesis.txt").write_text("dear")
  (tmp_path / "there" / "config.json").write_text('{"name": "somebody else\'s"}')
  for dest, settings, message in (
    ("b", {}, "its name tells no kind; pass --to"),
    ("b.safetensors", {"to": "orbax"}, "writes a folder; leave .safetensors out"),
    ("b", {"to": "torch"}, "end its name in .pt"),
    ("there", {"to": "orbax"}, "is there already; pass --overwrite"),
    ("there", {"to": "orbax", "overwrite": True}, "a folder of something else"),
    ("no/where.pt", {}, "no such folder; make it first"),
  ):
    with pytest.raises(WeightsError, match=message):
      convert(source, tmp_path / dest, **settings)
  assert (tmp_path / "there" / "thesis.txt").read_text() == "dear"
  assert left_in(tmp_path) == {"a.safetensors", "there"}


def test_overwriting_replaces_what_we_wrote(tiny_state, tmp_path):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  convert(source, tmp_path / "b", to="orbax")
  convert(source, tmp_path / "b", to="huggingface", overwrite=True)
  assert left_in(tmp_path / "b") == {"README.md", "config.json", "model.safetensors"}
  assert left_in(tmp_path) == {"a.safetensors", "b"}


DAMAGE = {
  "empty": lambda path: path.write_bytes(b""),
  "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
  "no header": lambda path: path.write_bytes(b"\xff" * 1000),
  "huge header": lambda path: path.write_bytes(b"\xff" * 7 + b"\x7f" + path.read_bytes()[8:]),
  "flipped header": lambda path: path.write_bytes(
    path.read_bytes()[:1] + b"\xfe" + path.read_bytes()[2:]
  ),
  "text": lambda path: path.write_text("<html>not found</html>"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_are_refused_and_nothing_is_written(damage, suffix, tiny_state, tmp_path):
  source = tmp_path / f"a{suffix}"
  if suffix == ".pt":
    write_torch(source, {"model": tiny_state, "config": {"num_heads": 4}})
  else:
    saved(source, tiny_state, num_heads=4)
  DAMAGE[damage](source)
  with pytest.raises(WeightsError) as caught:
    convert(source, tmp_path / "b", to="orbax")
  assert str(source) in str(caught.value)
  assert "\n" not in str(caught.value)
  assert left_in(tmp_path) == {source.name}


@pytest.mark.torch
def test_a_flipped_bit_in_a_torch_file_is_found(tiny_state, tmp_path):
  """The archive's own checksums tell, which PyTorch does not look at."""
  source = tmp_path / "a.pt"
  write_torch(source, {"model": tiny_state, "config": {"num_heads": 4}})
  whole = bytearray(source.read_bytes())
  values = tiny_state["blocks.1.mlp.fc1.weight"].tobytes()
  whole[whole.find(values) + 777] ^= 4
  source.write_bytes(whole)
  with pytest.raises(WeightsError, match=r"the checksum of .*data/\d+ is wrong"):
    convert(source, tmp_path / "b", to="orbax")
  assert left_in(tmp_path) == {"a.pt"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(value, tiny_state, tmp_path):
  state = {k: v.copy() for k, v in tiny_state.items()}
  state["blocks.2.norm1.bias"][3] = value
  source = saved(tmp_path / "a.safetensors", state, num_heads=4)
  with pytest.raises(WeightsError, match=r"blocks.2.norm1.bias holds NaN or infinity"):
    convert(source, tmp_path / "b", to="huggingface")
  assert left_in(tmp_path) == {"a.safetensors"}


def test_a_model_of_no_family(tmp_path):
  source = saved(tmp_path / "a.safetensors", {"conv1.weight": np.zeros((3, 3), np.float32)})
  with pytest.raises(WeightsError, match=r"nor DyMN \(it holds conv1.weight"):
    convert(source, tmp_path / "b", to="orbax")


def test_all_problems_come_in_one_report(tiny_state, tmp_path):
  state = dict(tiny_state)
  del state["norm.bias"]
  state["what.is.this"] = np.zeros(2, np.float32)
  state["blocks.0.mlp.fc1.bias"] = np.zeros(7, np.float32)
  source = saved(tmp_path / "a.safetensors", state, num_heads=4)
  with pytest.raises(WeightsError, match=r"missing norm.bias") as caught:
    convert(source, tmp_path / "b", to="orbax")
  assert "unexpected what.is.this" in str(caught.value)
  assert "blocks.0.mlp.fc1.bias has shape (7,)" in str(caught.value)


@pytest.mark.torch
def test_a_training_file_with_a_pickled_path(tiny_state, tmp_path):
  """The training script stores its output folder as a path object: no code of it is run."""
  import torch

  model = {k: torch.from_numpy(np.array(v)) for k, v in tiny_state.items()}
  config = {"outputpath": pathlib.Path("runs/one"), "model_args": {"num_heads": 4}}
  torch.save({"model": model, "config": config}, tmp_path / "a.pt")
  assert open_torch(tmp_path / "a.pt")["config"]["outputpath"] == "runs/one"
  convert(tmp_path / "a.pt", tmp_path / "b", to="huggingface")
  assert dasheng_jax.load_encoder(tmp_path / "b")[0].args[0].encoder.heads == 4


class _Hostile:
  def __init__(self, trace):
    self.trace = str(trace)

  def __reduce__(self):
    import os

    return os.mkdir, (self.trace,)


@pytest.mark.fault(12)
@pytest.mark.torch
def test_a_hostile_pickle_is_refused_and_its_key_named(tmp_path, tiny_state):
  import torch

  trace, source = tmp_path / "ran", tmp_path / "evil.pt"
  torch.save({"model": {"a": torch.zeros(2)}, "callbacks": _Hostile(trace)}, source)
  with pytest.raises(WeightsError, match=r"mkdir under the key 'callbacks'.*re-save") as caught:
    convert(source, tmp_path / "b", to="orbax")
  assert "\n" not in str(caught.value)
  assert left_in(tmp_path) == {"evil.pt"}


@pytest.mark.fault(12)
@pytest.mark.torch
def test_a_bare_hostile_pickle_is_refused(tmp_path):
  trace, source = tmp_path / "ran", tmp_path / "evil.ckpt"
  source.write_bytes(pickle.dumps(_Hostile(trace)))
  with pytest.raises(WeightsError):
    convert(source, tmp_path / "b", to="orbax")
  assert left_in(tmp_path) == {"evil.ckpt"}


@pytest.mark.fault(12)
@pytest.mark.torch
def test_a_zip_with_paths_out_of_the_archive_writes_nothing(tmp_path):
  source = tmp_path / "in" / "evil.pt"
  source.parent.mkdir()
  with zipfile.ZipFile(source, "w") as archive:
    archive.writestr("../../escaped", "x")
    archive.writestr("evil/data.pkl", b"\x80\x02}q\x00.")
  with pytest.raises(WeightsError):
    convert(source, tmp_path / "b", to="orbax")
  assert left_in(tmp_path) == {"in"}


@pytest.mark.fault(12)
def test_an_index_that_points_elsewhere_is_refused(tiny_state, tmp_path):
  secret = saved(tmp_path / "secret.safetensors", tiny_state, num_heads=4)
  folder = tmp_path / "hub"
  folder.mkdir()
  index = {"weight_map": dict.fromkeys(tiny_state, f"../{secret.name}")}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))
  with pytest.raises(WeightsError, match="shards must lie beside their index"):
    convert(folder, tmp_path / "b", to="orbax")
  index = {"weight_map": dict.fromkeys(tiny_state, "absent.safetensors")}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))
  with pytest.raises(WeightsError, match=r"absent.safetensors: no such shard"):
    convert(folder, tmp_path / "b", to="orbax")


def test_our_own_folder_tells_its_damage(tiny_state, tmp_path):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  convert(source, tmp_path / "b", to="orbax")
  path = tmp_path / "b" / "config.json"
  config = json.loads(path.read_text())
  arrays = config["dasheng_jax"]["arrays"]
  arrays["params/norm/bias"][2] += 1
  path.write_text(json.dumps(config))
  for load in (dasheng_jax.load_encoder, lambda p: convert(p, tmp_path / "c.pt")):
    with pytest.raises(WeightsError, match="params/norm/bias is damaged; convert the source again"):
      load(tmp_path / "b")
  arrays["params/norm/bias"][2] -= 1
  config["dasheng_jax"]["format"] = 99
  path.write_text(json.dumps(config))
  with pytest.raises(WeightsError, match="another format of this library"):
    dasheng_jax.load_encoder(tmp_path / "b")
  path.write_text("{")
  with pytest.raises(WeightsError, match=r"config.json: not readable as JSON"):
    dasheng_jax.load_encoder(tmp_path / "b")
