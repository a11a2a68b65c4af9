"""Weight files: every layout in, ours out, and whatever is damaged, foreign or hostile refused."""

import dataclasses
import json
import os
import pickle
import pickletools
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dasheng_jax
from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.files import read_encoder_file, write_encoder_file
from dasheng_jax.weights.load import load_encoder, read_encoder
from dasheng_jax.weights.torch_file import read_torch, write_torch
from tests.dasheng_jax.conftest import TINY
from tests.dasheng_jax.fixtures import golden, worst
from tests.state_dicts import SUFFIXES


@pytest.fixture
def save(tmp_path):
  """save(state, **configuration) -> a .safetensors file."""

  def write(state, name="weights.safetensors", **config):
    metadata = {"config": json.dumps(config)} if config else None
    save_file({k: np.asarray(v, order="C") for k, v in state.items()}, tmp_path / name, metadata)
    return tmp_path / name

  return write


def assert_same_tree(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


# --- reading


def test_safetensors(tiny_file, tiny):
  cfg, variables = read_encoder(tiny_file)
  assert cfg.encoder == TINY.encoder
  assert_same_tree(variables, tiny[1])
  assert {x.dtype.name for x in jax.tree.leaves(variables)} == {"float32", "int32"}


def test_heads_are_asked_for_where_nothing_tells(save, tiny_state):
  path = save(tiny_state)
  with pytest.raises(WeightsError, match=r"heads is in no tensor, and width 48.*pass heads="):
    load_encoder(path)
  assert load_encoder(path, heads=4)[0].args[0].encoder.heads == 4
  with pytest.raises(WeightsError, match="width 48 is not divisible by 5 heads"):
    load_encoder(path, heads=5)


def test_hugging_face_layout(save, tiny_state, tiny):
  """Prefix "encoder.", no front end, a classifier beside it; the counter may be left out."""
  state = {f"encoder.{k}": v for k, v in tiny_state.items() if not k.startswith("front_end")}
  state["outputlayer.0.weight"] = np.ones(48, np.float32)
  assert_same_tree(read_encoder(save(state), heads=4)[1], tiny[1])
  del state["encoder.init_bn.1.num_batches_tracked"]
  _, variables = read_encoder(save(state), heads=4)
  assert variables["batch_stats"]["init_bn"]["count"] == 0


def test_complete_autoencoder(save, tiny_state, tiny):
  state = {f"encoder.{k}": v for k, v in tiny_state.items()}
  state["decoder.mask_token"] = np.zeros((1, 1, 8), np.float32)
  path = save(state)
  assert read_encoder_file(path).layout == "complete autoencoder"
  assert_same_tree(read_encoder(path, heads=4)[1], tiny[1])


def test_published_sizes_need_no_heads(save):
  """Width and depth of a published model name its heads; checked on shapes, without its weights."""
  from dasheng_jax.weights.files import EncoderFile, config_of

  state = {
    "patch_embed.proj.weight": np.broadcast_to(np.float32(0), (768, 1, 64, 4)),
    "time_pos_embed": np.broadcast_to(np.float32(0), (1, 768, 1, 252)),
    **{f"blocks.{n}.norm1.bias": np.zeros(768, np.float32) for n in range(12)},
  }
  cfg = config_of(EncoderFile(state, {}, "bare state dict"))
  assert cfg == dasheng_jax.named("dasheng_base")


def test_a_runs_folder(tiny_file, tmp_path, tiny):
  with pytest.raises(
    WeightsError, match=r"holds neither encoder.safetensors nor a checkpoint; pass"
  ):
    load_encoder(tmp_path)
  (tmp_path / "export").mkdir()
  os.link(tiny_file, tmp_path / "export" / "encoder.safetensors")
  assert_same_tree(load_encoder(tmp_path)[1], tiny[1])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      lambda s: s.clear() or s.update(w=np.zeros(3)),
      r"not a Dasheng encoder \(it holds w",
    ),
    (lambda s: s.pop("norm.bias"), "missing norm.bias"),
    (lambda s: s.update(extra=np.zeros(3)), "unexpected extra"),
    (lambda s: s["norm.bias"].fill(np.nan), "norm.bias holds NaN"),
    (
      lambda s: s.update({"front_end.0.spectrogram.window": np.hamming(512)}),
      "window is not Dasheng's front end",
    ),
    (
      lambda s: s.update({"front_end.0.mel_scale.fb": np.zeros((257, 80))}),
      "fb is not Dasheng's front end",
    ),
  ],
)
def test_foreign_and_damaged_contents(save, tiny_state, change, message):
  state = {k: v.copy() for k, v in tiny_state.items()}
  change(state)
  path = save(state, num_heads=4)
  with pytest.raises(WeightsError, match=message) as caught:
    load_encoder(path)
  assert str(caught.value).startswith(str(path))
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_that_are_none(tmp_path, tiny_file, suffix):
  path = tmp_path / f"x{suffix}"
  with pytest.raises(WeightsError, match="no such weight file"):
    load_encoder(path)
  whole = tiny_file.read_bytes()
  for content in (b"", b"not a model", whole[: len(whole) // 2]):
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"not a readable|refused|download it again") as caught:
      load_encoder(path)
    assert "\n" not in str(caught.value)


def test_positions_can_be_asked_for(tiny_file):
  embed, params = load_encoder(tiny_file, positions=100, clamp="sample", dtype="bfloat16")
  cfg = embed.args[0]
  assert cfg.encoder.positions == 100
  assert params["params"]["positions"]["time"].shape == (100, 48)
  assert (cfg.mel.clamp, cfg.compute.dtype) == ("sample", "bfloat16")


def test_loaded_encoder_under_jit(tiny_file):
  embed, params = load_encoder(tiny_file)
  arrays = golden("encoder")
  wave = jnp.asarray(golden("frontend")["wave_1s"][None])
  assert worst(jax.jit(embed)(params, wave), arrays["1s_out"]) < 2e-3


# --- writing


def test_written_safetensors_has_official_names_and_comes_back(tmp_path, tiny, tiny_state):
  path = tmp_path / "encoder.safetensors"
  write_encoder_file(path, TINY, tiny[1])
  state = load_file(path)
  assert set(state) == set(tiny_state)
  for name, value in tiny_state.items():
    assert state[name].dtype == value.dtype
    np.testing.assert_allclose(state[name], value, atol=2e-6 if "front_end" in name else 0)
  cfg, variables = read_encoder(path)  # heads come from the file's own configuration
  assert cfg.encoder == TINY.encoder
  assert_same_tree(variables, tiny[1])
  assert list(tmp_path.iterdir()) == [path]


class Pickle(pickle.Unpickler):
  """Reads our pickle without PyTorch: tensors become (storage type, number, size, shape, ...)."""

  def find_class(self, module, name):
    if (module, name) == ("collections", "OrderedDict"):
      return dict
    assert module in ("torch", "torch._utils"), (module, name)
    if name == "_rebuild_tensor_v2":
      return lambda storage, offset, shape, strides, grad, hooks: (storage, shape, strides, grad)
    return name

  def persistent_load(self, pid):
    assert pid[0] == "storage"
    assert pid[3] == "cpu"
    return pid[1], pid[2], pid[4]


def test_written_torch_file_without_torch(tmp_path, tiny, tiny_state):
  """The zip and its pickle, taken apart: PyTorch's layout, and nothing that could run code."""
  path = tmp_path / "encoder.pt"
  write_encoder_file(path, TINY, tiny[1])
  with zipfile.ZipFile(path) as archive:
    assert archive.testzip() is None
    assert {"encoder/data.pkl", "encoder/version", "encoder/byteorder"} <= set(archive.namelist())
    assert archive.read("encoder/version") == b"3\n"
    program = archive.read("encoder/data.pkl")
    named = {op[1] for op in pickletools.genops(program) if op[0].name == "GLOBAL"}
    assert named == {
      "torch._utils _rebuild_tensor_v2",
      "torch FloatStorage",
      "torch LongStorage",
      "collections OrderedDict",
    }
    with archive.open("encoder/data.pkl") as file:
      content = Pickle(file).load()
    assert content["config"]["num_heads"] == 4
    assert content["config"]["target_length"] == 1008
    assert content["config"]["patch_size"] == [64, 4]
    for info in archive.infolist():
      if "/data/" in info.filename:
        with open(path, "rb") as raw:
          raw.seek(info.header_offset + 26)
          name, extra = np.frombuffer(raw.read(4), "<u2").tolist()
        assert (info.header_offset + 30 + name + extra) % 64 == 0
        assert info.compress_type == zipfile.ZIP_STORED
    assert set(content["model"]) == set(tiny_state)
    for name, (storage, shape, strides, grad) in content["model"].items():
      kind, number, size = storage
      assert grad is False
      dtype = {"FloatStorage": "<f4", "LongStorage": "<i8"}[kind]
      value = np.frombuffer(archive.read(f"encoder/data/{number}"), dtype)
      assert value.size == size
      value = value.reshape(shape)
      assert strides == tuple(s // value.itemsize for s in value.strides)
      np.testing.assert_allclose(value, tiny_state[name], atol=2e-6 if "front_end" in name else 0)


@pytest.mark.torch
def test_torch_reads_what_we_write(tmp_path, tiny, tiny_state):
  import torch

  path = tmp_path / "encoder.pt"
  write_encoder_file(path, TINY, tiny[1])
  content = torch.load(path, weights_only=True)
  assert set(content["model"]) == set(tiny_state)
  assert content["model"]["init_bn.1.num_batches_tracked"].dtype == torch.int64
  assert_same_tree(read_encoder(path)[1], tiny[1])


@pytest.mark.torch
def test_torch_round_trip_of_every_kind_of_value(tmp_path):
  import torch

  content = {
    "a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "c": np.int64(3)},
    "types": [np.zeros(2, t) for t in ("float64", "float16", "int32", "uint8", "bool")],
    "plain": [1, -5, 2**40, -(2**40), 2.5, "x\u00e4", None, True, False, [], {}],
  }
  write_torch(tmp_path / "x.pt", content)
  back = torch.load(tmp_path / "x.pt", weights_only=True)
  assert back["plain"] == content["plain"]
  np.testing.assert_array_equal(back["a"]["b"], content["a"]["b"])
  for one, other in zip(read_torch(tmp_path / "x.pt")["types"], content["types"], strict=True):
    assert one.dtype == other.dtype


@pytest.mark.torch
def test_published_layout_of_torch(dasheng_fixtures, tiny):
  embed, params = load_encoder(dasheng_fixtures / "tiny_dasheng.pt")
  assert_same_tree(params, tiny[1])
  wave = np.load(dasheng_fixtures / "frontend.npz")["wave_clip_3s"]
  expected = np.load(dasheng_fixtures / "encoder.npz")["clip_3s_out"]
  assert worst(jax.jit(embed)(params, jnp.asarray(wave[None])), expected) <= 1e-4


@pytest.mark.torch
def test_training_scripts_layout_of_torch(tmp_path, tiny, tiny_state):
  """Encoder arguments nested in the training configuration: the heads are found there."""
  path = tmp_path / "run.pt"
  config = {"batch_size": 32, "model_args": {"num_heads": 4}}
  write_torch(path, {"model": tiny_state, "config": config})
  assert read_encoder_file(path).layout == "training script"
  assert_same_tree(read_encoder(path)[1], tiny[1])


@pytest.mark.parametrize("content", [b"abc" * 100, b"RIFF....WAVEfmt ", b"", b"\x80\x02]q\x00."])
@pytest.mark.torch
def test_a_torch_file_that_is_none(tmp_path, content):
  path = tmp_path / "junk.pt"
  path.write_bytes(content)
  with pytest.raises(WeightsError, match="junk.pt: ") as caught:
    load_encoder(path)
  assert "\n" not in str(caught.value)


def test_a_published_file_that_is_not_here(tmp_path):
  for name in ("dasheng_base", "dasheng_06b.pt"):
    with pytest.raises(
      WeightsError, match=r"no such weight file; download dasheng_\w+.pt from http"
    ):
      load_encoder(tmp_path / name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_clamp_of_training_comes_back(tmp_path, tiny, suffix):
  path = tmp_path / f"encoder{suffix}"
  mel = dataclasses.replace(TINY.mel, clamp="sample")
  write_encoder_file(path, dataclasses.replace(TINY, mel=mel), tiny[1])
  assert read_encoder(path)[0].mel.clamp == "sample"
  assert load_encoder(path, clamp="batch")[0].args[0].mel.clamp == "batch"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files_give_float32_parameters(tmp_path, save, tiny_state, tiny, dtype):
  half = np.dtype(dtype) if dtype == "float16" else jnp.bfloat16
  state = {
    name: x.astype(half) if x.dtype == np.float32 else x
    for name, x in tiny_state.items()
    if not name.startswith("front_end")
  }
  _, variables = read_encoder(save(state), heads=4)
  for one, other in zip(jax.tree.leaves(variables), jax.tree.leaves(tiny[1]), strict=True):
    assert one.dtype == other.dtype
    np.testing.assert_allclose(one, other, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("config", ["not json", "[1]"])
def test_a_foreign_config_is_refused(tmp_path, tiny_state, config):
  save_file(tiny_state, tmp_path / "x.safetensors", metadata={"config": config})
  with pytest.raises(WeightsError, match="config is no group of named values"):
    load_encoder(tmp_path / "x.safetensors")


def test_overlapping_patches_are_refused(tmp_path, tiny_state):
  config = {"num_heads": 4, "patch_stride": [64, 2]}
  save_file(tiny_state, tmp_path / "x.safetensors", metadata={"config": json.dumps(config)})
  with pytest.raises(WeightsError, match=r"step by \[64, 2\]; overlapping"):
    load_encoder(tmp_path / "x.safetensors")


@pytest.mark.torch
def test_a_pickle_that_runs_code_is_refused(tmp_path):
  import torch

  path, trace = tmp_path / "evil.pt", tmp_path / "ran"

  class Evil:
    def __reduce__(self):
      return os.mkdir, (str(trace),)

  torch.save({"model": {"time_pos_embed": Evil()}}, path)
  with pytest.raises(WeightsError, match="refused, since loading it would run code") as caught:
    load_encoder(path)
  assert "\n" not in str(caught.value)
  assert not trace.exists()


def test_a_failed_write_leaves_nothing(tmp_path):
  path = tmp_path / "x.pt"
  with pytest.raises(WeightsError, match="a set cannot be written"):
    write_torch(path, {"a": {1, 2}})
  with pytest.raises(WeightsError, match="complex64 cannot be written"):
    write_torch(path, {"a": np.zeros(1, np.complex64)})
  assert not list(tmp_path.iterdir())
