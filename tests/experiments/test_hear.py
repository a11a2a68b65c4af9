"""The HEAR interface: tensors in and out, the table of modules, recorded numbers, the errors."""

import dataclasses
import functools
import importlib
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mobile_jax
from dasheng_jax.errors import ConfigError, WeightsError
from experiments.embedding.mobile import MobileEmbedder
from experiments.hear import api, dasheng, dymn, mn, tensors
from experiments.hear.table import ERRATA, MODULES, Row
from experiments.training.errors import UsageError
from mobile_jax.embeddings import describe_log_mel, parts_of
from mobile_jax.network import module_of
from tests.experiments.embed_models import DYMN, MN, mobile, noise

TOLERANCE = 2e-4  # of the recorded arrays, as their description gives it


class Stub:
  """An embedder that costs nothing: the mean and the length of every sound."""

  sample_rate = 32_000

  def scenes(self, waves):
    return [np.array([w.mean(), len(w)], np.float32) for w in waves]

  def over_time(self, waves):
    times = np.arange(3, dtype=np.float32) * 50
    return [(np.tile(s, (3, 1)), times) for s in self.scenes(waves)]


@functools.cache
def passes(cfg):
  """Shapes of the outputs and of the log-mel of one pass over 16 frames, which is 160 ms."""
  mel = jax.ShapeDtypeStruct((1, cfg.mel.mel_bins, 16), jnp.float32)
  run = functools.partial(module_of(cfg).init_with_output, jax.random.key(0))
  return jax.eval_shape(run, mel)[0], mel


def wrong_sizes(rows):
  wrong = {}
  for name, row in rows.items():
    # The hop decides how many frames there are, and no size.
    cfg = mobile_jax.MODELS[row.checkpoint].config.with_compute(kernels="xla")
    plain = dataclasses.replace(cfg, mel=dataclasses.replace(cfg.mel, hop_length=320))
    outputs, mel = passes(plain)
    parts = parts_of(row.features.split(), cfg)
    describe = functools.partial(describe_log_mel, cfg, parts=parts, pooling=row.pooling)
    size = jax.eval_shape(lambda o, m, f=describe: f(o, m), outputs, mel).shape[-1]
    if size != row.size:
      wrong[name] = (size, row.size)
  return wrong


@pytest.mark.slow
def test_sizes_of_modules_of_mn10_and_mn40():
  rows = {n: r for n, r in MODULES.items() if r.checkpoint in ("mn10_as", "mn40_as")}
  assert len(rows) == 57
  assert set(ERRATA) <= set(rows)
  assert not wrong_sizes(rows)


@pytest.mark.slow
def test_sizes_of_every_module():
  assert len(MODULES) == 76
  assert not wrong_sizes(MODULES)


def test_errata():
  assert set(ERRATA) <= set(MODULES)
  assert MODULES["mn10_all_b_mel_avgs_ts320"].window_ms == 1280
  assert MODULES["mn40_clf2"].size == 5120
  windows = {name: row.window_ms for name, row in MODULES.items() if row.window_ms != 160}
  assert windows == {f"mn10_all_b_mel_avgs_ts{n}": max(n, 640) for n in (640, 1280)} | {
    "mn10_all_b_mel_avgs_ts320": 1280
  }


def test_every_name_can_be_imported():
  for name in ("mn01_all_b_mel_avgs", "mn10_b0_1_2_3"):
    module = importlib.import_module(f"experiments.hear.{name}")
    assert module.get_scene_embeddings is api.get_scene_embeddings
    assert name in module.__doc__
    with pytest.raises(ConfigError, match="HEAR_WEIGHTS"):
      module.load_model()
  with pytest.raises(ModuleNotFoundError):
    importlib.import_module("experiments.hear.mn10_all")


