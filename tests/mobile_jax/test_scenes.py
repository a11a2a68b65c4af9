"""CP-Mobile and CP-ResNet: recorded networks, the published student, counts, names."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file, save_file

import mobile_jax
from dasheng_jax.errors import ConfigError, WeightsError
from dasheng_jax.weights.table import from_torch, to_torch
from mobile_jax import ops
from mobile_jax.complexity import measure
from mobile_jax.cp_mobile import ResponseNorm
from mobile_jax.network import infer, init_variables, train_outputs
from mobile_jax.ops import average_pool, depthwise, depthwise_convolution, max_pool
from mobile_jax.scene_config import SCENE_SIZES, CPMobileConfig, CPResNetConfig
from mobile_jax.weights.identify import identify
from mobile_jax.weights.load import open_content, write_model
from mobile_jax.weights.names import rules
from tests.mobile_jax.fixtures import check_shortest_clip, quick, shapes_of

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
RECORDED = {
  "cp_mobile": CPMobileConfig(classes=7, base_channels=16, multiplier=1.8, expansion=2.0),
  "cp_resnet": CPResNetConfig(base_channels=24, rho=5, cut_third=12),
}
FULL = {
  "cpmobile_rand_1": CPMobileConfig(base_channels=24, multiplier=2.1, expansion=2.5),
  "cpresnet_rand_0": CPResNetConfig(),
}
# Of the largest output: float32 noise of networks with random weights.
NOISE = 2e-5


def weights(arrays):
  """The state dict in a recording."""
  state = {k.removeprefix("param/"): x for k, x in arrays.items() if k.startswith("param/")}
  return {k: x.reshape(()) if k.endswith("tracked") else x for k, x in state.items()}


def variables_of(cfg, arrays):
  return jax.tree.map(jnp.asarray, from_torch(weights(arrays), rules(cfg), shapes_of(cfg)))


def assert_near(got, want, noise=NOISE):
  want = np.asarray(want)
  np.testing.assert_allclose(got, want, rtol=0, atol=noise * np.abs(want).max())


def check_network(cfg, arrays):
  """Logits in both modes, and what training leaves of the statistics."""
  variables, log_mel = variables_of(cfg, arrays), jnp.asarray(arrays["in"][:, 0])
  outputs = quick(lambda v, x: infer(cfg, v, x))(variables, log_mel)
  assert_near(outputs.logits, arrays["logits"])
  assert outputs.features.shape == (len(log_mel), cfg.features)
  trained, stats = quick(lambda v, x: train_outputs(cfg, v, x, None))(variables, log_mel)
  assert_near(trained.logits, arrays["logits_train"])
  after = to_torch({**variables, "batch_stats": stats}, rules(cfg))
  for name, want in arrays.items():
    if name.startswith("after_train/"):
      assert_near(after[name.removeprefix("after_train/")], want)


# What differs on plain XLA are single operations, which are compared one by one further down.
@pytest.mark.parametrize("kernels", ["auto", pytest.param("xla", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_networks(name, kernels):
  arrays = dict(np.load(GOLDEN / f"scene_{name}.npz"))
  check_network(RECORDED[name].with_compute(kernels=kernels), arrays)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_the_other_recorded_networks(name, scene_fixtures):
  check_network(FULL[name], load_file(scene_fixtures / f"{name}.safetensors"))


@pytest.mark.slow
def test_activations_of_the_default_cp_resnet(scene_fixtures):
  arrays = load_file(scene_fixtures / "cpresnet_rand_0.safetensors")
  cfg = CPResNetConfig()
  log_mel = jnp.asarray(arrays["in"][:1, 0])
  stages = quick(lambda v, x: infer(cfg, v, x).stages)(variables_of(cfg, arrays), log_mel)
  for place, name in ((0, "in_c"), (2, "stage1"), (3, "stage2"), (4, "stage3")):
    assert_near(stages[place].transpose(0, 3, 1, 2), arrays[f"act/{name}"])


def test_the_published_student_on_its_clips(scene_fixtures):
  """`cp_mobile_dcase23`: logits of ten crops of three clips, and the prediction of the scene."""
  tag, variables = mobile_jax.load_model(
    scene_fixtures / "cpmobile_c0a7nzin.safetensors", name="cp_mobile_dcase23"
  )
  tag = quick(tag)
  recorded = load_file(scene_fixtures / "cpmobile_c0a7nzin_outputs.safetensors")
  for clip in ("metro_station-paris_32k", "music", "speech"):
    wave, rate = soundfile.read(scene_fixtures / f"{clip}.flac", dtype="float32")
    assert rate == 32_000
    logits, features = tag(variables, jnp.asarray(wave[:320_000].reshape(10, rate)))
    np.testing.assert_allclose(logits, recorded[f"{clip}/logits"], atol=2e-4)
    assert features.shape == (10, 168)
    if clip.startswith("metro"):
      assert {mobile_jax.SCENES[i] for i in np.argmax(logits, axis=1)} == {"metro_station"}


def test_activations_of_the_published_student(scene_fixtures):
  cfg = SCENE_SIZES["cp_mobile_32"]
  _, variables = mobile_jax.load_model(
    scene_fixtures / "cpmobile_c0a7nzin.safetensors", name="cp_mobile_dcase23"
  )
  recorded = load_file(scene_fixtures / "cpmobile_c0a7nzin_outputs.safetensors")
  mel = jnp.asarray(recorded["metro_station-paris_32k/mel_crop0"][None])
  stages = quick(lambda v, x: infer(cfg, v, x).stages)(variables, mel)
  names = ("in_c.0", "in_c", "s1.b1", "s1.b2", "s1.b3", "s2.b4", "s2.b5", "s3.b6")
  for stage, name in zip(stages, names, strict=True):
    want = recorded[f"act/{name}"]
    if name == "in_c.0":
      continue  # recorded before its norm and activation
    assert_near(stage.transpose(0, 3, 1, 2), want)


@pytest.mark.torch
def test_the_published_checkpoint_with_its_trainer_around_it(scene_fixtures):
  """A Lightning file: `model.` before every name, the optimiser beside them."""
  cfg, variables = mobile_jax.read_model(
    scene_fixtures / "cpmobile_c0a7nzin_epoch149.ckpt", name="cp_mobile_dcase23"
  )
  _, same = mobile_jax.read_model(scene_fixtures / "cpmobile_c0a7nzin.safetensors", config=cfg)
  jax.tree.map(np.testing.assert_array_equal, variables, same)


def test_the_record_says_what_the_name_implies(scene_fixtures):
  told = json.loads((scene_fixtures / "cpmobile_c0a7nzin.json").read_text())["model"]
  cfg = mobile_jax.MODELS["cp_mobile_dcase23"].config
  assert (cfg.classes, cfg.base_channels) == (told["n_classes"], told["base_channels"])
  assert (cfg.multiplier, cfg.expansion) == (told["channels_multiplier"], told["expansion_rate"])
  assert list(cfg.blocks_per_stage) == told["n_blocks"]
  strided = {f"b{b.number}": list(b.stride) for b in cfg.blocks if b.stride != (1, 1)}
  assert strided == told["strides"]


# Parameters, MACs for a second (reference text of the scene models, sections 2.4 and 3).
TABLED = {
  "cp_mobile_32": (126_952, 28_889_088),
  "cp_mobile_64": (481_200, 110_665_728),
  "cp_mobile_96": (1_109_512, 251_283_456),
  "cp_mobile_184": (3_957_850, 904_137_728),
  "cp_mobile_264": (8_093_254, 1_851_642_880),
  "cp_resnet_32": (127_684, 28_839_120),
  "cp_resnet_56": (427_180, 91_328_280),
  "cp_resnet_88": (1_098_892, 229_267_320),
  "cp_resnet_168": (4_140_092, 847_215_720),
  "cp_resnet_232": (7_973_884, 1_622_478_120),
}


QUICK = ("cp_mobile_32", "cp_resnet_32")
measured = functools.cache(measure)


@pytest.mark.parametrize(
  "name",
  [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SCENE_SIZES],
)
def test_counts(name):
  found = measured(mobile_jax.named(name))
  assert (found.parameters, found.macs) == TABLED[name]


@pytest.mark.parametrize(("frames", "millions"), [(65, 31.68)])
def test_counts_of_other_lengths(frames, millions):
  assert round(measure(SCENE_SIZES["cp_mobile_32"], frames=frames).macs / 1e6, 2) == millions


def test_receptive_fields():
  """Pools count as what they are: windows that step."""
  assert measured(SCENE_SIZES["cp_resnet_32"]).receptive_field == (155, 55)
  assert measured(SCENE_SIZES["cp_mobile_32"]).receptive_field == (119, 87)


def test_a_state_dict_tells_its_network(tmp_path):
  odd = (
    CPMobileConfig(classes=3, base_channels=16, multiplier=1.8, expansion=2.0),
    CPMobileConfig(blocks_per_stage=(2, 1, 1), halved_frequency=(3,)),
    CPResNetConfig(classes=4, base_channels=24, rho=5, cut_third=12, groups=(1, 3, 1)),
  )
  for cfg in (*odd, SCENE_SIZES["cp_resnet_32"]):
    write_model(tmp_path / "weights.safetensors", cfg, zeros(cfg))
    state = to_torch(zeros(cfg), rules(cfg))
    save_file(dict(state), tmp_path / "bare.safetensors")  # without a record
    for name in ("weights", "bare"):
      path = tmp_path / f"{name}.safetensors"
      found = identify(path, open_content(path))
      assert shapes_of(found.cfg) == shapes_of(cfg)
      assert [rule.torch for rule in found.rules] == list(state)
  assert found.name == "cp_resnet_32"


def zeros(cfg):
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes_of(cfg))


def test_foreign_channels_are_refused(tmp_path):
  state = to_torch(zeros(CPMobileConfig()), rules(CPMobileConfig()))
  name = "stages.s2.b4.block.0.0.weight"
  save_file({**state, name: np.zeros((50, 32, 1, 1), np.float32)}, tmp_path / "x.safetensors")
  with pytest.raises(WeightsError, match="channels are those of no cp-mobile"):
    identify(tmp_path / "x.safetensors", open_content(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("name", RECORDED)
def test_weights_come_back(name, tmp_path):
  cfg = RECORDED[name]
  variables = quick(lambda key: init_variables(cfg, key))(jax.random.key(3))
  write_model(tmp_path / "w.safetensors", cfg, variables)
  again, same = mobile_jax.read_model(tmp_path / "w.safetensors")
  assert again == cfg
  jax.tree.map(np.testing.assert_array_equal, variables, same)
  fewer, fresh = mobile_jax.read_model(tmp_path / "w.safetensors", classes=2)
  assert fewer == dataclasses.replace(cfg, classes=2)
  assert fresh["params"]["head"]["kernel"].shape == (cfg.features, 2)
  np.testing.assert_array_equal(
    fresh["params"]["stem"]["kernel"], variables["params"]["stem"]["kernel"]
  )


def test_starts_are_as_released():
  cfg = SCENE_SIZES["cp_mobile_32"]
  params = quick(lambda key: init_variables(cfg, key))(jax.random.key(0))["params"]
  assert params["block_5"]["depthwise"]["kernel"].std() == pytest.approx(
    np.sqrt(2 / (9 * 216)), rel=0.1
  )
  assert params["second"]["kernel"].std() == pytest.approx(np.sqrt(2 / (9 * 32)), rel=0.1)
  assert not params["block_1"]["response"]["gamma"].any()
  cfg = SCENE_SIZES["cp_resnet_32"]
  params = quick(lambda key: init_variables(cfg, key))(jax.random.key(0))["params"]
  assert params["stem"]["kernel"].std() == pytest.approx(np.sqrt(2 / 25), rel=0.1)
  # Four blocks: a half of He's.
  assert params["block_2"]["first"]["kernel"].std() == pytest.approx(
    np.sqrt(2 / (9 * 32)) / 2, rel=0.1
  )
  assert not params["block_2"]["second"]["kernel"].any()
  assert not params["head"]["kernel"].any()
  assert params["block_3"]["shortcut"]["kernel"].std() == pytest.approx(np.sqrt(2 / 64), rel=0.1)


def test_a_silent_channel_has_a_gradient():
  norm = ResponseNorm()
  x = jnp.zeros((1, 4, 4, 2)).at[..., 0].set(1.0)
  variables = {"params": {"gamma": jnp.ones(1), "beta": jnp.zeros(1)}}
  gradient = quick(jax.grad(lambda x: norm.apply(variables, x).sum()))(x)
  assert np.isfinite(gradient).all()
  y = quick(norm.apply)(variables, x)
  np.testing.assert_allclose(y[0, 0, 0], [3.0, 0.0], atol=1e-5)  # 4 / (mean of 4 and 0) + 1


def gradient_too(form, x, *rest):
  """The result, and the gradient of a sum that weighs every cell differently."""

  @quick
  def both(x):
    y, backwards = jax.vjp(lambda x: form(x, *rest), x)
    weights = jnp.arange(y.size, dtype=jnp.float32).reshape(y.shape)
    return y, backwards(weights)[0]

  return both(x)


def test_the_forms_of_accelerators_agree_with_those_of_a_cpu():
  x = jax.random.normal(jax.random.key(0), (2, 7, 5, 4))
  kernel = jax.random.normal(jax.random.key(1), (3, 3, 2, 6))
  pairs = [
    *[(ops.max_pool_cells, ops.max_pool_windows, (size,)) for size in ((2, 1), (2, 2))],
    *[(ops.average_pool_cells, ops.average_pool_windows, (s,)) for s in ((2, 2), (2, 1), 1)],
    (ops.dense_apart, ops._convolve, (kernel, 2, 1, 2)),
  ]
  for ours, theirs, rest in pairs:
    got, want = gradient_too(ours, x, *rest), gradient_too(theirs, x, *rest)
    for a, b in zip(got, want, strict=True):
      np.testing.assert_allclose(a, b, atol=2e-5 * max(1, np.abs(b).max()))
  bad = x.at[0, 1, 0, 0].set(jnp.nan)
  assert np.isnan(max_pool(bad, (2, 1))[0, 0, 0, 0])


def test_pools_and_strides_of_both_axes():
  x = jax.random.normal(jax.random.key(0), (2, 7, 5, 3))
  want = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 1, 1), (1, 2, 1, 1), "VALID")
  np.testing.assert_array_equal(max_pool(x, (2, 1)), want)
  kernel = jnp.full((3, 3, 3), 1 / 9)
  for stride in ((2, 2), (2, 1), 1):
    want = depthwise_convolution(x, kernel, stride)
    np.testing.assert_allclose(average_pool(x, stride), want, atol=1e-6)
    np.testing.assert_allclose(depthwise(x, kernel, stride, 1, "auto"), want, atol=1e-6)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: CPMobileConfig(base_channels=0), "base_channels is 0"),
    (lambda: CPMobileConfig(halved=(9,)), "halved is"),
    (lambda: CPMobileConfig(blocks_per_stage=(0, 1, 1)), "at least 1 to each"),
    (lambda: CPResNetConfig(base_channels=9), "maps 9 to 18 channels in 2 groups"),
    (lambda: CPResNetConfig(base_channels=15), "in 2 groups"),
    (lambda: CPResNetConfig(blocks_per_stage=(3, 1, 1)), "give 1 or 2"),
    (lambda: mobile_jax.named("cp_mobile_33"), "did you mean cp_mobile_32"),
  ],
)
def test_what_makes_no_network(make, message):
  with pytest.raises(ConfigError, match=message):
    make()


@pytest.mark.parametrize("name", ["cp_resnet_32", "passt_scenes", "cp_mobile_32"])
def test_the_shortest_clip(name):
  check_shortest_clip(mobile_jax.named(name))
