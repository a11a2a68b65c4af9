"""What a name stands for: a path, a published file in the cache, a repository on Hugging Face."""

import json
import pathlib
import subprocess
import sys
import types

import pytest

import dasheng_jax
import mobile_jax
from dasheng_jax.weights import hub
from tests.dasheng_jax.weights.file_site import CONTENT, SHA256, Model, refused, table

pytestmark = pytest.mark.usefixtures("cache")

KNOWN = {
  "model_as": Model("model_mAP_432.pt", "https://host/model_mAP_432.pt?download=1"),
  "twin_as(1)": Model("twin_as.pt", "https://host/twin_as.pt"),
  "elsewhere": Model("other.safetensors", "", hub="people/elsewhere"),
}


@pytest.fixture
def snapshots(monkeypatch, tmp_path):
  """A `huggingface_hub` that hands out a folder; the calls that it got."""
  calls, folder = [], tmp_path / "snapshot"
  folder.mkdir()
  (folder / "config.json").write_text("{}")
  (folder / "model.safetensors").write_bytes(b"x")

  def snapshot_download(name, **options):
    calls.append((name, options))
    if name == "people/none":
      raise RuntimeError("404 Client Error.\n\nRepository Not Found for url")
    return str(folder)

  fake = types.SimpleNamespace(snapshot_download=snapshot_download, calls=calls, folder=folder)
  monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
  return fake


def test_a_path_that_exists_is_itself(tmp_path):
  file, folder = tmp_path / "model.pt", tmp_path / "model_as"
  file.touch()
  folder.mkdir()
  assert hub.resolve(file, KNOWN) == file
  assert hub.resolve(str(folder), KNOWN) == folder
  assert hub.resolve("model_as", KNOWN).samefile(folder)


@pytest.mark.parametrize("name", ["model_mAP_432.pt", "model_as.safetensors", "model_mAP_432.ckpt"])
def test_a_published_file_that_is_not_here(tmp_path, name):
  for source in (name, tmp_path / name, f"./{name}"):
    refused(
      hub.resolve,
      source,
      KNOWN,
      match=r"no such weight file; download model_mAP_432.pt from https\S+, or pass 'model_as'",
    )


def test_a_file_is_known_by_its_own_line_first(tmp_path):
  both = {"twin_as": Model("twin_as_2.pt", "https://host/2"), **KNOWN}
  refused(hub.resolve, tmp_path / "twin_as.pt", both, match=r"pass 'twin_as\(1\)'")
  refused(hub.resolve, tmp_path / "other.pt", both, match="https://huggingface.co/people/elsewhere")


@pytest.mark.parametrize("source", ["x.pt", "./model", "~/nowhere/model", "a/b/c", "here/model"])
def test_paths_that_are_not_there(tmp_path, source):
  (tmp_path / "here").mkdir()
  refused(hub.resolve, source, KNOWN, match="no such weight file$")


def test_unknown_names_are_answered_with_the_nearest():
  refused(hub.resolve, "modle_as", KNOWN, match="no such weight file, and .*did you mean model_as")
  refused(hub.resolve, "", KNOWN, match="an empty name")
  refused(hub.resolve, "dasheng_bas", dasheng_jax.MODELS, match="did you mean dasheng_base")
  refused(hub.resolve, "mn10as", mobile_jax.MODELS, match="did you mean mn10_as")


@pytest.mark.parametrize("source", ["people/elsewhere", "elsewhere", "people/unlisted-0.6B"])
def test_names_on_hugging_face(snapshots, source):
  assert hub.resolve(source, KNOWN) == snapshots.folder
  ((name, options),) = snapshots.calls
  assert name == (source if "/" in source else "people/elsewhere")
  assert options["local_files_only"] is False
  assert options["allow_patterns"] == ["config.json", "*.safetensors", "*.safetensors.index.json"]


def test_a_known_name_wins_over_a_folder_of_its_first_half(snapshots, tmp_path):
  (tmp_path / "people").mkdir()
  assert hub.resolve("people/elsewhere", KNOWN) == snapshots.folder
  refused(hub.resolve, "people/unlisted", KNOWN, match="no such weight file")


