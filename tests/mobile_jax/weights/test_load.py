"""Weight files: read, written and read again bit for bit; a line refuses what does not fit."""

import dataclasses

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from dasheng_jax.errors import ConfigError, WeightsError
from dasheng_jax.weights.table import flatten
from dasheng_jax.weights.torch_file import write_torch
from mobile_jax.config import SIZES, DyMNConfig, MNConfig
from mobile_jax.models import MODELS
from mobile_jax.weights.load import (
  config_of,
  has_names,
  load_model,
  open_content,
  read_model,
  state_of,
  write_folder,
  write_model,
)
from tests.mobile_jax.fixtures import DYMN_NAMES, MN_NAMES, PACKED, drawn, shapes_of
from tests.state_dicts import SUFFIXES, assert_same

CONFIG = MNConfig(width=0.1, classes=20)


@pytest.fixture
def state(recorded):
  return dict(recorded("mn01_c_mlp").state)


@pytest.fixture
def save(tmp_path):
  """save(state) -> a .safetensors file."""

  def write(state, name="x.safetensors"):
    save_file({k: np.asarray(v, order="C") for k, v in state.items()}, tmp_path / name)
    return tmp_path / name

  return write


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
  "name",
  [n if n in PACKED else pytest.param(n, marks=pytest.mark.slow) for n in (*MN_NAMES, *DYMN_NAMES)],
)
def test_every_recorded_network_round_trips(name, suffix, recorded, variables_of, tmp_path):
  """Written under the original names, constants included, every bit as it came."""
  cfg, state, _ = recorded(name)
  path = tmp_path / f"x{suffix}"
  write_model(path, cfg, variables_of(name))
  assert_same(state, state_of(open_content(path)))
  assert read_model(path)[0] == cfg.with_compute()
  beside = {"x.pt.config.json"} if suffix == ".pt" else set()
  assert {file.name for file in tmp_path.iterdir()} == {path.name} | beside


@pytest.mark.parametrize("name", ["mn01_c_mlp", "dymn01_all"])
def test_reading_gives_the_variables_back(name, recorded, variables_of, tmp_path):
  cfg, path = recorded(name).cfg, tmp_path / "x.safetensors"
  write_model(path, cfg, variables_of(name))
  found, variables = read_model(path, config=dataclasses.replace(cfg, classes=527))
  assert found == cfg  # the number of classes is the file's
  assert_same(flatten(variables_of(name)), flatten(variables))
  assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(variables))


@pytest.mark.torch
def test_torch_reads_what_we_write(recorded, variables_of, tmp_path):
  import torch

  path = tmp_path / "x.pt"
  write_model(path, recorded("dymn01_all").cfg, variables_of("dymn01_all"))
  content = torch.load(path, weights_only=True)
  assert_same(recorded("dymn01_all").state, {k: v.numpy() for k, v in content.items()})


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_state_dict"])
@pytest.mark.torch
def test_files_of_training_scripts(wrapper, state, tmp_path):
  """The state dict inside something else, and a prefix before every name."""
  path = tmp_path / "run.pt"
  write_torch(path, {wrapper: {f"model.{k}": v for k, v in state.items()}, "epoch": 3})
  assert_same(state, state_of(open_content(path)))


def test_half_precision_files_give_float32(state, save):
  half = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in state.items()}
  _, variables = read_model(save(half), config=CONFIG)
  assert {x.dtype.name for x in jax.tree.leaves(variables)} == {"float32", "int32"}


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda s: s.pop("features.3.block.0.0.weight"), "missing features.3.block.0.0.weight"),
    (lambda s: s.update(extra=np.zeros(3)), "unexpected extra"),
    (
      lambda s: s.update({"features.16.1.bias": np.zeros(95, np.float32)}),
      r"features.16.1.bias has shape \(95,\), not \(96,\)",
    ),
    (
      lambda s: s.update({"classifier.2.bias": np.full(128, np.nan, np.float32)}),
      "classifier.2.bias holds NaN or infinity",
    ),
    (lambda s: s.clear() or s.update(w=np.zeros(3)), r"missing features.0.0.weight.*and \d+ more"),
  ],
)
def test_every_departure_is_refused(state, save, damage, message):
  damage(state)
  path = save(state)
  with pytest.raises(WeightsError, match=message) as caught:
    read_model(path, config=CONFIG)
  assert str(caught.value).startswith(f"{path} does not fit the model: ")
  assert "\n" not in str(caught.value)


def test_a_file_of_another_width_or_family_is_refused(state, save):
  path = save(state)
  for name in ("mn10_as", "dymn04"):
    with pytest.raises(WeightsError, match="does not fit the model") as caught:
      load_model(path, name=name)
    assert "\n" not in str(caught.value)


