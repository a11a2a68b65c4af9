"""A module with the HEAR interface is embedded and evaluated as our own models are."""

import numpy as np
import pytest

from experiments.embedding.dasheng import DashengEmbedder
from experiments.embedding.mobile import MobileEmbedder
from experiments.embedding.module import ModuleEmbedder
from experiments.embedding.steps import StepEmbedder
from experiments.evaluation.cache import Cache
from experiments.evaluation.encoders import name_of, open_encoder
from experiments.evaluation.hear.embeddings import Hears
from experiments.evaluation.rivals import LogMelEmbedder
from experiments.training.errors import UsageError
from pipelines.errors import BadAudio

SOURCE = """
import numpy as np
LIBRARY = "LIBRARY_NAME"

class Model(BASE):
  sample_rate, scene_embedding_size, timestamp_embedding_size = 8000, 2, 1

def load_model(path=""):
  model = Model()
  model.gain = float(open(path).read()) if path else 1.0
  return model

def get_scene_embeddings(audio, model):
  assert type(audio).__module__.split(".")[0] == LIBRARY, type(audio)
  power = (audio * audio).numpy() if LIBRARY != "numpy" else audio * audio
  return BACK(model.gain * np.stack([power.mean(1), power.max(1)], 1))

def get_timestamp_embeddings(audio, model):
  x = np.asarray(audio)[:, ::100, None]
  return BACK(x), BACK(np.broadcast_to(np.arange(x.shape[1]) * 12.5, x.shape[:2]).copy())
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
  """module(name, base, back, library): writes it to the current folder."""
  monkeypatch.chdir(tmp_path)

  def write(name, head="", base="object", back="", library="numpy", body=SOURCE):
    text = body.replace("BASE", base).replace("BACK", back).replace("LIBRARY_NAME", library)
    (tmp_path / f"{name}.py").write_text(f"{head}\n{text}")
    monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    return f"module:{name}"

  return write


WAVES = [np.linspace(-1, 1, 800, dtype=np.float32), np.full(800, 0.5, np.float32)]


def test_scenes_and_timestamps(module):
  embedder = open_encoder(module("theirs_numpy"), timestamps=True)
  assert (embedder.sample_rate, embedder.group(800)) == (8000, 800)
  assert embedder.rows(8000) == 32
  one, two = embedder.embed(WAVES)
  np.testing.assert_allclose(two.scene, [0.25, 0.25])
  np.testing.assert_allclose(one.timestamps[:, 0], WAVES[0][::100])
  np.testing.assert_allclose(one.times_ms, 12.5 * np.arange(8))
  assert ModuleEmbedder(embedder.spec).embed(WAVES)[0].timestamps is None
  assert name_of(embedder.spec, (embedder.spec,)) == "module:theirs_numpy"
  with pytest.raises(BadAudio):
    embedder.group(0)


def test_a_model_of_tensorflow_gets_its_tensors(module):
  spec = module(
    "theirs_tf", "import tensorflow as tf", "tf.Module", "tf.convert_to_tensor", "tensorflow"
  )
  assert open_encoder(spec).embed(WAVES)[1].scene.tolist() == [0.25, 0.25]


@pytest.mark.torch
def test_a_model_of_pytorch_gets_its_tensors(module):
  head = "import torch\nto_torch = lambda x: torch.as_tensor(x, dtype=torch.float32)"
  spec = module("theirs_torch", head, "torch.nn.Module", "to_torch", "torch")
  assert open_encoder(spec).embed(WAVES)[1].scene.tolist() == [0.25, 0.25]


def test_weights_are_theirs_to_read_and_part_of_what_is_kept(module, tmp_path):
  spec = module("theirs_weighted")
  (tmp_path / "w.txt").write_text("2.0")
  one, plain = ModuleEmbedder(f"{spec}:w.txt"), ModuleEmbedder(spec)
  assert one.embed(WAVES)[1].scene.tolist() == [0.5, 0.5]
  assert one.settings["weights"] != plain.settings["weights"]
  (tmp_path / "w.txt").write_text("3.0")
  assert ModuleEmbedder(f"{spec}:w.txt").settings != one.settings


def test_mistakes(module):
  for spec, words in (
    ("module:not_there_at_all", "No module named 'not_there_at_all'; install it"),
    ("module:", "'' is no module; write module:NAME or module:NAME:WEIGHTS"),
    ("module:.x", "'.x' is no module"),
    ("module:json", "json has no function load_model"),
    (f"{module('theirs_here')}:no.pt", "there is no no.pt"),
  ):
    with pytest.raises(UsageError, match=words):
      open_encoder(spec)
  needy = module("theirs_needy", "import not_installed_anywhere")
  with pytest.raises(UsageError, match="theirs_needy needs another one: No module named 'not_i"):
    open_encoder(needy)
  flat = module(
    "theirs_flat",
    body=SOURCE.replace("np.stack([power.mean(1), power.max(1)], 1)", "power.mean(1)"),
  )
  with pytest.raises(UsageError, match=r"scene embeddings of 2 sounds have shape \(2,\)"):
    open_encoder(flat).embed(WAVES)


def replaced(old, new):
  assert old in SOURCE
  return SOURCE.replace(old, new)


@pytest.mark.parametrize("rate", ["None", "0", "44100.5", "'8000'"])
def test_a_rate_is_whole_hertz(module, rate):
  body = replaced("timestamp_embedding_size = 8000,", f"timestamp_embedding_size = {rate},")
  with pytest.raises(UsageError, match="sample_rate of its model is .*; it must be whole Hz"):
    open_encoder(module("theirs_rate", body=body))


def test_what_comes_back_is_checked(module):
  times = "BACK(np.broadcast_to(np.arange(x.shape[1]) * 12.5, x.shape[:2]).copy())"
  for name, body, words in (
    ("theirs_flat_times", replaced(times, "np.arange(2)"), r"times have shape \(2,\) beside"),
    ("theirs_one", replaced(f"return BACK(x), {times}", "return BACK(x)"), "gives no .embeddings,"),
  ):
    with pytest.raises(UsageError, match=words):
      open_encoder(module(name, body=body), timestamps=True).embed(WAVES)
  wide = replaced("[power.mean(1), power.max(1)]", "[power.mean(1)] * len(audio)")
  embedder = open_encoder(module("theirs_wide", body=wide))
  embedder.embed(WAVES)
  with pytest.raises(UsageError, match="scene embeddings of 1 numbers after 2"):
    embedder.embed(WAVES[:1])


def test_what_is_kept_is_of_this_code_and_these_weights(module, tmp_path):
  """Another helper beside the module, other weights: another place in the cache."""

  def place(spec):
    return Cache(tmp_path / "cache", ModuleEmbedder(spec).settings).path

  spec = module("theirs_kept")
  first = place(spec)
  assert place(spec) == first
  (tmp_path / "helper.py").write_text("gain = 2")
  second = place(spec)
  (tmp_path / "w.txt").write_text("2.0")
  assert len({first, second, place(f"{spec}:w.txt")}) == 3


def test_the_suite_hear_takes_every_encoder(module):
  """What it asks of a model, all that `open_encoder` opens has."""
  hears = ("group", "rows", "scenes", "over_time")
  assert all(hasattr(Hears, name) for name in hears)
  for made in (StepEmbedder, MobileEmbedder, DashengEmbedder, LogMelEmbedder, ModuleEmbedder):
    assert all(callable(getattr(made, name)) for name in hears)
  embedder = open_encoder(module("theirs_heard"), timestamps=True)
  np.testing.assert_array_equal(embedder.scenes(WAVES)[1], embedder.embed(WAVES)[1].scene)
  frames, times = embedder.over_time(WAVES)[0]
  assert (frames.shape, times.shape) == ((8, 1), (8,))