def test_hugging_face_without_its_package(cache, monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  said = refused(hub.resolve, "people/elsewere", KNOWN, match=r"extra \[hub\] .*dasheng-jax\[hub\]")
  assert "did you mean people/elsewhere?" in said
  assert f"https://huggingface.co/people/elsewere in another way and put them into {cache}" in said
  # What was put there is found without the package.
  folder = cache / "people--elsewere"
  folder.mkdir(parents=True)
  refused(hub.resolve, "people/elsewere", KNOWN, match="people--elsewere: no .safetensors file")
  (folder / "model.safetensors").touch()
  assert hub.resolve("people/elsewere", KNOWN) == folder


@pytest.mark.parametrize("variable", hub.OFFLINE)
def test_hugging_face_offline(snapshots, monkeypatch, variable):
  monkeypatch.setenv(variable, "true")
  assert hub.resolve("people/elsewhere", KNOWN) == snapshots.folder
  assert snapshots.calls[0][1]["local_files_only"] is True
  refused(hub.resolve, "people/none", KNOWN, match=f"{variable} forbids downloads; .* into ")


def test_hugging_face_fails(snapshots, cache):
  said = refused(hub.resolve, "people/none", KNOWN, match="no download, 404 Client Error; ")
  assert str(cache / "people--none") in said
  index = snapshots.folder / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "2.safetensors"}}))
  refused(hub.resolve, "people/elsewhere", KNOWN, match="1 of 2 shards are missing, 2.safetensors")
  index.write_text("[")
  refused(hub.resolve, "people/elsewhere", KNOWN, match="is no index of shards")
  index.unlink()
  (snapshots.folder / "model.safetensors").unlink()
  refused(hub.resolve, "people/elsewhere", KNOWN, match="no .safetensors file in ")


@pytest.mark.parametrize("variable", hub.OFFLINE)
def test_offline(site, cache, monkeypatch, variable):
  monkeypatch.setenv(variable, "1")
  said = refused(hub.resolve, "model_as", table(site), match=f"{variable} forbids downloads")
  assert f"get it from {site.url} in another way and put it at {cache / 'model.pt'}" in said
  cache.mkdir()
  (cache / "model.pt").write_bytes(b"by hand")
  assert hub.resolve("model_as", table(site)).read_bytes() == b"by hand"
  assert not site.asked
  monkeypatch.setenv(variable, "0")
  assert not hub.offline()


def test_damage_in_the_cache_is_noticed(site, cache):
  path = hub.resolve("model_as", table(site))
  damaged = bytearray(CONTENT)
  damaged[500_000] ^= 1
  path.write_bytes(damaged)
  refused(hub.resolve, "model_as", table(site), match=f"damaged.*delete {path} and {path}.sha256")
  refused(
    hub.resolve, "model_as", table(site, sha256=SHA256), match=f"published .*{SHA256}.*delete"
  )
  path.unlink()
  assert hub.resolve("model_as", table(site)).read_bytes() == CONTENT


def test_the_cache_folder(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setenv(hub.CACHE, "~/mine")
  assert hub.cache_folder() == tmp_path / "mine"
  monkeypatch.setenv(hub.CACHE, "relative")
  assert hub.cache_folder() == tmp_path / "relative"
  monkeypatch.delenv(hub.CACHE)
  assert hub.cache_folder() == tmp_path / ".cache" / "dasheng_jax" / "weights"
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
  assert hub.cache_folder() == tmp_path / "xdg" / "dasheng_jax" / "weights"


def test_the_published_tables_fit():
  models = [*dasheng_jax.MODELS.values(), *mobile_jax.MODELS.values()]
  assert all(isinstance(model, hub.Published) for model in models)
  assert len({hub.place(model) for model in models}) == len(models)


ROOT = pathlib.Path(dasheng_jax.__file__).parents[1]
PROBE = """
import sys, jax
before = set(sys.modules)
import dasheng_jax, dasheng_jax.weights.hub
print(*sorted(set(sys.modules) - before))
"""


def test_imports_stay_light():
  out = subprocess.run(
    [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, timeout=120, cwd=ROOT
  )
  loaded = set(out.stdout.split())
  assert "dasheng_jax.weights.download" in loaded
  assert not loaded & {"huggingface_hub", "urllib.request", "http.client", "flax", "torch"}
