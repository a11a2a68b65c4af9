"""Weights in, weights out: every layout to every other, bit for bit; what is unsound is refused."""

import json
import pathlib
import pickle
import re
import zipfile

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dasheng_jax
import mobile_jax
from dasheng_jax.errors import ConfigError, WeightsError
from dasheng_jax.weights.names import FRONT_END
from dasheng_jax.weights.torch_file import open_torch, write_torch
from experiments import convert_weights
from experiments.training.errors import RunError, UsageError
from tests.mobile_jax.fixtures import DYMN_NAMES, MN_NAMES

WIDTH = 48


def convert(*paths, **settings) -> int:
  cfg = convert_weights.Convert(paths=tuple(map(str, paths)), **settings)
  return convert_weights.main(cfg)


def saved(path, state, **config) -> pathlib.Path:
  notes = {"config": json.dumps(config)} if config else None
  save_file({k: np.asarray(v, order="C") for k, v in state.items()}, path, notes)
  return path


def tensors_of(path) -> dict[str, np.ndarray]:
  """Every tensor of a written file or folder, under the names in it."""
  path = pathlib.Path(path)
  if path.is_dir():
    return {k: v for file in sorted(path.glob("*.safetensors")) for k, v in load_file(file).items()}
  return load_file(path)


def assert_same(one, other):
  assert set(one) == set(other)
  for name, value in one.items():
    twin = np.asarray(other[name])
    assert (twin.dtype, twin.shape) == (value.dtype, value.shape), name
    np.testing.assert_array_equal(value, twin, err_msg=name)


def left_in(folder) -> set[str]:
  return {path.name for path in folder.iterdir()}


@pytest.fixture
def complete(tiny_state):
  """The tiny encoder with a decoder of another size, as a training state has them."""
  draw = np.random.default_rng(1)
  state = {f"encoder.{k}": v for k, v in tiny_state.items()}
  shapes = {"mask_token": (1, 1, 16), "pos_embed": (1, 253, 16)}
  shapes |= {"input_proj.weight": (16, WIDTH), "input_proj.bias": (16,)}
  for n in range(2):
    block = {"norm1": (16,), "norm2": (16,)}
    for name, shape in block.items():
      shapes |= {f"blocks.{n}.{name}.{part}": shape for part in ("weight", "bias")}
    for name, (rows, columns) in {
      "attn.qkv": (48, 16),
      "attn.proj": (16, 16),
      "mlp.fc1": (64, 16),
      "mlp.fc2": (16, 64),
    }.items():
      shapes |= {f"blocks.{n}.{name}.weight": (rows, columns), f"blocks.{n}.{name}.bias": (rows,)}
  shapes |= {"norm.weight": (16,), "norm.bias": (16,)}
  shapes |= {"outputlayer.weight": (256, 16), "outputlayer.bias": (256,)}
  return state | {
    f"decoder.{name}": draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()
  }


@pytest.fixture
def classifier(tiny_state):
  """The tiny encoder with a head for five classes."""
  draw = np.random.default_rng(2)
  shapes = {"0.weight": (WIDTH,), "0.bias": (WIDTH,), "1.weight": (5, WIDTH), "1.bias": (5,)}
  head = {f"outputlayer.{k}": draw.normal(size=s).astype(np.float32) for k, s in shapes.items()}
  return dict(tiny_state) | head


# --- round trips


@pytest.mark.parametrize("kind", ["huggingface", "orbax", "safetensors"])
def test_dasheng_out_and_back_bit_for_bit(kind, tiny_state, tmp_path, capsys):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  middle = tmp_path / ("b.safetensors" if kind == "safetensors" else "b")
  convert(source, middle, to=kind)
  convert(middle, tmp_path / "c.safetensors")
  back = tensors_of(tmp_path / "c.safetensors")
  for name in FRONT_END.values():  # we compute these: equal but for float32's noise
    np.testing.assert_allclose(back.pop(name), tiny_state[name], atol=2e-5)
  assert_same({k: v for k, v in tiny_state.items() if k not in FRONT_END.values()}, back)
  said = capsys.readouterr().out
  assert "heads: 4, by the file's configuration" in said
  wave = jnp.asarray(np.random.default_rng(0).normal(size=(1, 16000)) * 0.1, jnp.float32)
  results = []
  for path in (source, middle):
    embed, params = dasheng_jax.load_encoder(path)
    results.append(np.asarray(jax.jit(embed)(params, wave)))
  np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("kind", ["huggingface", "orbax", "safetensors"])
