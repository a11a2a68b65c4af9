"""Configurations: the block tables of the reference text (sections 2 and 5.3), and their checks."""

import dataclasses

import pytest

from dasheng_jax.errors import ConfigError
from mobile_jax.config import (
  SE_BLOCKS,
  SIZES,
  ComputeConfig,
  DyMNConfig,
  MNConfig,
  conv_size,
  make_divisible,
)
from mobile_jax.families import named

# Reference text, section 2: out of stem and blocks, expanded, bottlenecks, pooled, hidden.
TABLE = {
  "mn01": (
    [8] * 11 + [16] * 5,
    [8, 8, 8, 8, 16, 16, 24, 24, 24, 24, 48, 64, 64, 96, 96],
    [8, 8, 8, 16, 16, 16, 24, 24],
    (96, 128),
  ),
  "mn02": (
    [8, 8, 8, 8, 8, 8, 8, 16, 16, 16, 16, 24, 24, 32, 32, 32],
    [8, 16, 16, 16, 24, 24, 48, 40, 40, 40, 96, 136, 136, 192, 192],
    [8, 8, 8, 24, 32, 32, 48, 48],
    (192, 256),
  ),
  "mn04": (
    [8, 8, 16, 16, 16, 16, 16, 32, 32, 32, 32, 48, 48, 64, 64, 64],
    [8, 24, 32, 32, 48, 48, 96, 80, 72, 72, 192, 272, 272, 384, 384],
    [8, 16, 16, 48, 72, 72, 96, 96],
    (384, 512),
  ),
  "mn05": (
    [8, 8, 16, 16, 24, 24, 24, 40, 40, 40, 40, 56, 56, 80, 80, 80],
    [8, 32, 40, 40, 64, 64, 120, 104, 96, 96, 240, 336, 336, 480, 480],
    [16, 16, 16, 64, 88, 88, 120, 120],
    (480, 640),
  ),
  "mn10": (
    [16, 16, 24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 160, 160, 160],
    [16, 64, 72, 72, 120, 120, 240, 200, 184, 184, 480, 672, 672, 960, 960],
    [24, 32, 32, 120, 168, 168, 240, 240],
    (960, 1280),
  ),
  "mn20": (
    [32, 32, 48, 48, 80, 80, 80, 160, 160, 160, 160, 224, 224, 320, 320, 320],
    [32, 128, 144, 144, 240, 240, 480, 400, 368, 368, 960, 1344, 1344, 1920, 1920],
    [40, 64, 64, 240, 336, 336, 480, 480],
    (1920, 2560),
  ),
  "mn30": (
    [48, 48, 72, 72, 120, 120, 120, 240, 240, 240, 240, 336, 336, 480, 480, 480],
    [48, 192, 216, 216, 360, 360, 720, 600, 552, 552, 1440, 2016, 2016, 2880, 2880],
    [56, 88, 88, 360, 504, 504, 720, 720],
    (2880, 3840),
  ),
  "mn40": (
    [64, 64, 96, 96, 160, 160, 160, 320, 320, 320, 320, 448, 448, 640, 640, 640],
    [64, 256, 288, 288, 480, 480, 960, 800, 736, 736, 1920, 2688, 2688, 3840, 3840],
    [72, 120, 120, 480, 672, 672, 960, 960],
    (3840, 5120),
  ),
}
# Section 5.3: size of the context, layer by layer.
CONTEXT = {
  0.1: [8] * 10 + [16] * 5,
  0.2: [8] * 6 + [16] * 4 + [24] * 5,
  0.4: [16] * 6 + [24] * 4 + [48] * 5,
  1.0: [32] * 6 + [64] + [48] * 3 + [120] + [128] * 4,
  2.0: [64] * 6 + [120, 104, 96, 96, 240] + [256] * 4,
}


