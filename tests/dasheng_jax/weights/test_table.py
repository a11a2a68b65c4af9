"""The name table: bit-exact both ways, strict both ways, every problem in one line."""

import functools

import jax
import ml_dtypes
import numpy as np
import pytest

from dasheng_jax.errors import WeightsError
from dasheng_jax.mae import init_variables
from dasheng_jax.weights.names import FRONT_END, autoencoder_rules, encoder_rules
from dasheng_jax.weights.positions import resize_time_table
from dasheng_jax.weights.table import (
  AS_IS,
  Rule,
  check,
  flatten,
  from_torch,
  to_torch,
  unflatten,
)
from dasheng_jax.weights.tensors import Arrays, Tensor, held
from tests.dasheng_jax.conftest import TINY

RULES = encoder_rules(TINY)
COUNTER = "init_bn.1.num_batches_tracked"


@pytest.fixture(scope="module")
def shapes():
  return jax.eval_shape(functools.partial(init_variables, TINY), jax.random.key(0))


@pytest.fixture(scope="module")
def target(shapes):
  return {name: shapes[name]["encoder"] for name in ("params", "batch_stats")}


@pytest.fixture
def state(tiny_state):
  return {k: v for k, v in tiny_state.items() if k not in FRONT_END.values()}


def assert_same(one, other):
  assert sorted(flatten(one)) == sorted(flatten(other))
  for path, value in flatten(one).items():
    twin = np.asarray(flatten(other)[path])
    assert (np.asarray(value).dtype, np.shape(value)) == (twin.dtype, twin.shape), path
    np.testing.assert_array_equal(value, twin, err_msg=path)


def test_official_names_to_ours_and_back(state, target):
  ours = from_torch(state, RULES, target)
  back = to_torch(ours, RULES)
  assert_same(state, back)
  assert back["init_bn.1.num_batches_tracked"].dtype == np.int64
  assert back["init_bn.1.num_batches_tracked"].shape == ()
  assert_same(ours, from_torch(back, RULES, target))


def test_ours_to_official_names_and_back(shapes):
  """The complete autoencoder, with a value of its own in every place."""
  rules = autoencoder_rules(TINY)
  flat = {}
  for path, leaf in flatten(shapes).items():
    size = int(np.prod(leaf.shape))
    values = np.arange(size)
    flat[path] = (values + 7 * len(flat)).reshape(leaf.shape).astype(leaf.dtype)
  ours = unflatten(flat)
  state = to_torch(ours, rules)
  per_layer, layers = 12, TINY.encoder.depth + TINY.decoder.depth
  assert len(state) == per_layer * layers + 11 + 8
  assert state["decoder.mask_token"].shape == (1, 1, 32)
  assert state["decoder.pos_embed"].shape == (1, 253, 32)
  assert state["encoder.time_pos_embed"].shape == (1, 48, 1, 252)
  assert state["encoder.patch_embed.proj.weight"].shape == (48, 1, 64, 4)
  assert state["encoder.blocks.2.attn.qkv.weight"].shape == (144, 48)
  assert all(value.flags.c_contiguous for value in state.values())
  assert_same(ours, from_torch(state, rules, shapes))


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda s: s.pop("norm.weight"), "missing norm.weight"),
    (lambda s: s.pop("blocks.1.mlp.fc1.bias"), "missing blocks.1.mlp.fc1.bias"),
    (lambda s: s.update(foreign=np.zeros(3)), "unexpected foreign"),
    (lambda s: s.update({"blocks.3.norm1.bias": np.zeros(48)}), "unexpected blocks.3.norm1.bias"),
    (
      lambda s: s.update({"norm.bias": np.zeros(47, np.float32)}),
      r"norm.bias has shape \(47,\), not \(48,\)",
    ),
    (
      lambda s: s.update({"norm.bias": np.full(48, np.nan, np.float32)}),
      "norm.bias holds NaN or infinity",
    ),
    (
      lambda s: s.update({"patch_embed.proj.weight": np.full((48, 1, 64, 4), np.inf)}),
      "patch_embed.proj.weight holds NaN or infinity",
    ),
    # The right number of elements in another order of axes: a regrouping alone would take them.
    (
      lambda s: s.update({"blocks.0.attn.qkv.weight": s["blocks.0.attn.qkv.weight"].T}),
      r"blocks.0.attn.qkv.weight has shape \(48, 144\), not \(144, 48\)",
    ),
    (
      lambda s: s.update(
        {"blocks.1.attn.proj.weight": s["blocks.1.attn.proj.weight"].reshape(24, 96)}
      ),
      r"blocks.1.attn.proj.weight has shape \(24, 96\), not \(48, 48\)",
    ),
    (
      lambda s: s.update({"blocks.1.attn.proj.weight": s["blocks.1.attn.proj.weight"][None]}),
      r"blocks.1.attn.proj.weight has shape \(1, 48, 48\), not \(48, 48\)",
    ),
    (
      lambda s: s.update({"time_pos_embed": s["time_pos_embed"].reshape(48, 1, 1, 252)}),
      r"time_pos_embed has shape \(48, 1, 1, 252\), not \(1, 48, 1, 252\)",
    ),
    (
      lambda s: s.update({"freq_pos_embed": s["freq_pos_embed"].reshape(48)}),
      r"freq_pos_embed has shape \(48,\), not \(1, 48, 1, 1\)",
    ),
    (
      lambda s: s.update({"norm.bias": np.zeros(48, np.int32)}),
      "norm.bias holds int32, not floating-point numbers",
    ),
    (
      lambda s: s.update({"norm.bias": np.ones(48, bool)}),
      "norm.bias holds bool, not floating-point numbers",
    ),
    (
      lambda s: s.update({"norm.bias": np.full(48, 1e300)}),
      r"norm.bias holds values beyond 3.40282e\+38, which float32 cannot hold",
    ),
    (
      lambda s: s.update({COUNTER: np.asarray(3.7, np.float32)}),
      "num_batches_tracked holds float32, not whole numbers",
    ),
    (
      lambda s: s.update({COUNTER: np.asarray(2**31)}),
      "num_batches_tracked holds 2147483648, not a count from 0 to 2147483647",
    ),
    (lambda s: s.update({COUNTER: np.asarray(-1)}), "num_batches_tracked holds -1, not a count"),
    (lambda s: s.update({"evil\x1b[31m": np.zeros(1)}), r"unexpected evil\?\[31m"),
  ],
)
def test_every_departure_is_refused(state, target, damage, message):
  damage(state)
  with pytest.raises(WeightsError, match=message) as caught:
    from_torch(state, RULES, target, source="x.pt")
  assert str(caught.value).startswith("x.pt does not fit the model: ")
  assert "\n" not in str(caught.value)


