"""Every layout to every other, bit for bit."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import dasheng_jax
import mobile_jax
from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.names import FRONT_END
from experiments.training.errors import UsageError
from mobile_jax.config import MNConfig
from pipelines.kaldi_mel import KALDI_MEL
from tests.experiments.conversion.files import WIDTH, convert, left_in, saved, tensors_of
from tests.state_dicts import assert_same


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


# Of the large family one kind of file: what each kind writes does not depend on the model.
TRIPS = [
  *(("mn01_c_mlp", kind) for kind in ("huggingface", "orbax", "safetensors")),
  ("dymn01_all", "safetensors"),
  *(pytest.param("dymn01_all", k, marks=pytest.mark.slow) for k in ("huggingface", "orbax")),
]


@pytest.mark.parametrize(("name", "kind"), TRIPS)
def test_mobile_out_and_back_bit_for_bit(name, kind, recorded, tmp_path):
  network = recorded(name)
  source = saved(tmp_path / "a.safetensors", network.state)
  middle = tmp_path / ("b.safetensors" if kind == "safetensors" else "b")
  convert(source, middle, to=kind, **({"shard_size": "200kB"} if kind == "huggingface" else {}))
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


@pytest.mark.torch
def test_a_torch_file_out_and_back(tiny_state, tmp_path):
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
  convert(middle, tmp_path / "c.safetensors")  # what no tensor tells went along
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
  mean = np.float64(jax.jit(embed)(params, wave)).mean(1)
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


UNUSUAL = MNConfig(
  width=0.1,
  classes=20,
  strides=(2, 2, 2, 1),
  mel=dataclasses.replace(KALDI_MEL, mel_bins=64, hop_length=160),
  se="cft",
  frames=300,
)


@pytest.mark.parametrize(
  "kind",
  [
    pytest.param("huggingface", marks=pytest.mark.slow),
    *("orbax", "safetensors"),
    pytest.param("torch", marks=pytest.mark.torch),
  ],
)
def test_settings_that_no_tensor_tells_go_along(kind, drawn_model, tmp_path):
  """To every kind of destination and back, and by `write_model` too."""
  source, variables = drawn_model(UNUSUAL)
  assert mobile_jax.load_model(source)[0].args[0] == UNUSUAL
  middle = tmp_path / {"safetensors": "b.safetensors", "torch": "b.pt"}.get(kind, "b")
  convert(source, middle, to=kind)
  tag, got = mobile_jax.load_model(middle)
  assert tag.args[0] == UNUSUAL
  jax.tree.map(np.testing.assert_array_equal, got, variables)
  convert(middle, tmp_path / "c.safetensors")
  assert mobile_jax.load_model(tmp_path / "c.safetensors")[0].args[0] == UNUSUAL
