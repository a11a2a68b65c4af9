"""MobileNetV2 and EfficientNet: recorded networks, both modes, gradients, counts, names."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import mobile_jax
from dasheng_jax.errors import ConfigError, WeightsError
from dasheng_jax.weights.table import flatten, from_torch, to_torch
from mobile_jax.complexity import measure
from mobile_jax.complexity.report import elements
from mobile_jax.decision_config import (
  DECISION_SIZES,
  EfficientNetConfig,
  MobileNetV2Config,
  same_padding,
)
from mobile_jax.efficientnet import MBConv
from mobile_jax.heads import DecisionHead, logits_of_mean
from mobile_jax.inference import alone, log_mel
from mobile_jax.layers import ConvNorm
from mobile_jax.losses import binary_cross_entropy, probability_cross_entropy, tag_loss
from mobile_jax.network import infer, train_outputs
from mobile_jax.ops import ACTIVATIONS, depthwise_convolution, depthwise_taps
from mobile_jax.weights.decision_names import FILTERS
from mobile_jax.weights.identify import identify
from mobile_jax.weights.load import open_content, write_model
from mobile_jax.weights.names import buffers, rules
from tests.mobile_jax.fixtures import check_shortest_clip, golden, quick, shapes_of
from tests.mobile_jax.make_decision_golden import SMALL, WEIGHTS

# The others are compiled in `make test-slow`.
QUICK = ("mobilenet_v2", "efficientnet_pytorch")


def quickly(*names):
  """Every network, those without these names as slow ones."""
  return [n if n in names else pytest.param(n, marks=pytest.mark.slow) for n in SMALL]


LESS_USUAL = (MobileNetV2Config(), EfficientNetConfig(image=260))
# Of the largest value: float32 noise of networks with random weights, and of their gradients.
NOISE, GRADIENT_NOISE = 2e-5, 1e-3


@pytest.fixture(scope="module")
def recorded():
  """recorded(name) -> (configuration, variables, arrays)."""
  arrays = golden("decision")

  @functools.cache
  def read(name):
    mine = {k.removeprefix(f"{name}/"): x for k, x in arrays.items() if k.startswith(f"{name}/")}
    begin, stored = f"{WEIGHTS[name]}/param/", SMALL[WEIGHTS[name]]
    state = {k.removeprefix(begin): x for k, x in arrays.items() if k.startswith(begin)}
    tree = from_torch(state, rules(stored), shapes_of(stored))
    cfg, variables = SMALL[name].with_compute(kernels="xla"), jax.tree.map(jnp.asarray, tree)
    return cfg, variables, mine

  return read


def assert_near(got, want, noise=NOISE):
  want = np.asarray(want)
  assert got.shape == want.shape
  np.testing.assert_allclose(got, want, rtol=0, atol=noise * max(np.abs(want).max(), 1e-3))


@pytest.mark.parametrize("name", quickly(*QUICK))
def test_recorded_inference(name, recorded):
  cfg, variables, arrays = recorded(name)
  outputs = quick(lambda v, x: infer(cfg, v, x))(variables, jnp.asarray(arrays["log_mel"]))
  assert_near(outputs.frames, arrays["frames"])
  assert_near(outputs.features, arrays["features"])
  # A sigmoid of the logits is the mean of the steps' probabilities.
  assert_near(jax.nn.sigmoid(outputs.logits), arrays["clip"])
  assert_near(outputs.frames.mean(axis=1), arrays["clip"])
  steps = {"mobilenet_v2": 3, "efficientnet_pytorch": 2, "torchvision": 3}[name]
  assert outputs.frames.shape == (2, steps, cfg.classes)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_recorded_training(name, recorded):
  """Loss on logits against the recorded one on probabilities, every gradient, statistics."""
  cfg, variables, arrays = recorded(name)
  targets = jnp.asarray(arrays["targets"])

  def loss(params, x):
    outputs, stats = train_outputs(cfg, {**variables, "params": params}, x, None)
    return jnp.mean(tag_loss(outputs.logits, targets)), (outputs, stats)

  step = quick(jax.value_and_grad(loss, has_aux=True))
  (value, (outputs, stats)), gradients = step(variables["params"], jnp.asarray(arrays["log_mel"]))
  assert value == pytest.approx(float(arrays["train/loss"]), rel=1e-5)
  assert_near(outputs.frames, arrays["train/frames"])
  told = arrays["gradients"]
  least, checked = 1e-6 * told[:, 0].max(), 0
  found = sorted(flatten({"params": gradients}).items())
  for (path, gradient), (norm, total) in zip(found, told, strict=True):
    # Of what a norm takes off there is no gradient but rounding.
    atol = GRADIENT_NOISE * norm + least
    np.testing.assert_allclose(np.linalg.norm(gradient), norm, rtol=0, atol=atol, err_msg=path)
    wide = atol * np.sqrt(gradient.size)
    np.testing.assert_allclose(np.sum(gradient), total, rtol=0, atol=wide, err_msg=path)
    checked += bool(norm > least)
  assert checked > 100
  for path, x in flatten({"batch_stats": stats}).items():
    if path.startswith("batch_stats/last/") and "count" not in path:
      assert_near(x, arrays[f"after/{path}"])


def test_the_two_efficientnets_differ():
  """With one lineage's weights: eps, padding and the first block's shortcut."""
  cfg, other = SMALL["efficientnet_pytorch"], SMALL["torchvision"]
  assert not cfg.blocks[0].residual
  assert other.blocks[0].residual
  assert (cfg.stem_padding, other.stem_padding) == ((0, 1), (1, 1))
  assert (cfg.details.eps, other.details.eps) == (1e-3, 1e-5)


def test_logits_of_a_mean_do_not_saturate():
  steps = jnp.asarray([[[0.0, 40.0, -90.0], [2.0, 50.0, -100.0], [-1.0, 45.0, 3.0]]])
  logits = logits_of_mean(steps)
  wide = 1 / (1 + np.exp(-np.asarray(steps, np.float64)))
  miss = 1 / (1 + np.exp(np.asarray(steps, np.float64)))
  want = np.log(wide.mean(axis=1)) - np.log(miss.mean(axis=1))
  np.testing.assert_allclose(logits, want, rtol=1e-6)
  slope = jax.grad(lambda x: binary_cross_entropy(logits_of_mean(x), jnp.zeros((1, 3))).sum())(
    steps
  )
  assert np.isfinite(slope).all()
  assert slope[0, :, 1].sum() == pytest.approx(1, rel=1e-3)  # where a float32 mean is 1


def test_cross_entropy_of_probabilities():
  """As PyTorch's BCELoss, at 0 and 1 too; elsewhere that of logits."""
  p = jnp.asarray([[0.0, 1.0, 0.5, 1e-30], [1.0, 0.0, 0.999999, 0.2]])
  t = jnp.asarray([[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.3, 0.0]])
  values = [[0, 100, np.log(2), 69.07755], [0, 100, 9.661623, -np.log(0.8)]]
  np.testing.assert_allclose(probability_cross_entropy(p, t), values, rtol=1e-6)
  slope = jax.grad(lambda p: probability_cross_entropy(p, t).mean())(p)
  want = np.array([[0, 1e12, -2, -1e12], [0, -1e12, 6.9082625e5, 1.25]]) / 8
  np.testing.assert_allclose(slope, want, rtol=1e-5)
  logits = jnp.asarray([[-3.0, 0.5, 4.0]])
  truth = jnp.asarray([[0.0, 0.4, 1.0]])

  def both(x):
    return probability_cross_entropy(jax.nn.sigmoid(x), truth), binary_cross_entropy(x, truth)

  ours, theirs = both(logits)
  np.testing.assert_allclose(ours, theirs, rtol=1e-5)
  slopes = [jax.grad(lambda x, i=i: both(x)[i].sum())(logits) for i in (0, 1)]
  np.testing.assert_allclose(*slopes, rtol=1e-4)
  by_targets = jax.grad(lambda t: probability_cross_entropy(p[1:, 3:], t).sum())(t[1:, 3:])
  np.testing.assert_allclose(by_targets, [[np.log(0.8) - np.log(0.2)]], rtol=1e-5)