@pytest.mark.parametrize("name", ["mn01_c_mlp", "dymn01_all"])
def test_mobile_out_and_back_bit_for_bit(name, kind, recorded, tmp_path):
  network = recorded(name)
  source = saved(tmp_path / "a.safetensors", network.state)
  middle = tmp_path / ("b.safetensors" if kind == "safetensors" else "b")
  convert(source, middle, to=kind, shard_size="200kB")
  convert(middle, tmp_path / "c.safetensors")
  assert_same(network.state, tensors_of(tmp_path / "c.safetensors"))
  if kind == "huggingface":
    assert (middle / "model.safetensors.index.json").is_file()
  if kind != "safetensors":
    _, variables = mobile_jax.load_model(middle)
    want = mobile_jax.load_model(source, config=network.cfg)[1]
    jax.tree.map(np.testing.assert_array_equal, variables, want)


def test_shards_as_hugging_face_lays_them_out(tiny_state, tmp_path):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  convert(source, tmp_path / "b", to="huggingface", shard_size="100kB")
  index = json.loads((tmp_path / "b" / "model.safetensors.index.json").read_text())
  files = sorted(set(index["weight_map"].values()))
  assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
  assert len(files) > 3
  held = tensors_of(tmp_path / "b")
  assert set(index["weight_map"]) == set(held)
  assert index["metadata"]["total_size"] == sum(x.nbytes for x in held.values())
  assert all((tmp_path / "b" / f).stat().st_size < 140_000 for f in files)
  assert not any("front_end" in name for name in held)
  assert all(name.startswith("encoder.") for name in held)
  config = json.loads((tmp_path / "b" / "config.json").read_text())
  assert config["model_type"] == "dasheng"
  assert config["encoder_kwargs"]["num_heads"] == 4


