"""What is found out about a source, and what may be changed on the way."""

import json
import re

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import dasheng_jax
import mobile_jax
from dasheng_jax.errors import ConfigError, WeightsError
from experiments.conversion.source import Wishes, open_source
from mobile_jax.config import MNConfig
from tests.experiments.conversion.files import convert, left_in, saved, tensors_of
from tests.mobile_jax.fixtures import DYMN_NAMES, MN_NAMES
from tests.state_dicts import assert_same


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
  assert back["classifier.5.weight"].std() == pytest.approx(0.01, rel=0.2)
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


def test_every_recorded_network_is_recognised(recorded, mobile_fixtures, tmp_path, monkeypatch):
  # What a file tells is told before its network is built, which takes a second for each.
  monkeypatch.setattr("mobile_jax.weights.load.shapes", lambda cfg: {})
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


@pytest.mark.torch
def test_published_mn04_comes_back_bit_for_bit(shared, tmp_path):
  import torch

  source = shared / "fixtures" / "mobile" / "mn04_as_mAP_432.pt"
  if not source.is_file():
    pytest.skip("needs the published mn04 in shared/fixtures/mobile")
  for kind in ("huggingface", "orbax"):
    convert(source, tmp_path / kind, to=kind)
    convert(tmp_path / kind, tmp_path / f"{kind}.pt")
    theirs, ours = (torch.load(p, weights_only=True) for p in (source, tmp_path / f"{kind}.pt"))
    assert list(theirs) == list(ours)
    assert all(torch.equal(theirs[k], ours[k]) and theirs[k].dtype == ours[k].dtype for k in ours)


@pytest.mark.torch
def test_a_published_name_stands_for_its_file(shared, tmp_path, monkeypatch):
  """From the cache folder, where somebody put it; both loaders and the command take the name."""
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


@pytest.mark.slow
@pytest.mark.parametrize("frames", [300, 733, 1000])
def test_the_length_that_time_excitation_is_built_for(frames, drawn_model, tmp_path):
  """A foreign file does not say it: one with the same sizes is found."""
  cfg = MNConfig(width=0.1, classes=20, se="ct", frames=frames)
  source, variables = drawn_model(cfg)
  bare = saved(tmp_path / "bare.safetensors", load_file(source))
  found = open_source(bare, Wishes())
  sizes = [c.sizes(c.mel.mel_bins, c.frames) for c in (found.cfg, cfg)]
  squeezed = [block.number for block in cfg.blocks if block.se]
  found_times, times = ([s[n][1] for n in squeezed] for s in sizes)
  assert found_times == times
  convert(bare, tmp_path / "b", to="orbax")
  got = mobile_jax.load_model(tmp_path / "b")[1]
  jax.tree.map(np.testing.assert_array_equal, got, variables)


def test_what_is_asked_of_our_own_folder(tiny_state, tmp_path):
  dasheng = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  convert(dasheng, tmp_path / "b", to="orbax")
  for wish, message in (
    ({"heads": 2}, "this model has 4; leave --heads 2 out"),
    ({"name": "dasheng_base"}, "says what it is; leave --name out"),
    ({"temperature": 2.0}, "--temperature is of DyMN"),
  ):
    with pytest.raises(WeightsError, match=message):
      convert(tmp_path / "b", tmp_path / "c.safetensors", **wish)
  convert(tmp_path / "b", tmp_path / "c.safetensors", heads=4)
  with pytest.raises(WeightsError, match=r"this model has 4 heads; leave 2 out"):
    convert(tmp_path / "c.safetensors", tmp_path / "d", to="orbax", heads=2)
  with pytest.raises(WeightsError, match=r"this model has 4 heads; leave heads=2 out"):
    dasheng_jax.load_encoder(tmp_path / "b", heads=2)


@pytest.mark.slow
def test_a_temperature_for_our_own_folder(recorded, tmp_path):
  dymn = saved(tmp_path / "m.safetensors", recorded("dymn01_all").state)
  convert(dymn, tmp_path / "e", to="orbax")
  convert(tmp_path / "e", tmp_path / "f", to="orbax", temperature=30.0)
  assert mobile_jax.load_model(tmp_path / "f")[0].args[0].temperature == 30.0


def test_a_record_of_an_older_version(tiny_state, tmp_path):
  """A field that is younger than the file keeps its default; one that is unknown is refused."""
  convert(
    saved(tmp_path / "a.safetensors", tiny_state, num_heads=4), tmp_path / "b", to="huggingface"
  )
  path = tmp_path / "b" / "config.json"
  config = json.loads(path.read_text())
  ours = config["dasheng_jax"]["config"]
  before = dasheng_jax.load_encoder(tmp_path / "b")[0].args[0]
  del ours["padding"], ours["mel"]["clamp"]
  path.write_text(json.dumps(config))
  assert dasheng_jax.load_encoder(tmp_path / "b")[0].args[0] == before
  ours["encoder"]["rotary"] = True
  path.write_text(json.dumps(config))
  with pytest.raises(WeightsError, match="another version of this library, which knows rotary"):
    dasheng_jax.load_encoder(tmp_path / "b")


def test_a_record_of_another_model(tiny_state, recorded, tmp_path):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  convert(source, tmp_path / "b", to="huggingface")
  path = tmp_path / "b" / "config.json"
  config = json.loads(path.read_text())
  config["dasheng_jax"]["config"]["encoder"]["depth"] = 7
  path.write_text(json.dumps(config))
  for load in (dasheng_jax.load_encoder, lambda p: convert(p, tmp_path / "c.pt")):
    with pytest.raises(WeightsError, match="not of the model that it says it holds"):
      load(tmp_path / "b")
  convert(
    saved(tmp_path / "m.safetensors", recorded("mn01_c_mlp").state), tmp_path / "n", to="orbax"
  )
  with pytest.raises(WeightsError, match="holds a model of family 'mn', not"):
    dasheng_jax.load_encoder(tmp_path / "n")


@pytest.mark.parametrize("kind", ["huggingface", "safetensors"])
def test_the_depth_of_the_clamp_is_among_the_official_settings(kind, tiny_state, tmp_path):
  """For others, who do not read our record."""
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4, top_db=80)
  dest = tmp_path / ("b.safetensors" if kind == "safetensors" else "b")
  convert(source, dest, to=kind)
  if kind == "safetensors":
    with safe_open(dest, "np") as file:
      told = json.loads(file.metadata()["config"])
  else:
    told = json.loads((dest / "config.json").read_text())["encoder_kwargs"]
  assert (told["top_db"], told["num_heads"]) == (80, 4)
  assert dasheng_jax.load_encoder(dest)[0].args[0].mel.top_db == 80.0


def test_a_time_table_of_another_shape_is_not_stretched(tiny_state, tmp_path):
  table = tiny_state["time_pos_embed"].reshape(48, 1, 1, 252)
  source = saved(tmp_path / "a.safetensors", {**tiny_state, "time_pos_embed": table}, num_heads=4)
  with pytest.raises(WeightsError, match=r"time_pos_embed has shape \(48, 1, 1, 252\), not"):
    convert(source, tmp_path / "b", to="huggingface", positions=100)