@pytest.mark.parametrize("name", TABLE)
def test_channels_by_width(name):
  out, expanded, bottlenecks, (features, hidden) = TABLE[name]
  cfg = named(name)
  assert [cfg.stem, *(block.out for block in cfg.blocks)] == out
  assert [block.channels for block in cfg.blocks] == out[:-1]
  assert [block.expanded for block in cfg.blocks] == expanded
  squeezed = [block for block in cfg.blocks if block.se]
  assert tuple(block.number for block in squeezed) == SE_BLOCKS == (4, 5, 6, 11, 12, 13, 14, 15)
  assert [make_divisible(block.expanded // 4) for block in squeezed] == bottlenecks
  assert (cfg.features, cfg.hidden) == (features, hidden)


@pytest.mark.parametrize("width", CONTEXT)
def test_size_of_the_context(width):
  cfg = DyMNConfig(width=width)
  assert [cfg.context_size(block) for block in cfg.blocks] == CONTEXT[width]


def test_contexts_of_table_xi():
  last, first = DyMNConfig().blocks[-1], DyMNConfig().blocks[0]
  assert DyMNConfig(context_ratio=16).context_size(last) == 64
  assert DyMNConfig(context_ratio=8).context_size(last) == 120
  assert DyMNConfig(max_context=64).context_size(last) == 64
  assert DyMNConfig(max_context=256).context_size(last) == 240
  assert DyMNConfig(min_context=16).context_size(first) == 16
  assert DyMNConfig(min_context=64).context_size(first) == 64


def test_rounding_to_multiples_of_eight():
  # Halves go up; no more than a tenth is lost (10.0 -> 8 would lose a fifth).
  wanted = {1.6: 8, 11.99: 16, 12.0: 16, 10.0: 16, 8.8: 8, 20.0: 24, 67.2: 64, 91.0: 88, 92: 96}
  assert {value: make_divisible(value) for value in wanted} == wanted


def test_strides_kernels_and_activations():
  blocks = named("mn10").blocks
  assert [b.stride for b in blocks] == [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1]
  assert [b.kernel for b in blocks] == [3, 3, 3, 5, 5, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5]
  assert [b.activation for b in blocks] == ["relu"] * 6 + ["hardswish"] * 9
  assert [b.number for b in blocks if b.residual] == [1, 3, 5, 6, 8, 9, 10, 12, 14, 15]
  assert [b.number for b in blocks if not b.expands] == [1]
  assert [b.number for b in named("mn01").blocks if not b.expands] == [1, 2, 3, 4]
  free = dataclasses.replace(named("mn10"), strides=(2, 2, 1, 1)).blocks
  assert [b.number for b in free if b.stride == 2] == [2, 4]
  # A stride of 1 makes no residual where channels change.
  assert not free[6].residual


def test_sizes_of_the_maps():
  sizes = named("mn10").sizes(128, 1000)
  assert sizes[0] == sizes[1] == (64, 500)
  assert (sizes[2], sizes[4], sizes[7], sizes[15]) == ((32, 250), (16, 125), (8, 63), (4, 32))
  assert conv_size(7, 3, 2) == 4
  assert conv_size(8, 5, 1, 2) == 8


def test_reduced_tail_and_dilation():
  cfg = MNConfig(reduced_tail=True, dilated=True, strides=(2, 2, 2, 2))
  assert [b.out for b in cfg.blocks[11:]] == [112, 80, 80, 80]
  assert [b.expanded for b in cfg.blocks[11:]] == [672, 672, 480, 480]
  assert (cfg.features, cfg.hidden) == (480, 640)
  assert [b.dilation for b in cfg.blocks] == [1] * 12 + [2] * 3
  # A dilated convolution does not stride, but the residual looks at the configured stride.
  thirteenth = cfg.blocks[12]
  assert (thirteenth.stride, thirteenth.true_stride, thirteenth.residual) == (2, 1, False)
  assert cfg.sizes(128, 1000)[15] == (8, 63)


def test_which_blocks_are_dynamic():
  def numbers(kind):
    cfg = DyMNConfig(dynamic=kind)
    return [block.number for block in cfg.blocks if cfg.is_dynamic(block)]

  assert numbers("all") == list(range(1, 16))
  assert numbers("replace_se") == list(SE_BLOCKS)
  assert (numbers("first"), numbers("last")) == ([1, 2, 3, 4, 5], [11, 12, 13, 14, 15])
  assert (numbers("middle"), numbers("none")) == ([6, 7, 8, 9, 10], [])


def test_sizes_by_name():
  assert {name: cfg.width for name, cfg in SIZES.items()} == {
    "mn01": 0.1,
    "mn02": 0.2,
    "mn04": 0.4,
    "mn05": 0.5,
    "mn10": 1,
    "mn20": 2,
    "mn30": 3,
    "mn40": 4,
    "dymn04": 0.4,
    "dymn10": 1,
    "dymn20": 2,
  }
  with pytest.raises(ConfigError, match="no model is named 'mn06'; did you mean "):
    named("mn06")


def test_the_way_of_computing_leaves_the_model_alone():
  cfg = named("mn10")
  other = cfg.with_compute(dtype="bfloat16", kernels="xla")
  assert other.compute == ComputeConfig("bfloat16", "xla")
  assert dataclasses.replace(other, compute=cfg.compute) == cfg


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: MNConfig(width=0.0), "width is 0.0; it must be more than 0"),
    (lambda: MNConfig(width=float("nan")), "width is nan"),
    (lambda: MNConfig(width=float("inf")), "width is inf"),
    (lambda: MNConfig(classes=0), "classes is 0"),
    (lambda: MNConfig(strides=(2, 2, 3, 2)), r"strides is \(2, 2, 3, 2\)"),
    (lambda: MNConfig(strides=(2, 2)), r"strides is \(2, 2\); give four"),
    (lambda: MNConfig(dropout=1.0), "dropout is 1.0"),
    (lambda: MNConfig(head="linear"), "head is 'linear'; choose from mlp, fully_conv"),
    (lambda: MNConfig(se="x"), "se is 'x'; give letters of c, f, t"),
    (lambda: MNConfig(se="cc"), "se is 'cc'.*each once"),
    (lambda: MNConfig(se_aggregate="mean"), "se_aggregate is 'mean'; choose from max, avg"),
    (lambda: MNConfig(se_reduction=0), "se_reduction and attention_heads"),
    (lambda: MNConfig(attention_heads=0), "se_reduction and attention_heads"),
    (lambda: MNConfig(dilated=True, se="cf"), "dilated=True works with se 'c' or 'none'"),
    (lambda: DyMNConfig(dynamic="some"), "dynamic is 'some'; choose from all, replace_se"),
    (lambda: DyMNConfig(convs=("expand", "third")), "convs is .*give some of expand, depthwise"),
    (lambda: DyMNConfig(relus=("expand", "expand")), "relus is .*each once"),
    (lambda: DyMNConfig(attention="cooordinate"), "attention is 'cooordinate'; choose from"),
    (lambda: DyMNConfig(attention_axes="all"), "attention_axes is 'all'"),
    (lambda: DyMNConfig(kernels=0), "kernels is 0; it must be more than 0"),
    (lambda: DyMNConfig(pieces=-1), "pieces is -1"),
    (lambda: DyMNConfig(context_ratio=0), "context_ratio is 0"),
    (lambda: DyMNConfig(temperature=0.0), "temperature is 0.0"),
    (lambda: DyMNConfig(context="own"), "context is 'own'"),
    (lambda: DyMNConfig(sequences="both"), "sequences is 'both'"),
    (lambda: ComputeConfig(dtype="float16"), "dtype is 'float16'; choose from float32, bfloat16"),
    (lambda: ComputeConfig(kernels="none"), "kernels is 'none'"),
  ],
)
def test_what_cannot_be_built_is_refused_in_one_line(make, message):
  with pytest.raises(ConfigError, match=message) as caught:
    make()
  assert "\n" not in str(caught.value)