@pytest.mark.parametrize("library", tensors.LIBRARIES)
def test_tensors_come_back_as_they_went(library):
  if library != "numpy" and importlib.util.find_spec(library) is None:
    pytest.skip(f"needs {library}")
  model = api._model(Stub(), 2, library)
  assert isinstance(model, tensors.base_class(library))
  assert (model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size) == (
    32_000, 2, 2
  )  # fmt: skip
  array = np.ones((3, 8), np.float64)
  if library == "torch":
    torch = importlib.import_module("torch")
    audio, kind = torch.from_numpy(array).float().requires_grad_(), torch.Tensor
    model = model.to("cpu")
  elif library == "tensorflow":
    tensorflow = importlib.import_module("tensorflow")
    audio, kind = tensorflow.constant(array, tensorflow.float32), tensorflow.Tensor
  else:
    audio, kind = array, np.ndarray
  scenes = api.get_scene_embeddings(audio, model)
  embeddings, times = api.get_timestamp_embeddings(audio, model)
  for made, shape in ((scenes, (3, 2)), (embeddings, (3, 3, 2)), (times, (3, 3))):
    assert isinstance(made, kind)
    assert tuple(made.shape) == shape
    assert "float32" in str(made.dtype)
  np.testing.assert_array_equal(np.asarray(scenes), [[1, 8]] * 3)
  np.testing.assert_array_equal(np.asarray(times)[0], [0, 50, 100])


def test_bad_audio_and_libraries():
  model = api._model(Stub(), 2, "numpy")
  with pytest.raises(UsageError, match=r"audio has shape \(8,\)"):
    api.get_scene_embeddings(np.zeros(8, np.float32), model)
  with pytest.raises(UsageError, match="audio is int16"):
    api.get_scene_embeddings(np.zeros((2, 8), np.int16), model)
  with pytest.raises(UsageError, match="choose from torch, tensorflow, numpy"):
    tensors.base_class("jax")


def test_files_of_another_model(tmp_path, monkeypatch):
  path = tmp_path / "tiny.safetensors"
  mobile_jax.write_model(path, MN, mobile(MN))
  with pytest.raises(ConfigError, match=r"is a mn model; .*experiments\.hear\.mn"):
    dymn.load_model(str(path), config=MN)
  monkeypatch.setenv("HEAR_WEIGHTS", str(path))
  monkeypatch.setenv("HEAR_LIBRARY", "numpy")
  with pytest.raises(WeightsError, match="gives 56 numbers, this module has 57"):
    api.table_loader(Row("mn01_as", "blocks", 57))()


def test_settings_from_the_environment(tmp_path, monkeypatch):
  path = tmp_path / "tiny.safetensors"
  mobile_jax.write_model(path, DYMN, mobile(DYMN))
  for name, value in {
    "HEAR_WEIGHTS": str(path), "HEAR_FEATURES": "logits b5", "HEAR_POOLING": "cat",
    "HEAR_WINDOW_MS": "320", "HEAR_LIBRARY": "numpy",
  }.items():  # fmt: skip
    monkeypatch.setenv(name, value)
  model = dymn.load_model(config=DYMN)
  assert model.embedder.settings == {
    "features": ["logits", "b5"], "pooling": "cat", "window_seconds": 0.32, "hop_seconds": 0.05,
  }  # fmt: skip
  assert model.scene_embedding_size == 20 + 2 * 8


@pytest.mark.usefixtures("unchecked")
def test_wrong_settings_are_named_before_anything_is_read(monkeypatch):
  for name, value, message in (
    ("HEAR_WINDOW_MS", "abc", "HEAR_WINDOW_MS is 'abc'; give milliseconds from 17 to 3600000"),
    ("HEAR_WINDOW_MS", "inf", "HEAR_WINDOW_MS is 'inf'"),
    ("HEAR_WINDOW_MS", "1", "HEAR_WINDOW_MS is '1'"),
    ("HEAR_POOLING", "mean", "HEAR_POOLING is 'mean'; choose from avg, max"),
  ):
    with monkeypatch.context() as variables:
      variables.setenv(name, value)
      with pytest.raises(ConfigError, match=message):
        mn.load_model("no.pt")
  for keyword, message in (
    ({"window_ms": float("nan")}, "window_ms is nan"),
    ({"pooling": "bogus"}, "pooling is 'bogus'"),
  ):
    with pytest.raises(ConfigError, match=f"^{message}"):
      dymn.load_model("no.pt", **keyword)