def test_relu6_and_swish():
  x = jnp.asarray([-1.0, 0.0, 2.0, 6.0, 7.0, jnp.nan])
  np.testing.assert_array_equal(ACTIVATIONS["relu6"](x), [0, 0, 2, 6, 6, np.nan])
  slope = jax.grad(lambda x: ACTIVATIONS["relu6"](x).sum())(x[:5])
  np.testing.assert_array_equal(slope, [0, 0, 1, 0, 0])
  np.testing.assert_allclose(ACTIVATIONS["swish"](x[2]), 2 / (1 + np.exp(-2.0)), rtol=1e-6)


@pytest.mark.parametrize("padding", [(0, 1), (1, 2), (2, 2)])
def test_the_forms_of_one_sided_padding_agree(padding):
  x = jax.random.normal(jax.random.key(0), (2, 9, 6, 4))
  kernel = jax.random.normal(jax.random.key(1), (5, 5, 4))
  ours = depthwise_taps(x, kernel, 2, padding=padding)
  np.testing.assert_allclose(
    ours, depthwise_convolution(x, kernel, 2, padding=padding), atol=2e-5, rtol=0
  )
  assert ours.shape[1] == (9 + sum(padding) - 5) // 2 + 1


def test_padding_of_a_fixed_image():
  """Of 224 pixels more at the end; of 260, which B2 sees, three of five symmetrically."""
  assert same_padding(3, 2, 224) == (0, 1)
  assert same_padding(5, 2, 56) == (1, 2)
  cfg = EfficientNetConfig()
  assert cfg.stem_padding == (0, 1)
  assert [b.padding for b in cfg.blocks if b.stride == 2] == [(0, 1), (1, 2), (0, 1), (1, 2)]
  larger = EfficientNetConfig(image=260)
  pads = [larger.stem_padding, *(b.padding for b in larger.blocks if b.stride == 2)]
  assert pads == [(0, 1), (0, 1), (2, 2), (1, 1), (2, 2)]


