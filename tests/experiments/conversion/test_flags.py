"""Flags that do not apply are refused, and modules are loaded before anything is written."""

import pytest

from dasheng_jax.errors import WeightsError
from experiments.training.errors import UsageError
from tests.experiments.conversion.files import convert, left_in, saved


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"name": "nonsense"}, "--name is of MN and DyMN, and this is dasheng; leave it out"),
    ({"temperature": 3.0}, "--temperature is of DyMN's dynamic convolutions, and this is dasheng"),
    ({"decoder_heads": 3}, "--decoder_heads is of a decoder of Dasheng, and .* without one"),
    ({"shard_size": "1KB"}, "--shard_size is of --to huggingface, not of safetensors"),
    ({"classes": 3}, "--classes is of MN and DyMN"),
  ],
)
def test_flags_of_other_models_than_dasheng(tiny_state, tmp_path, settings, message):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  with pytest.raises((WeightsError, UsageError), match=message):
    convert(source, tmp_path / "b.safetensors", **settings)
  assert left_in(tmp_path) == {"a.safetensors"}


def test_flags_of_other_models_than_mn(recorded, tmp_path):
  source = saved(tmp_path / "a.safetensors", recorded("mn01_c_mlp").state)
  convert(source, tmp_path / "ours", to="orbax")
  for path, message in ((source, "is of .*this is mn"), (tmp_path / "ours", "this model has none")):
    for flag in ("heads", "decoder_heads"):
      with pytest.raises(WeightsError, match=message) as caught:
        convert(path, tmp_path / "b.safetensors", **{flag: 3})
      assert f"--{flag}" in str(caught.value)
  with pytest.raises(WeightsError, match="--classes 1000000: give at most"):
    convert(source, tmp_path / "b.safetensors", classes=1_000_000)


def test_heads_against_what_the_file_says(tiny_state, tmp_path, capsys):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  convert(source, dry_run=True, heads=3)
  assert "heads: 3, as asked, though the file's configuration says 4" in capsys.readouterr().out
  convert(source, dry_run=True, heads=4)
  assert "heads: 4, as asked\n" in capsys.readouterr().out
  bare = saved(tmp_path / "bare.safetensors", tiny_state)
  with pytest.raises(WeightsError, match="pass --heads N$"):
    convert(bare, dry_run=True)


@pytest.mark.torch
@pytest.mark.parametrize(
  ("module", "message"),
  [
    ("nope:x", "no module named 'nope'"),
    ("tests.experiments.conversion.torch_modules:Encoderr", "did you mean Encoder"),
    ("tests.experiments.conversion.torch_modules:Encoder(widht=3)", "TypeError"),
  ],
)
def test_a_module_is_loaded_before_anything_is_written(tiny_state, tmp_path, module, message):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  with pytest.raises(UsageError, match=message):
    convert(source, tmp_path / "b.safetensors", module=module)
  assert left_in(tmp_path) == {"a.safetensors"}


def test_golden_outputs_are_read_before_anything_is_written(tiny_state, tmp_path):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  (tmp_path / "g.npz").write_bytes(b"PK\x03\x04")
  with pytest.raises(WeightsError, match=r"g.npz: not a readable golden file"):
    convert(source, tmp_path / "b.safetensors", check=str(tmp_path / "g.npz"))
  assert left_in(tmp_path) == {"a.safetensors", "g.npz"}
