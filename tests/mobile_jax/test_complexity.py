"""The complexity tool against the reference text's table, against sums by hand, and on toys."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from dasheng_jax.errors import ConfigError
from mobile_jax import complexity, network
from mobile_jax.complexity.field import receptive_field
from mobile_jax.complexity.live import peak_elements
from mobile_jax.complexity.memory import efficient_elements, plain_elements
from mobile_jax.complexity.products import all_macs, products, tool_macs
from mobile_jax.complexity.trace import OpaqueProgram, trace
from mobile_jax.config import SIZES, DyMNConfig, MNConfig

replace = dataclasses.replace


class Row(NamedTuple):
  """A line of section 7; None where it gives no figure. Memory in kB at 16 bits."""

  parameters: int | None = None
  state: int | None = None
  tool: int | None = None
  macs: int | None = None
  efficient: int | None = None
  plain: int | None = None
  field: int = 595


MN10 = SIZES["mn10"]
FC = replace(MN10, head="fully_convolutional")
SECTION_7 = {
  "mn01": Row(123_783, 126_402, 18_147_487, 18_146_304, None, 1536),
  "mn02": Row(324_695, 329_733, 40_318_351, 40_316_544, 896, 1536),
  "mn04": Row(983_599, 993_485, 110_646_167, 110_643_072, 1008, 2048),
  "mn05": Row(1_431_239, 1_443_637, 159_968_407, 159_964_672, 1088, 2560),
  "mn10": Row(4_876_831, 4_901_277, 541_085_095, 541_078_208, 2048, 5120),
  "mn20": Row(17_909_287, 17_958_133, 2_059_388_727, 2_059_375_488, 4096, 10_240),
  "mn30": Row(39_086_367, 39_159_613, 4_554_899_895, 4_554_880_320, 6144, 15_360),
  "mn40": Row(68_427_303, 68_524_949, 8_027_637_831, 8_027_611_904, 8192, 20_480),
  "dymn04": Row(1_961_239, 1_972_124, 12_167_231, 117_432_704),
  "dymn10": Row(10_548_479, 10_575_124, 63_494_911, 581_672_832),
  "dymn20": Row(39_966_143, 40_019_252, 242_650_175, 2_220_951_552),
  "dymn04 replace_se": Row(1_829_287, 1_839_821, None, 115_995_520),
  "dymn10 replace_se": Row(9_833_935, 9_859_909, None, 574_425_664),
  "dymn20 replace_se": Row(37_183_023, 37_234_853, None, 2_192_086_400),
  "fc": Row(3_478_638, None, 603_937_688),
  "2221": Row(3_478_638, None, 1_147_723_928, field=467),
  "2211": Row(3_478_638, None, 3_978_024_280, field=291),
  "attention": Row(7_023_244),
  "se none": Row(3_364_551),
  "se f": Row(3_365_907),
  "se t": Row(3_394_868),
  "se cf": Row(4_878_187),
  "se cft": Row(4_908_504),
  "hop 160": Row(4_876_831, None, 1_071_426_087),
  "hop 480": Row(4_876_831, None, 361_181_543),
  "hop 640": Row(4_876_831, None, 274_349_799),
  "hop 800": Row(4_876_831, None, 218_523_687),
  "mels 40": Row(4_876_831, None, 208_044_935),
  "mels 64": Row(4_876_831, None, 272_251_271),
  "mels 256": Row(4_876_831, None, 1_078_752_743),
}
# Measured in full in every run; the others by the marker "slow", and by hand in every run.
QUICK = ("mn10",)


def config(name):
  match name.split():
    case [size, "replace_se"]:
      return replace(SIZES[size], dynamic="replace_se")
    case ["fc"]:
      return FC
    case ["attention"]:
      return replace(MN10, head="attention")
    case ["2221"]:
      return replace(FC, strides=(2, 2, 2, 1))
    case ["2211"]:
      return replace(FC, strides=(2, 2, 1, 1))
    case ["se", letters]:
      return replace(MN10, se=letters)
    case ["hop", samples]:
      return replace(MN10, mel=replace(MN10.mel, hop_length=int(samples)))
    case ["mels", bands]:
      return replace(MN10, mel=replace(MN10.mel, mel_bins=int(bands)))
  return SIZES[name]


measured = functools.cache(lambda name: complexity.measure(config(name)))


def agrees(row, found):
  pairs = {
    "parameters": (row.parameters, found.parameters),
    "state": (row.state, found.state_elements),
    "tool": (row.tool, found.macs_tool),
    "macs": (row.macs, found.macs),
    "efficient": (row.efficient, found.memory_efficient),
    "plain": (row.plain, found.memory_plain),
    "field": ((row.field, row.field), found.receptive_field),
  }
  return {name: pair for name, pair in pairs.items() if pair[0] not in (None, pair[1])}


@pytest.mark.parametrize("name", QUICK)
def test_the_table_is_met(name):
  assert not agrees(SECTION_7[name], measured(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SECTION_7 if name not in QUICK])
def test_the_rest_of_the_table_is_met(name):
  assert not agrees(SECTION_7[name], measured(name))


# --- sums by hand over the block table ---


def by_hand(cfg, frames):
  """(tool, all) from layer sizes alone: a second way to the same figures."""
  f, t = (cfg.mel.mel_bins + 1) // 2, (frames + 1) // 2
  tool = extra = 0

  def linear(inputs, outputs, places=1, bias=True):
    nonlocal tool, extra
    tool += places * outputs * (inputs + bias)
    extra -= places * outputs * bias

  linear(9, cfg.stem, f * t, bias=False)
  for block in cfg.blocks:
    f2, t2 = (f - 1) // block.stride + 1, (t - 1) // block.stride + 1
    convs = [(block.kernel**2, block.expanded, f2 * t2), (block.expanded, block.out, f2 * t2)]
    if block.expands:
      convs.append((block.channels, block.expanded, f * t))
    if isinstance(cfg, DyMNConfig) and cfg.is_dynamic(block):
      context = cfg.context_size(block)
      linear(block.channels, context, f + t, bias=False)
      linear(context, block.expanded, f2 + t2)
      linear(context, 4 * block.expanded)
      for inputs, outputs, places in convs:
        linear(context, 4)
        extra += inputs * outputs * (places + 4)
    else:
      for inputs, outputs, places in convs:
        linear(inputs, outputs, places, bias=False)
      if isinstance(cfg, MNConfig) and block.se:
        squeezed = max(8, (block.expanded // 4 + 4) // 8 * 8)
        squeezed += 8 if squeezed < 0.9 * (block.expanded // 4) else 0
        linear(block.expanded, squeezed)
        linear(squeezed, block.expanded)
    f, t = f2, t2
  linear(cfg.blocks[-1].out, cfg.features, f * t, bias=False)
  if getattr(cfg, "head", "mlp") == "mlp":
    linear(cfg.features, cfg.hidden)
    linear(cfg.hidden, cfg.classes)
  else:
    linear(cfg.features, cfg.classes, f * t, bias=False)
  return tool, tool + extra


COUNTED = [name for name, row in SECTION_7.items() if row.tool or row.macs]


@pytest.mark.parametrize("name", COUNTED)
def test_sums_by_hand_give_the_table_too(name):
  row, cfg = SECTION_7[name], config(name)
  tool, macs = by_hand(cfg, cfg.mel.frames(320_000))
  assert row.tool in (None, tool)
  assert row.macs in (None, macs)


@pytest.mark.slow
def test_sums_by_hand_agree_where_the_table_is_silent():
  found = measured("dymn04 replace_se")
  assert (found.macs_tool, found.macs) == by_hand(config("dymn04 replace_se"), 1000)


def traced_with(cfg, variables):
  """The network as it is defined, with variables of another configuration that shares them."""
  cfg = cfg.with_compute(kernels="xla")

  def forward(variables, x):
    return network.train_outputs(cfg, variables, x, None)[0].logits

  x = jax.ShapeDtypeStruct((1, cfg.mel.mel_bins, cfg.mel.frames(320_000)), jnp.float32)
  return trace(forward, variables, x)


@pytest.mark.slow
def test_strides_with_the_convolutional_head():
  variables = network.shapes(FC)
  for name in ("2221", "2211"):
    row, traced = SECTION_7[name], traced_with(config(name), variables)
    assert tool_macs(products(traced), traced.paths) == row.tool
    assert receptive_field(traced) == (row.field, row.field)


# --- memory ---


@pytest.mark.parametrize("name", [name for name in SIZES if name.startswith("mn")])
def test_memory_by_the_tools_rules(name):
  row = SECTION_7[name]
  assert plain_elements(SIZES[name], 1000) * 2 / 1000 == row.plain
  assert row.efficient in (None, efficient_elements(SIZES[name], 1000) * 2 / 1000)


def test_memory_where_the_tool_has_no_figure():
  # mn01: the first block decides, so 1/8 rules of unexpanded blocks cannot change the figure.
  assert efficient_elements(SIZES["mn01"], 1000) == 128_000 + 256_000 + 256_000 / 4
  # A dynamic first block holds the stem's map and its own, and an eighth behind the convolution.
  dynamic = SIZES["dymn10"]
  assert efficient_elements(dynamic, 1000) == 512_000 * 2 + 512_000 / 8
  assert efficient_elements(replace(dynamic, dynamic="replace_se"), 1000) == 1_024_000
  # A rival of coordinate attention needs the whole filtered map of block 2.
  rival = replace(dynamic, attention="se", convs=(), relus=())
  assert efficient_elements(rival, 1000) == 3 * 512_000


@pytest.mark.slow
def test_the_traced_program_holds_what_the_plain_rule_says():
  """Two ways to one figure: rules on the block table, and life times in the program."""
  assert measured("mn10").memory_live == measured("mn10").memory_plain


def peak(function, *inputs):
  """Peak of a function of an input of 100 numbers, with a matrix as its variable."""
  return peak_elements(trace(function, jnp.zeros((10, 10)), jnp.zeros((10, 10)), *inputs))


def test_life_times():
  assert peak(lambda w, x: x @ w) == 200
  # The activation is written over the product, which nobody else reads.
  wide = (1, 10), (10, 1)
  assert peak(lambda w, x: jnp.maximum(x @ jnp.tile(w, wide[0]), 0) @ jnp.tile(w, wide[1])) == 1100
  # The input is still to be added.
  assert peak(lambda w, x: (x @ w) @ w + x) == 300
  # Three copies that one product takes in are never written.
  assert peak(lambda w, x: jnp.sum(jnp.exp(x) * 2 + 1)) == 101
  # Variables, and what depends on them alone, are not held.
  assert peak(lambda w, x: x @ (w @ w * 2)) == 200


# --- any program ---


def found(function, variables, x):
  traced = trace(function, variables, x)
  return products(traced), traced


WIDE = {"kernel": jnp.zeros((8, 16)), "bias": jnp.zeros(16)}


def test_a_product_knows_its_layer():
  def forward(tree, x):
    y = x @ tree["up"]["kernel"] + tree["up"]["bias"][None]
    return y @ y.T

  counted, traced = found(forward, {"up": WIDE}, jnp.zeros((3, 8)))
  assert [product.parameter for product in counted] == [("up", "kernel"), None]
  assert all_macs(counted) == 3 * 8 * 16 + 3 * 3 * 16
  assert tool_macs(counted, traced.paths) == 3 * 16 * 9


def test_calls_loops_and_choices_are_entered():
  stacked = {"kernel": jnp.zeros((5, 8, 8))}

  @jax.checkpoint
  def layer(x, kernel):
    return jax.nn.relu(x @ kernel)

  def forward(tree, x):
    x, _ = jax.lax.scan(lambda x, k: (jax.jit(layer)(x, k), None), x, tree["kernel"])
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ x.T, lambda: x[:, :3])

  counted, traced = found(forward, stacked, jnp.zeros((3, 8)))
  assert all_macs(counted) == 5 * 3 * 8 * 8 + 3 * 3 * 8
  assert tool_macs(counted, traced.paths) == 5 * 3 * 8 * 8


def test_products_of_variables_alone_are_not_counted():
  counted, _ = found(lambda tree, x: x @ (tree @ tree), jnp.zeros((8, 8)), jnp.zeros((3, 8)))
  assert all_macs(counted) == 3 * 8 * 8


def test_unused_work_is_not_counted():
  counted, _ = found(lambda tree, x: (x @ tree["kernel"], x * 2)[1], WIDE, jnp.zeros((3, 8)))
  assert not counted


def test_what_cannot_be_counted_says_so():
  def forever(w, x):
    return jax.lax.while_loop(lambda y: jnp.sum(y) > 0, lambda y: y @ w, x)

  def opaque(w, x):
    return jax.pure_callback(lambda y: y, jax.ShapeDtypeStruct((8, 8), jnp.float32), x) @ w

  for function, word in ((forever, "while"), (opaque, "pure_callback")):
    with pytest.raises(OpaqueProgram, match=word):
      found(function, jnp.zeros((8, 8)), jnp.zeros((8, 8)))


def conv(x, size, stride=1, dilation=1):
  pad = dilation * (size - 1) // 2
  return jax.lax.conv_general_dilated(
    x,
    jnp.zeros((size, size, 1, 1)),
    (stride, stride),
    ((pad, pad), (pad, pad)),
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def field(function):
  return receptive_field(trace(lambda _, x: function(x), {}, jnp.zeros((1, 32, 32, 1))))


def test_receptive_field():
  chain = [(3, 2, 1), (5, 1, 2), (3, 2, 1), (1, 1, 1)]
  r = 1
  for k, s, d in reversed(chain):
    r = s * r + (d * (k - 1) + 1 - s)
  assert field(lambda x: functools.reduce(lambda y, rule: conv(y, *rule), chain, x)) == (r, r)
  # The widest of two paths, each strided once.
  assert field(lambda x: conv(conv(x, 3, 2) + conv(x, 1, 2), 3)) == (7, 7)
  # A gate that sees everything does not count, attention does.
  assert field(lambda x: conv(x, 3) * jnp.mean(x, axis=(1, 2), keepdims=True)) == (3, 3)
  assert field(lambda x: jnp.einsum("bftc,bgtc->bfgt", x, x)) == (math.inf, math.inf)


def test_ten_seconds_are_ten_seconds(monkeypatch):
  """Squeeze-and-excitation over time is built for the clip that is measured, whatever the hop."""
  seen = []

  def traced(forward, variables, log_mel, **given):
    seen.append((log_mel.shape[-1], sum(x.size for x in jax.tree.leaves(variables["params"]))))
    return complexity.Complexity(1, 2, 3, 4, 5, None, None, 6.0, (7, 7))

  monkeypatch.setattr(complexity.report, "measure_function", traced)
  fast = replace(MN10, se="t", mel=replace(MN10.mel, hop_length=160))
  for cfg, frames in ((fast, None), (fast, 1000), (replace(MN10, se="t", frames=500), None)):
    complexity.measure(cfg, frames=frames)
  assert [frames for frames, _ in seen] == [2000, 1000, 1000]
  assert seen[0][1] > seen[1][1] == seen[2][1]


def test_other_lengths_and_words():
  with pytest.raises(ConfigError, match="frames is 0"):
    complexity.measure(MN10, frames=0)


def test_the_table_reads_well():
  row = complexity.Complexity(1, 2, 1_234_567, 4, 5, None, 64.5, 5120.0, (595, 595))
  lines = complexity.table({"mn10": row, "other": replace(row, receptive_field=(7, math.inf))})
  lines = lines.splitlines()
  assert len({len(line) for line in lines}) == 1
  assert len(lines) == 4
  cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
  assert cells == ["mn10", "1", "2", "1,234,567", "4", "5", "64.5", "-", "5,120", "595"]
  assert "7 x whole clip" in lines[3]
