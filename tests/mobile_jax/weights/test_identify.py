"""What a file of MN or DyMN turns out to be: shapes that lie, and records that do."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.record import BELONGS_TO, beside, make_record, read_record
from dasheng_jax.weights.table import from_torch
from dasheng_jax.weights.tensors import Tensor, held
from dasheng_jax.weights.torch_file import write_torch
from mobile_jax.config import DyMNConfig, MNConfig
from mobile_jax.weights.identify import described, identify
from mobile_jax.weights.load import network_of, read_model, write_model
from mobile_jax.weights.names import buffers, rules
from tests.mobile_jax.fixtures import shapes_of

CONFIG = MNConfig(width=0.1, classes=20)


@pytest.fixture
def state(recorded):
  return dict(recorded("mn01_c_mlp").state)


def claim(*shape):
  """A tensor that is never read."""
  return Tensor(shape, "float32", lambda: pytest.fail("read"))


def tensors_of(state):
  return {name: held(np.asarray(x)) for name, x in state.items()}


@pytest.mark.parametrize(
  ("name", "shape", "message"),
  [
    ("features.1.block.1.0.weight", (8, 8), r"has shape \(8, 8\), where this model has 4 axes"),
    ("features.16.0.weight", (), r"has shape \(\), where this model has 4 axes"),
    ("features.4.block.2.conc_se_layers.0.fc1.weight", (), r"where this model has 2 axes"),
    ("classifier.5.bias", (), r"classifier.5.bias has shape \(\), where this model has 1 axis"),
    ("classifier.5.bias", (0,), r"classifier.5.bias has shape \(0,\), where"),
    ("classifier.head_weight", (), r"has shape \(\), where this model has 3 axes"),
  ],
)
def test_shapes_that_tell_a_configuration(state, tmp_path, name, shape, message):
  if "head_weight" in name:
    state = {key: x for key, x in state.items() if "classifier" not in key}
  with pytest.raises(WeightsError, match=message) as caught:
    identify(tmp_path / "x.pt", {**tensors_of(state), name: claim(*shape)})
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["depth_norm.weight", "depth_conv.weight", "depth_act.lambdas"])
def test_shapes_of_dymn(recorded, tmp_path, part):
  state = tensors_of(recorded("dymn01_all").state)
  with pytest.raises(WeightsError, match=rf"layers.3.{part} has shape \(\), where"):
    identify(tmp_path / "x.pt", {**state, f"layers.3.{part}": claim()})


def test_a_constant_of_another_shape(recorded, tmp_path):
  state = tensors_of(recorded("dymn01_all").state)
  name = "layers.3.depth_act.init_v"
  with pytest.raises(WeightsError, match=rf"{name} has shape \(1000,\), not the \(4,\)") as caught:
    identify(tmp_path / "x.pt", {**state, name: claim(1000)})
  assert "\n" not in str(caught.value)


def test_names_that_only_look_like_ours(state, tmp_path):
  odd = {"features.x.weight": claim(2, 2, 3, 3), f"features.{'9' * 5000}.0.weight": claim(2)}
  found = identify(tmp_path / "x.pt", {**tensors_of(state), **odd})
  assert found.cfg == CONFIG
  assert set(odd) <= set(found.tensors)  # for the report on unexpected ones


@pytest.mark.parametrize(
  ("name", "shape"),
  [("layers.3.depth_conv.weight", (4, 1, 1, 200)), ("layers.3.proj_conv.weight", (1, 1, 64, 4))],
)
def test_dynamic_kernels_of_another_shape(recorded, name, shape):
  """The right number of values, regrouped."""
  network = recorded("dymn01_all")
  state = {k: x for k, x in network.state.items() if k not in buffers(network.cfg)}
  state[name] = state[name].reshape(shape)
  with pytest.raises(WeightsError, match=rf"{name} has shape \({shape[0]}, .*\), not \(1, 1, 4,"):
    from_torch(state, rules(network.cfg), shapes_of(network.cfg))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"width": 1e308}, r"mn.width is 1e\+308, more than any model has"),
    ({"classes": 10**12}, "mn.classes is 1000000000000, more than any model has"),
    ({"strides": [2, 2, 2, 5]}, r"strides is \(2, 2, 2, 5\)"),
    ({"mel": {"hop_length": 0}}, "mel.hop_length is 0"),
  ],
)
def test_a_record_of_no_network(state, tmp_path, changes, message):
  record = {"format": 1, "family": "mn", "config": {"width": 0.1, **changes}}
  path = tmp_path / "x.safetensors"
  save_file(state, path, {"dasheng_jax": json.dumps(record)})
  for load in (read_model, lambda p: identify(p, {**tensors_of(state), "dasheng_jax": record})):
    with pytest.raises(WeightsError, match=message) as caught:
      load(path)
    assert "\n" not in str(caught.value)


def test_a_configuration_that_makes_no_network():
  with pytest.raises(WeightsError, match=r"x: no network can be built of its configuration \("):
    network_of(MNConfig(width=1e308), "x")
  with pytest.raises(WeightsError, match=r"x: no network can be built"):
    network_of(MNConfig(se="t", frames=-1), "x")


def test_a_name_in_a_record_is_one_of_ours_or_none(state, tmp_path):
  record = make_record("mn", CONFIG, "my | model\nof fame")
  found = identify(tmp_path / "x.pt", {**tensors_of(state), "dasheng_jax": record})
  assert found.name == ""
  record = make_record("mn", CONFIG, "mn01_as")
  assert identify(tmp_path / "x.pt", {**tensors_of(state), "dasheng_jax": record}).name == "mn01_as"


@pytest.mark.torch
def test_a_record_beside_another_file(state, variables_of, tmp_path):
  """A `.pt` of MN or DyMN has its configuration beside it, and either may be replaced alone."""
  stored = dataclasses.replace(CONFIG, strides=(2, 2, 2, 1))
  write_model(tmp_path / "a.pt", stored, variables_of("mn01_c_mlp"))
  copied = tmp_path / "b.pt"
  shutil.copy(tmp_path / "a.pt", copied)
  shutil.copy(beside(tmp_path / "a.pt"), beside(copied))
  assert read_model(copied)[0] == stored
  write_torch(tmp_path / "a.pt", state | {"classifier.5.bias": state["classifier.5.bias"] + 1})
  with pytest.raises(WeightsError, match=r"a.pt.config.json: describes another file .*delete it"):
    read_model(tmp_path / "a.pt")
  record = json.loads(beside(copied).read_text())
  del record["dasheng_jax"][BELONGS_TO]
  beside(copied).write_text(json.dumps(record))
  with pytest.raises(WeightsError, match="describes another file"):
    read_model(copied)
  # A file that holds its own notes does not look beside itself.
  save_file(state, tmp_path / "c.safetensors")
  shutil.copy(beside(copied), beside(tmp_path / "c.safetensors"))
  assert read_record(tmp_path / "c.safetensors", {}) == {}


def test_what_is_said_of_a_network():
  assert described(DyMNConfig(temperature=30.0, classes=7)) == [
    "temperature of dynamic convolutions: 30, in no tensor",
    "head: mlp, 7 classes",
  ]
  attention = MNConfig(head="attention", attention_heads=3)
  assert described(attention) == ["head: attention of 3 heads, 527 classes"]