@pytest.mark.parametrize("cfg", DECISION_SIZES.values())
def test_parameters_of_the_reference(cfg):
  wanted = 2_898_383 if isinstance(cfg, MobileNetV2Config) else 4_682_059
  assert elements(shapes_of(cfg)["params"]) == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
  ("cfg", "parameters", "state", "macs"),
  [
    (MobileNetV2Config(), 2_898_383, 2_949_507, 398_479_104),
    (EfficientNetConfig(), 4_682_059, 4_724_124, 499_320_640),
    (EfficientNetConfig(lineage="torchvision"), 4_682_059, 4_724_124, 508_598_720),
  ],
)
def test_counts(cfg, parameters, state, macs):
  """Of 10 s, 1001 frames; MACs added up by hand from the tables of the reference text."""
  found = measure(cfg)
  assert (found.parameters, found.state_elements, found.macs) == (parameters, state, macs)


def test_widths():
  """Scaled counts are cut off as released, the last width grows alone above 1."""
  cfg = MobileNetV2Config(width=0.35)
  assert (cfg.stem, [b.out for b in cfg.blocks][:5]) == (11, [5, 8, 8, 11, 11])
  assert cfg.features == 1280
  assert MobileNetV2Config(width=1.4).features == 1792
  assert MobileNetV2Config(width=0.35, lineage="torchvision").stem == 16
  assert EfficientNetConfig(width=0.25).features == 320
  assert EfficientNetConfig(width=0.25, lineage="torchvision").features == 4 * 80


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_files_tell_the_network(name, recorded, tmp_path):
  cfg, variables, _ = recorded(name)
  cfg = cfg.with_compute(kernels="auto")
  path = tmp_path / "w.safetensors"
  write_model(path, cfg, variables)
  again, same = mobile_jax.read_model(path)
  assert again == cfg
  jax.tree.map(np.testing.assert_array_equal, variables, same)
  # As a foreign file, by its tensors alone.
  state = {**to_torch(variables, rules(cfg)), **buffers(cfg)}
  save_file(state, tmp_path / "foreign.safetensors")
  found = identify(tmp_path / "foreign.safetensors", open_content(tmp_path / "foreign.safetensors"))
  assert (found.family, type(found.cfg)) == (mobile_jax.families.family_of(cfg), type(cfg))
  assert [b[:3] for b in found.cfg.blocks] == [b[:3] for b in cfg.blocks]
  assert (found.cfg.features, found.cfg.classes, found.cfg.lineage) == (
    cfg.features,
    cfg.classes,
    cfg.lineage,
  )
  fewer, fresh = mobile_jax.read_model(path, classes=2)
  assert fewer == dataclasses.replace(cfg, classes=2)
  assert fresh["params"]["head"]["logits"]["kernel"].shape == (cfg.features, 2)
  np.testing.assert_array_equal(
    fresh["params"]["stem"]["kernel"], variables["params"]["stem"]["kernel"]
  )


