"""What card, config.json and report say of a source, and what they must not say."""

import hashlib
import json

import pytest

import dasheng_jax
import mobile_jax
from dasheng_jax.errors import WeightsError
from dasheng_jax.models import PublishedModel as PublishedDasheng
from experiments.conversion.provenance import origin, source_digest
from experiments.conversion.source import Wishes, open_source
from mobile_jax.models import PublishedModel
from tests.dasheng_jax.conftest import TINY
from tests.experiments.conversion.files import convert, saved


def sha_of(path):
  return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def mn(recorded, tmp_path, monkeypatch):
  """publish(sha256) -> the file of a network, once it is in the table of published ones."""
  network = recorded("mn01_c_mlp")
  path = saved(tmp_path / "mine.safetensors", network.state)

  def publish(sha256, file="mn01_tiny.pt"):
    cfg = mobile_jax.config.MNConfig(width=0.1, classes=20)
    line = PublishedModel(cfg, file, "https://host/mn01", 29.8, sha256)
    monkeypatch.setitem(mobile_jax.MODELS, "mn01_tiny", line)
    return path

  return publish


def card_of(dest):
  return (dest / "README.md").read_text()


OF_THE_AUTHORS = ("29.8 mAP on AudioSet", "https://host/mn01", "| licence | MIT |", "license: mit")


def test_a_published_file_has_its_authors_figure_and_licence(mn, tmp_path):
  source = mn(None)
  mn(sha_of(source))
  convert(source, tmp_path / "b", to="huggingface")
  for text in (*OF_THE_AUTHORS, "# b\n\nMN (MobileNetV3 for audio), mn01_tiny, converted to"):
    assert text in card_of(tmp_path / "b")
  convert(source, tmp_path / "c", to="huggingface", dtype="float16")
  assert "29.8 mAP on AudioSet, before these weights were rounded to float16" in card_of(
    tmp_path / "c"
  )


@pytest.mark.parametrize("settings", [{"classes": 3}, {"name": "mn01"}])
def test_changed_weights_have_neither(mn, tmp_path, settings, monkeypatch):
  source = mn(None)
  mn(sha_of(source))
  if "name" in settings:
    # Known by its sum, and read as something else than what it was published as.
    line = mobile_jax.MODELS["mn01_tiny"]
    other = mobile_jax.config.MNConfig(width=0.1, classes=20, strides=(2, 2, 2, 1))
    monkeypatch.setitem(mobile_jax.MODELS, "mn01_tiny", line._replace(config=other))
  convert(source, tmp_path / "b", to="huggingface", **settings)
  card = card_of(tmp_path / "b")
  assert not any(text in card for text in OF_THE_AUTHORS)
  assert "MN (MobileNetV3 for audio) of the size of mn01, converted to" in card
  assert "license: unknown" in card
  assert "| licence | unknown: that of the source |" in card


def test_a_name_in_a_configuration_is_no_proof(mn, recorded, tmp_path):
  mn("0" * 64)
  config = {"family": "mn", "format": 1, "name": "mn01_tiny", "config": {"width": 0.1}}
  config["config"]["classes"] = 20
  folder = tmp_path / "foreign"
  folder.mkdir()
  saved(folder / "model.safetensors", recorded("mn01_c_mlp").state)
  (folder / "config.json").write_text(json.dumps({"dasheng_jax": config}))
  convert(folder, tmp_path / "b", to="huggingface")
  assert not any(text in card_of(tmp_path / "b") for text in OF_THE_AUTHORS)
  assert "of the size of mn01_tiny" in card_of(tmp_path / "b")


def test_where_no_sum_is_known_the_published_file_name_counts(mn, tmp_path):
  source = mn(None)
  found = open_source(source, Wishes())
  assert origin(str(source), source, found).name == ""
  mn(None, file=source.name)
  assert origin(str(source), source, found).name == "mn01_tiny"
  mn("0" * 64, file=source.name)
  with pytest.raises(WeightsError, match="is not the published file of this name"):
    origin(str(source), source, found)


def test_dasheng_by_its_name_on_hugging_face(tiny_state, tmp_path, monkeypatch):
  """A download by that name counts; a folder of that name does not, nor another length."""
  line = PublishedDasheng(TINY, "t.pt", "https://host/t", "me/tiny", None, "X-1", (1.5, 2, 3), 9)
  monkeypatch.setitem(dasheng_jax.MODELS, "tiny", line)
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  found = open_source(source, Wishes())
  assert origin("me/tiny", source, found).name == "tiny"
  assert origin("tiny", source, found).name == "tiny"
  monkeypatch.chdir(tmp_path)
  (tmp_path / "tiny").mkdir()
  assert origin("tiny", source, found).name == ""
  longer = found._replace(cfg=TINY.__class__(encoder=TINY.encoder.__class__(48, 3, 4, 4.0, 100)))
  assert origin("me/tiny", source, longer).name == ""


def test_the_sum_is_in_report_card_and_configuration(tiny_state, tmp_path, capsys):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  convert(source, tmp_path / "b.safetensors")
  first, said = sha_of(source), capsys.readouterr().out
  assert f"  sha256 of the source: {first}\n" in said
  for suffix in ("md", "config.json"):
    assert first in (tmp_path / f"b.safetensors.{suffix}").read_text()


@pytest.mark.parametrize("kind", ["huggingface", "orbax"])
def test_the_sum_of_a_folder_and_of_what_it_was_made_from(kind, tiny_state, tmp_path, capsys):
  source = saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)
  convert(source, tmp_path / "b", to=kind)
  convert(tmp_path / "b", tmp_path / "c", to="huggingface")
  convert(tmp_path / "c", tmp_path / "d", to="huggingface")
  assert f"  sha256 of that: {sha_of(source)}\n" in capsys.readouterr().out
  for name in ("c", "d"):
    about = json.loads((tmp_path / name / "config.json").read_text())["dasheng_jax"]["source"]
    assert about["which was converted from"] == "a.safetensors"
    assert about["sha256 of that"] == sha_of(source)
    assert about["converted from"] == {"c": "b", "d": "c"}[name]
    assert about["sha256 of the source"] == source_digest(tmp_path / about["converted from"])


def test_the_digest_of_a_folder_is_over_names_and_contents(tmp_path):
  (tmp_path / "state" / "0").mkdir(parents=True)
  files = [tmp_path / "config.json", tmp_path / "state" / "0" / "x"]
  for file in files:
    file.write_text("1")
  first = source_digest(tmp_path)
  (tmp_path / "README.md").write_text("not read")
  assert source_digest(tmp_path) == first
  files[1].write_text("2")
  assert source_digest(tmp_path) != first
  files[1].write_text("1")
  files[1].rename(files[1].with_name("y"))
  assert source_digest(tmp_path) != first


@pytest.mark.torch
def test_a_file_of_the_old_format_says_that_it_has_no_checksums(tiny_state, tmp_path, capsys):
  import numpy as np
  import torch

  state = {name: torch.from_numpy(np.array(x)) for name, x in tiny_state.items()}
  content = {"model": state, "config": {"num_heads": 4}}
  for old in (True, False):
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
    convert(tmp_path / "a.pt", dry_run=True)
    assert ("has no checksums" in capsys.readouterr().out) is old
