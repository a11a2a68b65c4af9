"""What a conversion may write over: what is ours, whole, and nothing else."""

import os

import pytest

from dasheng_jax.errors import ConfigError, WeightsError
from experiments.conversion import destination
from experiments.training.errors import UsageError
from tests.experiments.conversion.files import convert, left_in, saved


@pytest.fixture
def source(tiny_state, tmp_path):
  return saved(tmp_path / "a.safetensors", tiny_state, num_heads=4)


def refused(message, *paths, **settings):
  with pytest.raises((WeightsError, UsageError), match=message) as caught:
    convert(*paths, **settings)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", [".git", "log.txt", "model-1.safetensors"])
def test_a_folder_of_ours_that_holds_more(source, tmp_path, entry):
  dest = tmp_path / "b"
  convert(source, dest, to="huggingface")
  (dest / entry).mkdir() if entry == ".git" else (dest / entry).write_text("dear")
  refused(f"b: holds {entry}, which we did not write", source, dest, to="orbax", overwrite=True)
  assert left_in(dest) == {"README.md", "config.json", "model.safetensors", entry}


def test_an_orbax_folder_that_holds_more(source, tmp_path):
  dest = tmp_path / "b"
  convert(source, dest, to="orbax")
  (dest / "state" / "notes").write_text("dear")
  refused("holds state/notes, which", source, dest, to="huggingface", overwrite=True)
  (dest / "state" / "notes").unlink()
  convert(source, dest, to="huggingface", overwrite=True, shard_size="100kB")
  convert(source, dest, to="huggingface", overwrite=True)
  assert left_in(dest) == {"README.md", "config.json", "model.safetensors"}


def test_a_destination_that_holds_the_source_or_lies_in_it(source, tmp_path):
  convert(source, tmp_path / "b", to="huggingface")
  inside = tmp_path / "b" / "model.safetensors"
  for dest, asked, message in (
    (tmp_path / "b", {"to": "orbax", "heads": 4}, "b: holds SOURCE, which would be lost"),
    (tmp_path, {"to": "orbax"}, "holds SOURCE"),
  ):
    refused(message, inside, dest, overwrite=True, **asked)
  for dest, asked in ((tmp_path / "b" / "c", {"to": "orbax"}), (inside, {})):
    refused("lies within SOURCE", tmp_path / "b", dest, overwrite=True, **asked)
  (tmp_path / "link").symlink_to(tmp_path / "b")
  refused("lies within SOURCE", tmp_path / "link", tmp_path / "b" / "c", to="orbax")
  assert left_in(tmp_path / "b") == {"README.md", "config.json", "model.safetensors"}


@pytest.mark.parametrize("kind", ["huggingface", "orbax"])
def test_a_file_or_a_link_is_no_folder(source, tmp_path, kind):
  (tmp_path / "plain").write_text("dear")
  refused("plain: is a file, and --to", source, tmp_path / "plain", to=kind, overwrite=True)
  convert(source, tmp_path / "b", to="huggingface")
  for target in ("b", "nowhere"):
    (tmp_path / "link").symlink_to(tmp_path / target)
    refused("link: is a link, which is", source, tmp_path / "link", to=kind, overwrite=True)
    (tmp_path / "link").unlink()
  assert (tmp_path / "plain").read_text() == "dear"
  assert left_in(tmp_path) == {"a.safetensors", "plain", "b"}
  (tmp_path / "c.safetensors").mkdir()
  refused("is a folder, and --to", source, tmp_path / "c.safetensors", overwrite=True)


def test_what_was_there_comes_back_where_the_new_one_cannot_take_its_place(
  source, tmp_path, monkeypatch
):
  dest = tmp_path / "b"
  convert(source, dest, to="huggingface")
  replace = os.replace

  def failing(one, other):
    if ".partial-" in str(one) and other == dest:
      raise OSError("no")
    replace(one, other)

  monkeypatch.setattr(destination.os, "replace", failing)
  with pytest.raises(OSError, match="no"):
    convert(source, dest, to="huggingface", overwrite=True)
  assert left_in(dest) == {"README.md", "config.json", "model.safetensors"}
  assert left_in(tmp_path) == {"a.safetensors", "b"}


@pytest.mark.parametrize("suffix", ["md", "config.json"])
@pytest.mark.parametrize("content", ["dear", '{"name": "somebody else\'s"}', "[1]"])
def test_what_lies_beside_a_file_and_is_not_ours(source, tmp_path, suffix, content):
  dest = tmp_path / "b.safetensors"
  convert(source, dest)
  convert(source, dest, overwrite=True)
  beside = tmp_path / f"b.safetensors.{suffix}"
  beside.write_text(content)
  refused(f"{suffix}: is not ours and is not overwritten", source, dest, overwrite=True)
  assert beside.read_text() == content


def test_destinations_without_a_name(source, tmp_path, monkeypatch):
  (tmp_path / "cwd").mkdir()
  monkeypatch.chdir(tmp_path / "cwd")
  for dest in (".", "", "/", str(tmp_path / "cwd" / "..")):
    refused("write the name of the folder itself", source, dest, to="orbax", overwrite=True)


def test_golden_outputs_do_not_replace_source_or_destination(source, tmp_path):
  before = source.read_bytes()
  refused("is SOURCE or DEST", source, golden=str(source), overwrite=True)
  dest = tmp_path / "b.safetensors"
  refused("is SOURCE or DEST", source, dest, golden=str(dest))
  assert source.read_bytes() == before


def test_sizes_that_cannot_be(source, tmp_path):
  for size in ("9" * 400, "0", "0.5", "1e9"):
    refused("--shard_size", source, tmp_path / "b", to="huggingface", shard_size=size)
  with pytest.raises(ConfigError, match="positions is 2000000000; give 1 to 100,000"):
    convert(source, tmp_path / "b", to="huggingface", positions=2_000_000_000)
  assert left_in(tmp_path) == {"a.safetensors"}