def test_shapes_are_compared_before_anything_is_read(state, target):
  def read():
    raise AssertionError("read")

  tensors = {name: held(x) for name, x in state.items()}
  tensors["norm.bias"] = Tensor((1 << 45,), "float32", read)
  for look in (check, from_torch):
    with pytest.raises(WeightsError, match=r"norm.bias has shape \(35184372088832,\)"):
      look(Arrays(tensors), RULES, target)


def test_values_are_looked_at_in_the_type_that_is_written(state, target):
  state["norm.bias"] = np.full(48, 3.4e38, np.float32)
  check(state, RULES, target)
  for dtype, message in (
    ("bfloat16", r"beyond 3.38953e\+38, which bfloat16 cannot hold; use float32"),
    ("float16", "beyond 65504, which float16 cannot hold; use bfloat16"),
  ):
    with pytest.raises(WeightsError, match=f"norm.bias holds values {message}"):
      check(state, RULES, target, dtype=dtype)
  for dtype in (np.float64, np.float16, ml_dtypes.bfloat16):
    state["norm.bias"] = np.full(48, 0.3, dtype)
    (found,) = (
      x
      for path, x in flatten(from_torch(state, RULES, target)).items()
      if path == "params/norm/bias"
    )
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.full(48, 0.3, dtype).astype(np.float32))
    state["norm.bias"][7] = np.nan
    with pytest.raises(WeightsError, match="norm.bias holds NaN"):
      check(state, RULES, target)


def test_ignored_tensors_hold_numbers_too(state, target):
  state["decoder.x"] = np.full(3, np.nan, np.float32)
  from_torch(state, RULES, target, ignore=[r"decoder\..*"])  # who loads does not read them
  with pytest.raises(WeightsError, match=r"decoder\.x holds NaN or infinity"):
    check(state, RULES, target, ignore=[r"decoder\..*"])


def test_all_problems_come_together_and_many_are_counted(state, target):
  del state["norm.weight"], state["norm.bias"]
  state["foreign"] = np.zeros(1)
  with pytest.raises(WeightsError, match=r"missing norm\.weight; missing norm\.bias; unexpected"):
    from_torch(state, RULES, target)
  with pytest.raises(WeightsError, match=r"; and \d+ more$"):
    from_torch({"foreign": np.zeros(1)}, RULES, target)


def test_ignored_names_need_not_be_used(state, target):
  state["outputlayer.0.weight"] = np.zeros(48)
  from_torch(state, RULES, target, ignore=[r"outputlayer\..*"])


def test_a_table_that_does_not_fit_the_model(state, target):
  with pytest.raises(WeightsError, match="nothing fills params/norm/scale"):
    from_torch(state, [rule for rule in RULES if "norm/scale" not in rule.ours], target)
  with pytest.raises(WeightsError, match="the model has no params/nowhere"):
    from_torch(state, [*RULES, Rule("x", "params/nowhere", AS_IS)], target)
  with pytest.raises(WeightsError, match=r"parameters and name table differ: params/nowhere"):
    to_torch({"params": {"nowhere": np.zeros(1)}}, ())


def test_time_table_is_cut_or_stretched():
  table = np.arange(8, dtype=np.float32).reshape(4, 2)
  np.testing.assert_array_equal(resize_time_table(table, 3), table[:3])
  np.testing.assert_array_equal(resize_time_table(table, 4), table)
  stretched = resize_time_table(table, 8)
  # Half-pixel centres: -0.25 (held at 0), 0.25, 0.75, 1.25, ...; the last one is held at 3.
  np.testing.assert_allclose(stretched[:, 0] / 2, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
  assert stretched.dtype == np.float32