def test_other_constants_of_dynamic_relu_are_refused(recorded, save):
  state = dict(recorded("dymn01_all").state)
  state["layers.3.depth_act.lambdas"] = np.asarray([1, 1, 0.5, 0.7], np.float32)
  with pytest.raises(
    WeightsError, match=r"layers.3.depth_act.lambdas is \[1.*\], not the"
  ) as caught:
    read_model(save(state), config=recorded("dymn01_all").cfg)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_that_are_none(state, save, tmp_path, suffix):
  whole, path = save(state).read_bytes(), tmp_path / f"y{suffix}"
  for content in (b"", b"not a model", whole[: len(whole) // 2]):
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"y{suffix}") as caught:
      load_model(path, config=CONFIG)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_here(tmp_path):
  with pytest.raises(WeightsError, match=r"no such weight file$"):
    load_model(tmp_path / "x.pt", config=CONFIG)
  for name in ("mn04_as_mAP_432.pt", "mn04_as.pt", "dymn20_as(1).safetensors"):
    with pytest.raises(
      WeightsError, match=r"no such weight file; download \S+ from https"
    ) as caught:
      load_model(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("wrong", "near"), [("mn10as", "mn10_as"), ("dymn_10_as", "dymn10_as")])
def test_a_wrong_name_is_answered_with_the_nearest(state, save, wrong, near):
  with pytest.raises(ConfigError, match=f"{wrong}.*{near}") as caught:
    load_model(save(state), name=wrong)
  assert "\n" not in str(caught.value)


def test_the_file_name_says_which_model_it_is(tmp_path):
  for name, model in MODELS.items():
    assert config_of(tmp_path / model.file, None) == model.config
    assert config_of(tmp_path / model.file.replace(".pt", ".safetensors"), None) == model.config
    assert config_of(tmp_path / "x.pt", name) == model.config
  # Where a file and a name differ, the file's own line counts.
  assert config_of(tmp_path / "mn10_as_fc.pt", None).head == "fully_convolutional"
  assert config_of(tmp_path / "x.pt", "dymn04") == SIZES["dymn04"]
  with pytest.raises(WeightsError, match=r"best.pt: no published file has this name; pass name="):
    config_of(tmp_path / "best.pt", None)


def test_temperature(recorded, variables_of, tmp_path):
  path = tmp_path / "x.safetensors"
  write_model(path, recorded("dymn01_all").cfg, variables_of("dymn01_all"))
  cfg, _ = read_model(path, config=recorded("dymn01_all").cfg, temperature=30.0)
  assert cfg.temperature == 30.0
  with pytest.raises(
    ConfigError, match="temperature is of DyMN's dynamic convolutions; MN has none"
  ):
    read_model(path, config=CONFIG, temperature=2.0)


HEADS = {
  "mlp": (MNConfig(width=0.1, classes=20), {"head/logits/kernel", "head/logits/bias"}),
  "fully_convolutional": (
    MNConfig(width=0.1, classes=20, head="fully_convolutional"),
    {"head/kernel", *(f"head/norm/{part}" for part in ("scale", "bias", "mean", "var", "count"))},
  ),
  "attention": (
    MNConfig(width=0.1, classes=20, head="attention"),
    {"head/head_weight", "head/subspaces/kernel", "head/subspaces/bias"},
  ),
}


@pytest.mark.parametrize(
  "head", ["mlp", *(pytest.param(h, marks=pytest.mark.slow) for h in HEADS if h != "mlp")]
)
def test_another_number_of_classes_gives_a_fresh_head(head, tmp_path):
  """The mlp's hidden layer is kept, as in the released code; the other heads are drawn whole."""
  cfg, replaced = HEADS[head]
  path, variables = tmp_path / "x.safetensors", drawn(shapes_of(cfg), seed=4)
  write_model(path, cfg, variables)
  found, other = read_model(path, config=cfg, classes=7, key=jax.random.key(1))
  assert found == dataclasses.replace(cfg, classes=7)
  before, after = flatten(variables), flatten(other)
  shapes = flatten(shapes_of(found))
  assert {p: (x.shape, x.dtype) for p, x in after.items()} == {
    p: (x.shape, x.dtype) for p, x in shapes.items()
  }
  changed = {
    path.split("/", 1)[1]
    for path, value in after.items()
    if value.shape != before[path].shape or not np.array_equal(value, before[path])
  }
  # A counter starts at 0 on both sides.
  assert changed | {"head/norm/count"} == replaced | {"head/norm/count"}
  if head == "mlp":
    kernel = after["params/head/logits/kernel"]
    assert float(jnp.std(kernel)) == pytest.approx(0.01, rel=0.15)
    assert not np.any(after["params/head/logits/bias"])
  same, kept = read_model(path, config=cfg, classes=20)
  assert same == cfg
  assert_same(before, flatten(kept))


@pytest.mark.slow
def test_a_tagger_can_be_exported(state, save):
  """Without the C++ kernels, which a stored program cannot name."""
  path = save(state)
  run, variables = load_model(path, config=CONFIG, kernels="xla")
  wave = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32000)) * 0.1, jnp.float32)
  stored = jax.export.export(jax.jit(run))(variables, wave).serialize()
  logits, features = jax.export.deserialize(stored).call(variables, wave)
  want, want_features = run(variables, wave)
  np.testing.assert_allclose(logits, want, atol=1e-4)
  np.testing.assert_allclose(features, want_features, atol=1e-4)


@pytest.mark.slow
def test_an_ablation_goes_into_a_folder_of_ours_and_back(tmp_path):
  cfg = DyMNConfig(width=0.1, classes=3, attention="srm", convs=("depthwise",))
  draw = np.random.default_rng(0)
  variables = jax.tree.map(lambda x: draw.integers(0, 9, x.shape).astype(x.dtype), shapes_of(cfg))
  assert not has_names(cfg)
  with pytest.raises(ConfigError, match="no names for its weights"):
    write_model(tmp_path / "x.safetensors", cfg, variables)
  for _ in range(2):  # the second replaces the first
    write_folder(tmp_path / "ours", cfg, variables)
  found, read = read_model(tmp_path / "ours")
  assert found == cfg
  assert_same(flatten(variables), flatten(read))
  (tmp_path / "other").mkdir()
  with pytest.raises(WeightsError, match="no folder of our weights"):
    write_folder(tmp_path / "other", cfg, variables)
