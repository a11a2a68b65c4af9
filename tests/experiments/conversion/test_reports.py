"""Parity reports on what was converted."""

import numpy as np
import pytest

import dasheng_jax
from experiments.conversion import golden, verify
from experiments.conversion.golden import read_golden
from experiments.conversion.source import Wishes, open_source
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


@pytest.fixture
def quick_stages(monkeypatch):
  """Forward passes that take no time: a bias for the output."""

  def stages(cfg, variables, wave):
    return {"output": np.asarray(variables["params"]["norm"]["bias"])[None] * cfg.mel.top_db}

  monkeypatch.setattr(verify, "stages", stages)
  monkeypatch.setattr(golden, "stages", stages)
  return stages


def test_reports_look_at_what_was_written(quick_stages, tiny_state, tmp_path):
  """And not at SOURCE once more; each side with the configuration that it holds."""
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  found = open_source(source, Wishes())
  wave = np.zeros((1, 16_000), np.float32)
  outputs = quick_stages(found.cfg, verify._variables(found), wave)
  stored = tmp_path / "g.npz"
  golden.write_golden(stored, wave, outputs, golden.About("dasheng", "this test"))
  convert(source, tmp_path / "same.safetensors")
  state = {**tiny_state, "norm.bias": tiny_state["norm.bias"] + np.float32(0.5)}
  saved(tmp_path / "other.safetensors", state, num_heads=4)
  saved(tmp_path / "clamp.safetensors", tiny_state, num_heads=4, top_db=60)
  for dest, ok in (("same", True), ("other", False), ("clamp", False)):
    for check in ("self", str(stored)):
      report = verify.report(
        found, tmp_path / f"{dest}.safetensors", check=check, module=None, tolerance=None
      )
      assert report.ok is ok, (dest, check)
      if check == "self":
        differs = ("SOURCE and DEST differ in mel.top_db: 120.0 there, 60.0 here",)
        assert report.notes == (differs if dest == "clamp" else ())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_reported_within_its_rounding(dtype, tiny_state, tmp_path, capsys):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  assert convert(source, tmp_path / "b", to="huggingface", dtype=dtype, check="self") == 0
  assert "verdict: ok" in capsys.readouterr().out


def test_a_report_finds_the_block_that_departs(tiny_state, tmp_path, capsys):
  """Golden outputs of one model beside another whose second block differs."""
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