def test_another_front_end_is_refused(recorded, tmp_path):
  cfg, variables, _ = recorded("mobilenet_v2")
  state = {**to_torch(variables, rules(cfg)), **buffers(cfg)}
  state[FILTERS] = state[FILTERS] * 2
  save_file(state, tmp_path / "w.safetensors")
  with pytest.raises(WeightsError, match=r"mel_scale.fb is \[.*\], not the \[.*\] of this model"):
    mobile_jax.read_model(tmp_path / "w.safetensors", config=cfg)
  del state[FILTERS], state["features.3.conv.2.weight"]
  save_file(state, tmp_path / "w.safetensors")
  with pytest.raises(WeightsError, match="no mobilenet_v2 of known width"):
    identify(tmp_path / "w.safetensors", open_content(tmp_path / "w.safetensors"))


@pytest.mark.slow
def test_load_model(recorded, tmp_path):
  """Waves at 16 kHz in, logits and pooled features out."""
  cfg, variables, _ = recorded("mobilenet_v2")
  write_model(tmp_path / "w.safetensors", cfg, variables)
  tag, loaded = mobile_jax.load_model(tmp_path / "w.safetensors", kernels="xla")
  loud = 0.5 * np.random.default_rng(0).standard_normal((1, 8000)).astype(np.float32)
  logits, features = quick(tag)(loaded, jnp.asarray(loud))
  assert logits.shape == (1, cfg.classes)
  assert features.shape == (1, cfg.features)


def test_a_batch_is_heard_together():
  """As released, the clamp is that of the loudest clip; `alone` makes every clip its own."""
  cfg = MobileNetV2Config()
  loud = 0.5 * np.random.default_rng(0).standard_normal((1, 8000)).astype(np.float32)
  wave = jnp.asarray(np.concatenate([loud, 1e-7 * loud[:, ::-1]]))
  independent = log_mel(alone(cfg), wave)
  np.testing.assert_allclose(log_mel(cfg, wave)[0], independent[0], atol=1e-4)
  assert np.abs(log_mel(cfg, wave)[1] - independent[1]).max() > 1
  assert log_mel(cfg, wave, frames=7).shape == (2, 64, 7)


@pytest.mark.parametrize(
  "cfg",
  [EfficientNetConfig(), *(pytest.param(c, marks=pytest.mark.slow) for c in LESS_USUAL)],
)
def test_the_shortest_clip(cfg):
  check_shortest_clip(cfg)


