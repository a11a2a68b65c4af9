"""Which numbers of an embedding a row of feature sets is."""

import numpy as np
import pytest

from dasheng_jax.errors import ConfigError
from experiments.embedding.embedder import Embedding
from experiments.embedding.mobile import MobileEmbedder
from experiments.evaluation.feature_sets import asked, columns_of, cut
from experiments.evaluation.rivals import RIVALS, LogMelEmbedder
from tests.experiments.embed_models import MN, mobile, noise

FEATURES = ("blocks", "mel", "clf1+mel", "mel+blocks")


def test_a_set_is_its_columns_in_the_released_order():
  """mel, then clf1, then the blocks, whatever the order asked for."""
  assert asked(FEATURES) == ("blocks", "mel", "clf1")
  embedder = MobileEmbedder(MN, mobile(MN), features=asked(FEATURES))
  found = columns_of(embedder, FEATURES)
  assert list(found) == list(FEATURES)
  clf1, blocks = MN.features, sum(MN.blocks[n - 1].out for n in (5, 11, 13, 15))
  mel, last = np.arange(128), 128 + clf1 + np.arange(blocks)
  np.testing.assert_array_equal(found["mel"], mel)
  np.testing.assert_array_equal(found["blocks"], last)
  np.testing.assert_array_equal(found["clf1+mel"], np.arange(128 + clf1))
  np.testing.assert_array_equal(found["mel+blocks"], np.concatenate([mel, last]))


@pytest.mark.slow
def test_a_set_is_what_a_run_with_it_alone_makes():
  every = MobileEmbedder(MN, mobile(MN), features=asked(FEATURES))
  alone = MobileEmbedder(MN, mobile(MN), features=("clf1", "mel"))
  wave = noise(5_100)
  (whole,), (part,) = every.embed([wave]), alone.embed([wave])
  found = cut(whole, columns_of(every, FEATURES)["clf1+mel"])
  np.testing.assert_allclose(found.scene, part.scene, atol=2e-5)


def test_frames_are_cut_too():
  frames = np.arange(12, dtype=np.float32).reshape(3, 4)
  made = Embedding(np.arange(4, dtype=np.float32), frames, np.arange(3, dtype=np.float32))
  found = cut(made, np.array([1, 3]))
  assert found.scene.tolist() == [1, 3]
  np.testing.assert_array_equal(found.timestamps, frames[:, [1, 3]])
  assert found.times_ms is made.times_ms


def test_what_has_no_feature_sets_stays_one_row():
  rival = LogMelEmbedder(next(iter(RIVALS.values())))
  assert columns_of(rival, ("blocks",)) == {}


def test_an_unknown_set():
  embedder = MobileEmbedder(MN, mobile(MN), features=("mel",))
  with pytest.raises(ConfigError, match="no feature set is named 'block'"):
    columns_of(embedder, ("block+mel",))
