"""Parity reports on what was converted."""

import numpy as np
import pytest

import dasheng_jax
from experiments.conversion.golden import read_golden
from experiments.training.errors import RunError, UsageError
from tests.experiments.conversion.files import convert, saved


def test_a_report_on_what_was_written(tiny_state, tmp_path, capsys):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  assert convert(source, tmp_path / "b", to="orbax", check="self") == 0
  said = capsys.readouterr().out
  for stage in ("log_mel", "block_1", "block_3", "output"):
    assert f"| {stage} |" in said
  assert "verdict: ok" in said
  for flags, message in (
    ({"check": "nowhere.npz"}, "no such file; give a golden file, or 'self'"),
    ({"check": "self"}, "give DEST, or a golden file"),
    ({"golden": "g.txt"}, "end its name in .npz or .safetensors"),
    ({"golden": str(tmp_path / "no" / "g.npz")}, "no such folder; make it first"),
  ):
    with pytest.raises(UsageError, match=message):
      convert(source, **flags)


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


def test_golden_outputs_from_the_command_line(tiny_state, tmp_path, capsys):
  """Written from one file, met by itself, and departed from by another."""
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  golden = tmp_path / "g.npz"
  assert convert(source, golden=str(golden)) == 0
  assert f"wrote {golden}" in capsys.readouterr().out
  with pytest.raises(UsageError, match="is there already; pass --overwrite"):
    convert(source, golden=str(golden))
  assert read_golden(golden).about.made_by.startswith("dasheng_jax, jax ")
  assert convert(source, check=str(golden)) == 0
  state = dict(tiny_state) | {"norm.bias": tiny_state["norm.bias"] + np.float32(0.1)}
  other = saved(tmp_path / "other.safetensors", state, num_heads=4)
  with pytest.raises(RunError, match="shows a departure"):
    convert(other, check=str(golden))
  assert "first departure: output" in capsys.readouterr().out


@pytest.mark.torch
def test_golden_outputs_of_a_module(tiny_state, tmp_path, capsys):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  module = "tests.experiments.conversion.torch_modules:Encoder(width=48, depth=3, heads=4)"
  golden = tmp_path / "g.safetensors"
  assert convert(source, golden=str(golden), module=module) == 0
  about = read_golden(golden).about
  assert about.made_by.startswith(f"{module}, torch ")
  assert convert(source, tmp_path / "b", to="orbax", check=str(golden)) == 0
  assert "verdict: ok" in capsys.readouterr().out
