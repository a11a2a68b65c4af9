"""PaSST: recorded outputs with and without patchout, counts, draws, weights in and out."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mobile_jax
from dasheng_jax.errors import ConfigError
from dasheng_jax.weights.table import from_torch, to_torch
from mobile_jax.complexity import measure
from mobile_jax.network import infer, init_variables, train_outputs
from mobile_jax.passt import PaSST, Patchout, draw_patchout
from mobile_jax.passt_config import PASST_SIZES, PaSSTConfig
from mobile_jax.weights.identify import identify
from mobile_jax.weights.load import open_content, write_model
from mobile_jax.weights.names import rules
from tests.mobile_jax.fixtures import quick, shapes_of

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "scene_passt.npz"
TINY = PaSSTConfig(width=48, depth=2, heads=4)
# Of the largest output.
NOISE = 5e-6


@pytest.fixture(scope="module")
def recorded():
  return dict(np.load(GOLDEN))


@pytest.fixture(scope="module")
def everything(shared):
  path = shared / "fixtures" / "scenes" / "passt_tiny.safetensors"
  if not path.is_file():
    pytest.skip(f"needs the recorded arrays in {shared.name}/fixtures/scenes")
  return load_file(path)


def state_of(arrays):
  return {k.removeprefix("param/"): x for k, x in arrays.items() if k.startswith("param/")}


def variables_of(arrays):
  return jax.tree.map(jnp.asarray, from_torch(state_of(arrays), rules(TINY), shapes_of(TINY)))


def assert_near(got, want):
  np.testing.assert_allclose(got, want, rtol=0, atol=NOISE * np.abs(want).max())


def check_inference(arrays, length):
  log_mel = jnp.asarray(arrays[f"in_{length}"][:, 0])
  outputs = quick(lambda v, x: infer(TINY, v, x))(variables_of(arrays), log_mel)
  assert_near(outputs.logits, arrays[f"logits_{length}"])
  assert_near(outputs.features, arrays[f"features_{length}"])


def check_patchout(arrays, case, length):
  def kept(name, otherwise):
    found = arrays.get(f"{case}/{name}")
    return otherwise if found is None else jnp.asarray(found.astype(np.int32))

  log_mel = jnp.asarray(arrays[f"in_{length}"][:, 0])
  columns = min((log_mel.shape[2] - 16) // 10 + 1, 99)
  patchout = Patchout(
    kept("toffset", None)[0],
    kept("t_keep", jnp.arange(columns)),
    kept("f_keep", None),
    kept("u_keep", None),
  )
  outputs = quick(lambda v, x: PaSST(TINY).apply(v, x, True, patchout))(
    variables_of(arrays), log_mel
  )
  assert_near(outputs.logits, arrays[f"{case}/logits"])
  assert_near(outputs.features, arrays[f"{case}/features"])


def test_inference_on_a_second(recorded):
  check_inference(recorded, "1s")


@pytest.mark.slow
def test_inference_on_ten_seconds(everything):
  check_inference(everything, "10s")


@pytest.mark.parametrize("case", ["po_f6", "po_t3_f6", "po_t4_f8_u10"])
def test_recorded_patchout(case, recorded):
  check_patchout(recorded, case, "1s")


@pytest.mark.slow
def test_recorded_patchout_of_ten_seconds(everything):
  check_patchout(everything, "po10s_t40_f4", "10s")


def test_a_draw_keeps_what_it_should_in_order():
  cfg = dataclasses.replace(TINY, patchout_time=3, patchout_frequency=6, patchout_tokens=10)
  draw_one = quick(lambda key: draw_patchout(cfg, key, 9))
  draws = [jax.device_get(draw_one(jax.random.key(n))) for n in range(200)]
  for draw in draws:
    for kept, count, of in ((draw.time, 6, 9), (draw.frequency, 6, 12), (draw.tokens, 26, 36)):
      assert len(kept) == count
      assert np.all(np.diff(kept) > 0)
      assert 0 <= kept[0] <= kept[-1] < of
  offsets = {int(draw.offset) for draw in draws}
  assert min(offsets) >= 0
  assert max(offsets) <= 90  # the last window of nine columns
  assert len(offsets) > 60
  # A clip longer than the table is cut to it, and stands at its start.
  long = draw_patchout(cfg, jax.random.key(0), 120)
  assert (int(long.offset), len(long.time)) == (0, 96)


def test_training_draws_and_a_step_without_a_key_does_not(recorded):
  variables, log_mel = variables_of(recorded), jnp.asarray(recorded["in_1s"][:, 0])
  step = quick(lambda v, x, key: train_outputs(TINY, v, x, key)[0].logits)
  first, again, other = (step(variables, log_mel, jax.random.key(n)) for n in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)
  still, stats = quick(lambda v, x: train_outputs(TINY, v, x, None))(variables, log_mel)
  assert_near(still.logits, recorded["logits_1s"])
  assert stats == {}


@pytest.mark.parametrize(
  ("name", "parameters", "macs"),
  [("passt_scenes", 85_358_612, 9.587e9), ("passt_as", 86_153_758, 9.588e9)],
)
def test_counts(name, parameters, macs):
  found = measure(PASST_SIZES[name])
  assert found.parameters == parameters
  assert found.macs == pytest.approx(macs, rel=1e-3)


@pytest.mark.slow
def test_macs_of_ten_seconds():
  assert measure(PASST_SIZES["passt_scenes"], frames=1000).macs == pytest.approx(127.4e9, rel=1e-3)


def test_weights_come_back_and_a_new_number_of_classes_keeps_the_norm(recorded, tmp_path):
  variables = variables_of(recorded)
  state = to_torch(variables, rules(TINY))
  for name, want in state_of(recorded).items():
    np.testing.assert_array_equal(state[name], want)
  write_model(tmp_path / "w.safetensors", TINY, variables)
  again, same = mobile_jax.read_model(tmp_path / "w.safetensors")
  assert again == TINY
  assert same["batch_stats"] == {}
  jax.tree.map(np.testing.assert_array_equal, variables["params"], same["params"])
  fewer, fresh = mobile_jax.read_model(tmp_path / "w.safetensors", classes=3)
  assert fewer.classes == 3
  kept, head = variables["params"]["head"]["norm"], fresh["params"]["head"]
  np.testing.assert_array_equal(head["norm"]["scale"], kept["scale"])
  assert head["logits"]["kernel"].shape == fresh["params"]["head_dist"]["kernel"].shape == (48, 3)


def test_a_state_dict_tells_its_network(tmp_path):
  cfg = PaSSTConfig(classes=4, width=128, depth=2, heads=2, columns=50)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes_of(cfg))
  save_file(dict(to_torch(zeros, rules(cfg))), tmp_path / "bare.safetensors")
  found = identify(tmp_path / "bare.safetensors", open_content(tmp_path / "bare.safetensors"))
  assert (found.family, found.cfg) == ("passt", cfg)


def test_layers_start_differently():
  params = quick(lambda key: init_variables(TINY, key))(jax.random.key(0))["params"]
  kernel = params["blocks"]["layers"]["mlp"]["up"]["kernel"]
  assert np.all(kernel[0] != kernel[1])
  assert kernel.std() == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"width": 50}, "not divisible by 12 heads"),
    ({"patchout_frequency": 12}, "something has to stay"),
    ({"patchout_tokens": -1}, "patchout_tokens is -1"),
    ({"stride": 0}, "stride is 0"),
  ],
)
def test_what_makes_no_network(changes, message):
  with pytest.raises(ConfigError, match=message):
    PaSSTConfig(**changes)
