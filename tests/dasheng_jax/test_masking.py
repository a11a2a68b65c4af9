"""Masks: recorded draws, counts, order, and what the released code leaves undefined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax.errors import ConfigError
from dasheng_jax.masking import (
  count_kept,
  gather_kept,
  mask_from_noise,
  noise_shape,
  random_mask,
  restore_order,
)
from tests.dasheng_jax.fixtures import golden

RECORDED = {  # prefix of the arrays: (noise, patches in a group, ratio)
  "": ("noise", 2, 0.75),
  "random_": ("random_noise", 1, 0.75),
  "group5_": ("group5_noise", 5, 0.75),
  "group2_ratio08_": ("noise", 2, 0.8),
}


@pytest.mark.parametrize("prefix", RECORDED)
def test_recorded_masks(prefix):
  arrays = golden("mae")
  noise, group, ratio = RECORDED[prefix]
  assert arrays[noise].shape == noise_shape(2, 250, group)
  ours = mask_from_noise(jnp.asarray(arrays[noise]), 250, ratio, group)
  np.testing.assert_array_equal(ours.restore, arrays[prefix + "ids_restore"])
  np.testing.assert_array_equal(ours.hidden, arrays[prefix + "mask"] == 1)
  if not prefix:
    np.testing.assert_array_equal(ours.kept, arrays["ids_shuffle"][:, :62])


@pytest.mark.parametrize(
  ("patches", "ratio", "kept"),
  [(250, 0.75, 62), (252, 0.75, 63), (250, 0.8, 49), (250, 0.9, 24), (4, 0.75, 1), (25, 0.75, 6)],
)
def test_counts_in_double_precision(patches, ratio, kept):
  assert count_kept(patches, ratio) == kept


@pytest.mark.parametrize("patches", [0, 1, 2, 3])
def test_too_few_patches_to_mask(patches):
  with pytest.raises(ConfigError, match=r"none would stay visible.*at least 4 patches") as caught:
    random_mask(jax.random.key(0), 1, patches, 0.75, 2)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("patches", "group"), [(25, 2), (250, 2), (13, 5), (7, 3), (5, 8), (9, 1)])
def test_any_count_and_group(patches, group):
  """Odd counts have no meaning in the released code; here the last group is shorter."""
  masking = random_mask(jax.random.key(patches), 8, patches, 0.75, group)
  kept, restore, hidden = map(np.asarray, masking)
  count = count_kept(patches, 0.75)
  assert kept.shape == (8, count)
  np.testing.assert_array_equal(hidden.sum(1), patches - count)
  for row in range(8):
    assert sorted(restore[row]) == list(range(patches))
    assert sorted(np.flatnonzero(~hidden[row])) == sorted(kept[row])
    np.testing.assert_array_equal(restore[row][kept[row]], np.arange(count))
    # Patches of a group stand side by side and in order; only the last kept group may be cut.
    groups = kept[row] // group
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    assert len(set(groups)) == len(starts)
    for start, end in zip(starts, [*starts[1:], count], strict=True):
      run = kept[row][start:end]
      np.testing.assert_array_equal(run, run[0] + np.arange(len(run)))
      assert run[0] % group == 0
      whole = min(group, patches - run[0])
      assert len(run) == whole or end == count


def test_masks_are_a_function_of_the_key_and_differ_between_rows():
  one, same, other = (random_mask(jax.random.key(k), 4, 250, 0.75, 2) for k in (0, 0, 1))
  np.testing.assert_array_equal(one.restore, same.restore)
  assert (one.hidden != other.hidden).any()
  assert len({bytes(row) for row in np.asarray(one.hidden)}) == 4


def test_every_patch_is_hidden_equally_often():
  hidden = np.asarray(random_mask(jax.random.key(3), 4000, 25, 0.75, 2).hidden).mean(0)
  # 19 of 25 are hidden. The one patch of the short group fares like the others to 2 %.
  np.testing.assert_allclose(hidden, 19 / 25, atol=0.03)


def test_restore_undoes_gather():
  tokens = jax.random.normal(jax.random.key(0), (3, 25, 4))
  masking = random_mask(jax.random.key(1), 3, 25, 0.75, 2)
  token = jnp.full((4,), 7.0)
  back = restore_order(gather_kept(tokens, masking.kept), token, masking.restore)
  expected = np.where(np.asarray(masking.hidden)[:, :, None], 7.0, tokens)
  np.testing.assert_array_equal(back, expected)