def test_a_torch_file_out_and_back(tiny_state, tmp_path):
  pytest.importorskip("torch")
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  convert(source, tmp_path / "b.pt")
  convert(tmp_path / "b.pt", tmp_path / "c.safetensors")
  convert(source, tmp_path / "d.safetensors")
  assert (tmp_path / "c.safetensors").read_bytes() == (tmp_path / "d.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["orbax", "safetensors"])
def test_a_complete_autoencoder_keeps_its_decoder(complete, kind, tmp_path, capsys):
  source = saved(tmp_path / "a.safetensors", complete)
  middle = tmp_path / ("b.safetensors" if kind == "safetensors" else "b")
  with pytest.raises(WeightsError, match="decoder's number of heads.*pass --decoder_heads"):
    convert(source, middle, to=kind, heads=4)
  convert(source, middle, to=kind, heads=4, decoder_heads=2)
  assert "decoder: width 16, depth 2, 2 heads" in capsys.readouterr().out
  convert(middle, tmp_path / "c.safetensors", decoder_heads=2)
  back = tensors_of(tmp_path / "c.safetensors")
  decoder = {k: v for k, v in complete.items() if k.startswith("decoder.")}
  assert_same(decoder, {k: v for k, v in back.items() if k.startswith("decoder.")})
  assert dasheng_jax.load_encoder(middle)[0].args[0].encoder.width == WIDTH


def test_the_classifier_comes_along_and_classifies(classifier, tmp_path, capsys):
  from dasheng_jax.classifier import classify
  from dasheng_jax.weights.table import from_torch
  from dasheng_jax.weights.tensors import Arrays
  from experiments.conversion.source import Wishes, open_source

  source = saved(tmp_path / "a.safetensors", classifier)
  convert(source, tmp_path / "b", to="orbax", heads=4)
  assert "classifier: 5 classes" in capsys.readouterr().out
  convert(tmp_path / "b", tmp_path / "c", to="huggingface")
  back = tensors_of(tmp_path / "c")
  for name in ("outputlayer.0.weight", "outputlayer.1.weight", "outputlayer.1.bias"):
    np.testing.assert_array_equal(back[name], classifier[name])
  found = open_source(tmp_path / "b", Wishes())
  tree = jax.tree.map(jnp.asarray, from_torch(Arrays(found.tensors), found.rules, found.target))
  wave = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16000)) * 0.1, jnp.float32)
  logits = jax.jit(lambda v, w: classify(found.cfg, v, w))(tree, wave)
  embed, params = dasheng_jax.load_encoder(source, heads=4)
  mean = np.float64(embed(params, wave)).mean(1)
  centred = mean - mean.mean(-1, keepdims=True)
  normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
  normed = normed * classifier["outputlayer.0.weight"] + classifier["outputlayer.0.bias"]
  want = normed @ classifier["outputlayer.1.weight"].T + classifier["outputlayer.1.bias"]
  np.testing.assert_allclose(logits, want, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype, tiny_state, tmp_path):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  convert(source, tmp_path / "b.safetensors", dtype=dtype)
  back = tensors_of(tmp_path / "b.safetensors")
  half = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
  kernel = "blocks.0.mlp.fc1.weight"
  np.testing.assert_array_equal(back[kernel], tiny_state[kernel].astype(half))
  assert back["init_bn.1.num_batches_tracked"].dtype == np.int64
  with pytest.raises(UsageError, match="our own folders hold float32"):
    convert(source, tmp_path / "c", to="orbax", dtype=dtype)


def test_values_that_half_precision_cannot_hold(tiny_state, tmp_path):
  state = dict(tiny_state) | {"norm.bias": np.full(WIDTH, 1e5, np.float32)}
  source = saved(tmp_path / "a.safetensors", state, num_heads=4)
  with pytest.raises(WeightsError, match=r"norm.bias holds values beyond 65504.*use bfloat16"):
    convert(source, tmp_path / "b.safetensors", dtype="float16")
  assert left_in(tmp_path) == {"a.safetensors"}


# --- what is found out, and what may be changed


def test_dry_run_prints_the_mapping_and_writes_nothing(tiny_state, tmp_path, capsys):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  assert convert(source, tmp_path / "b", dry_run=True) == 0
  lines = capsys.readouterr().out.splitlines()
  row = next(line for line in lines if line.startswith("blocks.{n}.attn.qkv.weight"))
  assert re.split(r"\s{2,}", row)[1:] == [
    "144x48 x 3",
    "params/blocks/layers/attn/qkv_kernel",
    "qkv weight",
  ]
  assert any(line.startswith("left out: front_end.0.mel_scale.fb") for line in lines)
  assert left_in(tmp_path) == {"a.safetensors"}


@pytest.mark.parametrize("rows", [100, 300])
def test_the_time_table_is_cut_or_stretched(rows, tiny_state, tmp_path, capsys):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  convert(source, tmp_path / "b", to="huggingface", positions=rows)
  assert f"from 252 to {rows} positions" in capsys.readouterr().out
  want = dasheng_jax.load_encoder(source, positions=rows)[1]
  got_embed, got = dasheng_jax.load_encoder(tmp_path / "b")
  assert got_embed.args[0].encoder.positions == rows
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_another_number_of_classes(recorded, tmp_path, capsys):
  network = recorded("mn01_c_mlp")
  source = saved(tmp_path / "a.safetensors", network.state)
  convert(source, tmp_path / "b.safetensors", classes=3)
  back = tensors_of(tmp_path / "b.safetensors")
  assert back["classifier.5.weight"].shape[0] == 3
  assert "replaced by 3, drawn with 0" in capsys.readouterr().out
  unchanged = [k for k in network.state if not k.startswith("classifier.5")]
  assert_same({k: network.state[k] for k in unchanged}, {k: back[k] for k in unchanged})