@pytest.mark.usefixtures("unchecked")
def test_an_embedder_without_blocks_checks_the_pooling_too():
  with pytest.raises(ConfigError, match="pooling is 'bogus'"):
    MobileEmbedder(MN, {}, features=("mel",), pooling="bogus")


@pytest.mark.torch
def test_dasheng(dasheng_fixtures):
  model = dasheng.load_model(str(dasheng_fixtures / "tiny_dasheng.pt"), library="numpy")
  assert (model.sample_rate, model.scene_embedding_size) == (16_000, 48)
  audio = np.stack([noise(8_000), 0.01 * noise(8_000, 1)])
  embeddings, times = dasheng.get_timestamp_embeddings(audio, model)
  assert embeddings.shape == (2, 12, 48)
  np.testing.assert_array_equal(times[1], 20 + 40 * np.arange(12))
  quiet, _ = dasheng.get_timestamp_embeddings(audio[1:], model)
  np.testing.assert_allclose(embeddings[1:], quiet, atol=2e-5)
  scenes = dasheng.get_scene_embeddings(audio, model)
  np.testing.assert_allclose(scenes, embeddings.mean(axis=1), atol=1e-5)


# Every feature set of the study, and where it stands in the recorded vector of all.
EVERYTHING = ("mel", "clf1", "clf2", "logits", "se", "blocks")
PLACES = {
  "L": (0, 128), "H_Clf1": (128, 512), "H_Clf2": (512, 1024), "H_Clf3": (1024, 1551),
  "M_SE": (1551, 1783), "M_B": (1783, 1975),
}  # fmt: skip


@pytest.fixture(scope="module")
def published(shared, torch):
  """(model of everything in mn04, recorded arrays, clips)."""
  import soundfile

  folder = shared / "fixtures" / "mobile"
  if not (folder / "mn04_hear.npz").is_file():
    pytest.skip("needs the recorded arrays in shared/fixtures/mobile")
  with np.load(folder / "mn04_hear.npz") as file:
    recorded = dict(file)
  config = mobile_jax.MODELS["mn04_as"].config.with_compute(kernels="xla")
  path = folder / "mn04_as_mAP_432.pt"
  model = mn.load_model(str(path), config=config, features=EVERYTHING, library="numpy")
  clips = {
    name: soundfile.read(folder / "audio" / f"{name}.flac", dtype="int16")[0].astype(np.float32)
    / np.float32(32_768)
    for name in map(str, recorded["order"])
  }
  return model, recorded, clips


def test_recorded_scenes_of_all_six_feature_sets(published):
  model, recorded, clips = published
  found = mn.get_scene_embeddings(np.stack(list(clips.values())), model)
  assert found.shape[1] == model.scene_embedding_size == 1975
  for name, (start, stop) in PLACES.items():
    np.testing.assert_allclose(
      found[:, start:stop], recorded[f"scene/{name}"], atol=TOLERANCE, rtol=0, err_msg=name
    )


@pytest.mark.slow
def test_recorded_timestamps_of_all_six_feature_sets(published):
  model, recorded, clips = published
  found, times = mn.get_timestamp_embeddings(clips["speech"][None, :48_000], model)
  np.testing.assert_allclose(found, recorded["timestamp/ALL"], atol=TOLERANCE, rtol=0)
  np.testing.assert_allclose(times, recorded["timestamp/times_ms"], atol=1e-3, rtol=0)


@pytest.mark.slow
def test_recorded_scene_of_15_seconds(published):
  model, recorded, clips = published
  audio = np.concatenate([clips["speech"], clips["typing"][:160_000]])
  found = mn.get_scene_embeddings(audio[None], model)
  np.testing.assert_allclose(found, recorded["scene_long15s/ALL"], atol=TOLERANCE, rtol=0)