def test_starts_are_as_released():
  """Limits of Xavier's and PyTorch's own kernels, by the channels that PyTorch counts."""

  def kernel(start, *shape):
    layer = ConvNorm(*shape, start=start)
    inputs = jnp.zeros((1, 4, 4, shape[1]))
    return np.asarray(quick(layer.init)(jax.random.key(0), inputs)["params"]["kernel"])

  for start, shape, limit in (
    ("xavier", ("pointwise", 40, 60), np.sqrt(6 / (40 + 60))),
    # A depthwise output meets one channel, and an input all of them.
    ("xavier", ("depthwise", 80, 80, 3), np.sqrt(6 / (9 + 9 * 80))),
    ("fan_in", ("pointwise", 40, 60), 1 / np.sqrt(40)),
  ):
    found = kernel(start, *shape)
    assert 0.98 * limit < np.abs(found).max() <= limit
    assert found.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)


def test_drop_connect_leaves_out_whole_clips():
  """Of repeated blocks alone, more often the later they stand; what stays is scaled up."""
  cfg = EfficientNetConfig(width=0.1, drop_connect=0.8)
  assert [b.number for b in cfg.blocks if b.residual] == [3, 5, 7, 8, 10, 11, 13, 14, 15]
  shape = cfg.blocks[10]
  assert shape.drop == pytest.approx(0.8 * 10 / 16)
  block = MBConv(shape, cfg.details, "xla")
  x = jax.random.normal(jax.random.key(0), (12, 4, 4, shape.channels))
  variables = quick(block.init)(jax.random.key(1), x)

  def run(block):
    streams = {"dropout": jax.random.key(2)}
    apply = quick(lambda v: block.apply(v, x, True, rngs=streams, mutable=["batch_stats"])[0])
    return apply(variables)

  whole = run(MBConv(shape._replace(drop=0.0), cfg.details, "xla")) - x
  found = run(block) - x
  left_out = ~np.asarray(found).any(axis=(1, 2, 3))
  assert 2 <= left_out.sum() <= 10
  kept = np.asarray(found)[~left_out]
  np.testing.assert_allclose(kept, np.asarray(whole)[~left_out] / (1 - shape.drop), atol=1e-5)


def test_one_class_of_several():
  """Steps are a softmax, the clip's logits the mean of theirs."""
  head = DecisionHead(6, 4, 0.3, "classes")
  x = jax.random.normal(jax.random.key(0), (2, 3, 5, 6))
  variables = head.init(jax.random.key(1), x)
  variables = jax.tree.map(lambda x: x + 0.3, variables)
  logits, frames = head.apply(variables, x)
  layer = jax.tree.map(np.asarray, variables["params"]["logits"])
  steps = np.asarray(x).mean(axis=1) @ layer["kernel"] + layer["bias"]
  np.testing.assert_allclose(logits, steps.mean(axis=1), atol=1e-5)
  np.testing.assert_allclose(frames, jax.nn.softmax(steps), atol=1e-6)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: MobileNetV2Config(width=0), "width is 0"),
    (lambda: MobileNetV2Config(width=0.01), "without channels"),
    (lambda: MobileNetV2Config(dropout=1.0), "dropout is 1.0"),
    (lambda: EfficientNetConfig(lineage="timm"), "choose from efficientnet_pytorch, torchvision"),
    (lambda: EfficientNetConfig(image=16), "image is 16"),
    (lambda: EfficientNetConfig(last=0), "last is 0"),
    (lambda: EfficientNetConfig(drop_connect=1.0), "drop_connect is 1.0"),
    (
      lambda: dataclasses.replace(
        EfficientNetConfig(), mel=dataclasses.replace(EfficientNetConfig().mel, mel_bins=24)
      ),
      "mel.mel_bins is 24; give at least 32",
    ),
    (lambda: mobile_jax.named("mobilenet_v3"), "did you mean mobilenet_v2"),
  ],
)
def test_what_makes_no_network(unchecked, make, message):
  with pytest.raises(ConfigError, match=message):
    make()