def test_the_temperature_is_kept_with_the_weights(recorded, tmp_path):
  source = saved(tmp_path / "a.safetensors", recorded("dymn01_all").state)
  convert(source, tmp_path / "b", to="huggingface", temperature=30.0)
  tag, _ = mobile_jax.load_model(tmp_path / "b")
  assert tag.args[0].temperature == 30.0
  mn = saved(tmp_path / "m.safetensors", recorded("mn01_c_mlp").state)
  with pytest.raises(ConfigError, match="temperature is of DyMN"):
    convert(mn, tmp_path / "c", to="huggingface", temperature=30.0)


def test_every_recorded_network_is_recognised(recorded, mobile_fixtures, tmp_path):
  from experiments.conversion.source import Wishes, open_source

  for name in (*MN_NAMES, *DYMN_NAMES):
    network = recorded(name)
    cfg = open_source(saved(tmp_path / "x.safetensors", network.state), Wishes()).cfg
    seen = ("head", "attention_heads", "se", "classes", "width", "dynamic", "convs", "relus")
    for field in (*seen, "kernels", "pieces"):
      assert getattr(cfg, field, None) == getattr(network.cfg, field, None), (name, field)


def test_the_card_and_the_config_name_the_source(tiny_state, tmp_path):
  import hashlib

  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  convert(source, tmp_path / "b", to="huggingface")
  sha = hashlib.sha256(source.read_bytes()).hexdigest()
  card = (tmp_path / "b" / "README.md").read_text()
  assert sha in card
  assert 'dasheng_jax.load_encoder("b")' in card
  config = json.loads((tmp_path / "b" / "config.json").read_text())
  assert config["dasheng_jax"]["source"]["sha256 of the source"] == sha


def test_published_mn04_comes_back_bit_for_bit(shared, tmp_path):
  torch = pytest.importorskip("torch")
  source = shared / "fixtures" / "mobile" / "mn04_as_mAP_432.pt"
  if not source.is_file():
    pytest.skip("needs the published mn04 in shared/fixtures/mobile")
  for kind in ("huggingface", "orbax"):
    convert(source, tmp_path / kind, to=kind)
    convert(tmp_path / kind, tmp_path / f"{kind}.pt")
    theirs, ours = (torch.load(p, weights_only=True) for p in (source, tmp_path / f"{kind}.pt"))
    assert list(theirs) == list(ours)
    assert all(torch.equal(theirs[k], ours[k]) and theirs[k].dtype == ours[k].dtype for k in ours)


def test_a_published_name_stands_for_its_file(shared, tmp_path, monkeypatch):
  """From the cache folder, where somebody put it; both loaders and the command take the name."""
  pytest.importorskip("torch")
  file = shared / "fixtures" / "mobile" / "mn04_as_mAP_432.pt"
  if not file.is_file():
    pytest.skip("needs the published mn04 in shared/fixtures/mobile")
  monkeypatch.setenv("DASHENG_JAX_CACHE", str(tmp_path / "cache"))
  monkeypatch.setenv("DASHENG_JAX_OFFLINE", "1")
  with pytest.raises(WeightsError, match=r"mn04_as.*cache/mn04_as_mAP_432.pt"):
    mobile_jax.load_model("mn04_as")
  with pytest.raises(WeightsError, match=r"dasheng_base.*cache/dasheng_base.pt"):
    dasheng_jax.load_encoder("dasheng_base")
  (tmp_path / "cache").mkdir()
  (tmp_path / "cache" / file.name).symlink_to(file)
  tag, variables = mobile_jax.load_model("mn04_as")
  assert tag.args[0] == mobile_jax.MODELS["mn04_as"].config
  want = mobile_jax.load_model(file)[1]
  jax.tree.map(np.testing.assert_array_equal, variables, want)
  convert("mn04_as", tmp_path / "b.safetensors")


