"""The pictures of a run: which clip is shown, and that what is seen is what the model was given."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training import run_pictures
from experiments.training.run_pictures import draw_pictures, reconstruct_clip
from pipelines.mel import log_mel
from tests.experiments.tiny_pretrain import MODEL, TINY, drawn_variables, quick_compiles


def pictured():
  wave = 0.1 * np.random.default_rng(0).standard_normal(6_400).astype(np.float32)
  with quick_compiles():
    return wave, *reconstruct_clip(MODEL, drawn_variables(), wave, seed=3)


def test_visible_patches_are_shown_as_they_are_and_hidden_ones_as_predicted():
  wave, spectrum, hidden, filled = pictured()
  np.testing.assert_allclose(spectrum, log_mel(jnp.asarray(wave)[None], MODEL.mel)[0], atol=1e-4)
  assert hidden.shape == (10,)
  assert hidden.sum() == 8  # int(10 * 0.25) stay visible
  assert filled.shape == (64, 40)
  frames = np.repeat(hidden, MODEL.patch_frames)
  np.testing.assert_allclose(filled[:, ~frames], spectrum[:, :40][:, ~frames], atol=1e-3)
  assert (filled[:, frames] != spectrum[:, :40][:, frames]).any(axis=0).all()


def test_the_loudest_of_the_fullest_clips_is_shown():
  level = np.array([0.1, 0.3, 0.9, 0.9], np.float32)
  batch = {
    "wave": level[:, None] * np.ones((4, 8), np.float32),
    "valid": np.array([8, 8, 5, 8]),
    "mask": np.array([True, True, True, False]),
  }
  assert run_pictures._fullest(batch) == 1


@pytest.mark.parametrize("ema", [False, True])
def test_the_reconstruction_is_that_of_the_average_where_there_is_one(tmp_path, monkeypatch, ema):
  shown = {}

  def reconstruct(cfg, variables, wave, seed):
    shown.update(variables, wave=wave, seed=seed)
    return np.zeros((64, 8)), np.array([True, False]), np.zeros((64, 8))

  class Clips(list):
    __enter__ = lambda self: iter(self)  # noqa: E731
    __exit__ = lambda *_: None  # noqa: E731

  batch = {
    "wave": np.ones((1, 8), np.float32),
    "valid": np.array([8]),
    "mask": np.array([True]),
    "id": np.array(["rain.flac"]),
  }
  monkeypatch.setattr(run_pictures, "reconstruct_clip", reconstruct)
  monkeypatch.setattr(run_pictures, "evaluation_batches", lambda *_: Clips([batch]))
  (tmp_path / "metrics.jsonl").write_text('{"step": 1, "part": "train", "loss": 1.0}\n')
  state = SimpleNamespace(params="params", ema="ema" if ema else None, model_state="statistics")
  cfg = dataclasses.replace(TINY, loop=dataclasses.replace(TINY.loop, seed=7))
  pictures = draw_pictures(cfg, state, object(), tmp_path)
  assert [p.name for p in pictures] == ["loss.png", "reconstruction.png"]
  assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)
  assert shown["params"] == ("ema" if ema else "params")
  assert (shown["batch_stats"], shown["seed"]) == ("statistics", 7)
  assert [p.name for p in draw_pictures(cfg, state, None, tmp_path)] == ["loss.png"]
