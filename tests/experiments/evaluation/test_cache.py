"""Kept embeddings: found for the same audio and encoder, never for others, whole or not at all."""

import numpy as np
import pytest

from experiments.embedding.embedder import Embedding
from experiments.evaluation import cache as module
from experiments.evaluation.cache import Cache, cache_root
from experiments.evaluation.scenes import embed_clips
from pipelines.tasks import LabelledSet


class Counting:
  """The scene is the sum and the length, the frames are the samples; it counts what it hears."""

  sample_rate = 16_000

  def __init__(self, weights="a", frames=False):
    self.settings = {"weights": weights, "timestamps": frames}
    self.frames, self.heard = frames, 0

  def group(self, samples):
    return samples

  def rows(self, group):
    del group
    return 2

  def embed(self, waves):
    self.heard += len(waves)
    made = [Embedding(np.array([wave.sum(), len(wave)], np.float32)) for wave in waves]
    if not self.frames:
      return made
    times = [np.arange(len(wave), dtype=np.float32) for wave in waves]
    return [
      Embedding(one.scene, wave[:, None], time)
      for one, wave, time in zip(made, waves, times, strict=True)
    ]


def clips(values, lengths=(3, 5, 3, 4)):
  names = [f"clip{i}" for i in range(len(values))]
  return LabelledSet(
    "s", names, np.zeros(len(values), np.int32), names, ["a"],
    lambda i, rate=16_000: np.full(lengths[i], values[i], np.float32),
  )  # fmt: skip


def run(folder, embedder, values=(1, 2, 3, 4)):
  kept = Cache(folder, embedder.settings)
  return embed_clips(embedder, clips(values), kept), kept


@pytest.mark.parametrize("frames", [False, True])
def test_a_second_run_hears_nothing_and_says_the_same(tmp_path, frames):
  first, second = Counting(frames=frames), Counting(frames=frames)
  before, kept = run(tmp_path, first)
  assert (first.heard, kept.found, kept.made) == (4, 0, 4)
  after, kept = run(tmp_path, second)
  assert (second.heard, kept.found, kept.made) == (0, 4, 0)
  for one, other in zip(before, after, strict=True):
    for x, y in zip(one, other, strict=True):
      np.testing.assert_array_equal(x, y)


def test_a_changed_clip_alone_is_heard_again(tmp_path):
  run(tmp_path, Counting())
  again = Counting()
  made, kept = run(tmp_path, again, (1, 2, 9, 4))
  assert (again.heard, kept.found) == (1, 3)
  assert [one.scene[0] for one in made] == [3, 10, 27, 16]
  _, kept = run(tmp_path, Counting())  # of the old clip, which is kept beside the new one
  assert kept.found == 4


def test_other_weights_settings_code_and_libraries_find_nothing(tmp_path, monkeypatch):
  run(tmp_path, Counting())
  for other in (Counting("b"), Counting(frames=True)):
    assert run(tmp_path, other)[1].found == 0
  for change in ("code", "libraries", "backend"):
    changed = {**module.surroundings(), change: "new"}
    with monkeypatch.context() as patch:
      patch.setattr(module, "surroundings", lambda changed=changed: changed)
      assert run(tmp_path, Counting())[1].found == 0
  assert run(tmp_path, Counting())[1].found == 4


def test_the_code_of_embeddings_is_digested(monkeypatch):
  module.surroundings.cache_clear()
  whole = module.surroundings()["code"]
  module.surroundings.cache_clear()
  monkeypatch.setattr(module, "CODE", module.CODE[1:])
  assert module.surroundings()["code"] != whole
  module.surroundings.cache_clear()


def test_damaged_packs_are_not_read_and_are_replaced(tmp_path):
  _, kept = run(tmp_path, Counting())
  (pack,) = kept.path.glob("*.npz")
  pack.write_bytes(pack.read_bytes()[:-30])
  assert run(tmp_path, Counting())[1].made == 4
  assert run(tmp_path, Counting())[1].found == 4
  assert [path.name for path in kept.path.glob("*.npz")] == [pack.name]


def test_what_an_interrupted_run_made_is_kept(tmp_path):
  class Failing(Counting):
    def embed(self, waves):
      if self.heard:
        raise KeyboardInterrupt
      return super().embed(waves)

  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, Failing())
  assert run(tmp_path, Counting())[1].found == 2  # the two of three samples filled a batch


def test_where_embeddings_are_kept(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  assert cache_root("off") is None
  assert cache_root(str(tmp_path / "here")) == tmp_path / "here"
  folder = cache_root("auto")
  assert folder.is_relative_to(tmp_path)
  _, kept = run(folder, Counting())
  (pack,) = kept.path.glob("*.npz")
  cache_root("auto")
  assert pack.exists()
  monkeypatch.setattr(module, "UNUSED_SECONDS", -60)
  cache_root("auto")
  assert not pack.exists()