# --- what is refused


def test_another_file_under_a_published_name(recorded, tmp_path):
  pytest.importorskip("torch")
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
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_damaged_files_are_refused_and_nothing_is_written(damage, suffix, tiny_state, tmp_path):
  if suffix == ".pt":
    pytest.importorskip("torch")
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


def test_a_flipped_bit_in_a_torch_file_is_found(tiny_state, tmp_path):
  """The archive's own checksums tell, which PyTorch does not look at."""
  pytest.importorskip("torch")
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


def test_a_training_file_with_a_pickled_path(tiny_state, tmp_path):
  """The training script stores its output folder as a path object: no code of it is run."""
  torch = pytest.importorskip("torch")
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


def test_a_hostile_pickle_is_refused_and_its_key_named(tmp_path, tiny_state):
  torch = pytest.importorskip("torch")
  trace, source = tmp_path / "ran", tmp_path / "evil.pt"
  torch.save({"model": {"a": torch.zeros(2)}, "callbacks": _Hostile(trace)}, source)
  with pytest.raises(WeightsError, match=r"mkdir under the key 'callbacks'.*re-save") as caught:
    convert(source, tmp_path / "b", to="orbax")
  assert "\n" not in str(caught.value)
  assert left_in(tmp_path) == {"evil.pt"}


def test_a_bare_hostile_pickle_is_refused(tmp_path):
  pytest.importorskip("torch")
  trace, source = tmp_path / "ran", tmp_path / "evil.ckpt"
  source.write_bytes(pickle.dumps(_Hostile(trace)))
  with pytest.raises(WeightsError):
    convert(source, tmp_path / "b", to="orbax")
  assert left_in(tmp_path) == {"evil.ckpt"}


def test_a_zip_with_paths_out_of_the_archive_writes_nothing(tmp_path):
  pytest.importorskip("torch")
  source = tmp_path / "in" / "evil.pt"
  source.parent.mkdir()
  with zipfile.ZipFile(source, "w") as archive:
    archive.writestr("../../escaped", "x")
    archive.writestr("evil/data.pkl", b"\x80\x02}q\x00.")
  with pytest.raises(WeightsError):
    convert(source, tmp_path / "b", to="orbax")
  assert left_in(tmp_path) == {"in"}


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


# --- parity reports


def test_a_report_on_what_was_written(tiny_state, tmp_path, capsys):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  assert convert(source, tmp_path / "b", to="orbax", check="self") == 0
  said = capsys.readouterr().out
  for stage in ("log_mel", "block_1", "block_3", "output"):
    assert f"| {stage} |" in said
  assert "verdict: ok" in said
  with pytest.raises(UsageError, match="no such file; give a golden file, or 'self'"):
    convert(source, check="nowhere.npz")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_reported_within_its_rounding(dtype, tiny_state, tmp_path, capsys):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  assert convert(source, tmp_path / "b", to="huggingface", dtype=dtype, check="self") == 0
  assert "verdict: ok" in capsys.readouterr().out


def test_a_report_finds_the_block_that_departs(tiny_state, tmp_path, capsys):
  """Golden outputs of one model beside another whose second block differs."""
  from experiments.conversion import golden
  from experiments.conversion.stages import default_wave, stages

  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  embed, params = dasheng_jax.load_encoder(source)
  cfg = embed.args[0]
  wave = default_wave(cfg)
  about = golden.About("dasheng", "this test")
  golden.write_golden(tmp_path / "g.npz", wave, stages(cfg, params, wave), about)
  assert convert(source, check=str(tmp_path / "g.npz")) == 0
  state = dict(tiny_state)
  state["blocks.1.mlp.fc2.weight"] = state["blocks.1.mlp.fc2.weight"] * np.float32(1.5)
  other = saved(tmp_path / "other.safetensors", state, num_heads=4)
  with pytest.raises(RunError, match="shows a departure"):
    convert(other, check=str(tmp_path / "g.npz"))
  said = capsys.readouterr().out
  assert "first departure: block_2" in said
