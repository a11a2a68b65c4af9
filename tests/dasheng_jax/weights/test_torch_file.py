"""`.pt` files: what PyTorch's restricted loader gives, and what is refused before or after it."""

import json
import pathlib
import warnings
import zipfile

import numpy as np
import pytest

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.files import read_encoder_file
from dasheng_jax.weights.safetensors_file import open_safetensors
from dasheng_jax.weights.torch_archive import archive_digest
from dasheng_jax.weights.torch_file import open_torch, read_torch, write_torch


def refused(path, message):
  with pytest.raises(WeightsError, match=message) as caught:
    open_torch(path)
  assert "\n" not in str(caught.value)
  assert str(caught.value).startswith(f"{path}: ")
  return str(caught.value)


def zipped_again(source, path, compressed=lambda name: False):
  """The same archive, with some of its members deflated."""
  with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
    for name in old.namelist():
      kind = zipfile.ZIP_DEFLATED if compressed(name) else zipfile.ZIP_STORED
      new.writestr(name, old.read(name), kind)
  return path


@pytest.mark.torch
@pytest.mark.parametrize("member", ["data/0", "data.pkl", "none"])
def test_a_compressed_member_is_read_as_what_it_holds(tmp_path, member):
  """Mapping the file would give the compressed bytes for values."""
  values = np.arange(1000, dtype=np.float32) % 7
  write_torch(tmp_path / "a.pt", {"x": values, "y": -values})
  path = zipped_again(tmp_path / "a.pt", tmp_path / "b.pt", lambda name: name.endswith(member))
  found = read_torch(path)
  np.testing.assert_array_equal(found["x"], values)
  np.testing.assert_array_equal(found["y"], -values)


@pytest.mark.torch
def test_an_archive_with_two_members_of_one_name(tmp_path):
  write_torch(tmp_path / "a.pt", {"x": np.zeros(3, np.float32)})
  with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
    warnings.simplefilter("ignore")
    archive.writestr("a/data/0", np.ones(3, np.float32).tobytes())
  refused(tmp_path / "a.pt", "several members of one name")


def test_what_is_no_file_of_pytorch(tmp_path):
  """Told by its first bytes, before a loader could say that it holds code."""
  header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
  safetensors = len(header).to_bytes(8, "little") + header + bytes(4)
  for content, reason in (
    (b"<html>not found</html>", "neither a zip archive nor a pickle"),
    (b"abc", "neither a zip archive nor a pickle"),
    (b"", "it is empty"),
    (b"PK\x03\x04" + bytes(40), "its end is missing"),
    (safetensors, "but a safetensors file; let its name end in .safetensors"),
  ):
    (tmp_path / "x.bin").write_bytes(content)
    assert "run code" not in refused(tmp_path / "x.bin", f"not a readable PyTorch file.*{reason}")
  write_torch(tmp_path / "y.safetensors", {"x": np.zeros(1, np.float32)})
  with pytest.raises(WeightsError, match="but a PyTorch file; let its name end in .pt"):
    open_safetensors(tmp_path / "y.safetensors")


@pytest.mark.parametrize(("code", "width"), [("F8_E4M3", 1), ("U32", 4), ("C64", 8)])
def test_a_type_that_is_not_supported(tmp_path, code, width):
  header = {"x": {"dtype": code, "shape": [3], "data_offsets": [0, 3 * width]}}
  text = json.dumps(header).encode()
  path = tmp_path / "x.safetensors"
  path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(3 * width))
  with pytest.raises(WeightsError, match=f"x is of type {code}, which is not supported; save it"):
    open_safetensors(path)


@pytest.mark.torch
def test_tensors_that_are_not_plain(tmp_path):
  import torch

  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
  path = tmp_path / "x.pt"
  for tensor, reason in (
    (torch.zeros(3, dtype=torch.float8_e4m3fn), "odd is of type float8_e4m3fn, which is not"),
    (torch.zeros(3, dtype=torch.complex64), "odd is of type complex64, which is not"),
    (torch.zeros(3, device="meta"), r"odd has no values \(device meta\)"),
    (torch.zeros(3).to_sparse(), "odd is a sparse, nested or quantized tensor"),
    # From 2.15 on PyTorch's own reader refuses it by what would rebuild it.
    (nested, "odd is a sparse, nested or quantized|_rebuild_nested_tensor under the key 'odd'"),
    (torch.zeros(1).expand(1 << 45), "odd claims 140,737,488,355,328 bytes, more than the file"),
  ):
    torch.save({"model": {"good": torch.zeros(2), "odd": tensor}}, path)
    refused(path, reason)
  torch.save({"x": torch._neg_view(torch.arange(3.0)), "y": torch.ones(1).expand(2, 2)}, path)
  found = read_torch(path)
  np.testing.assert_array_equal(found["x"], [0, -1, -2])
  np.testing.assert_array_equal(found["y"], np.ones((2, 2)))


@pytest.mark.torch
def test_contents_within_themselves(tmp_path):
  import torch

  loop = {"x": torch.zeros(2)}
  loop["self"] = loop
  torch.save(loop, tmp_path / "loop.pt")
  depth = 20_000
  program = b"\x80\x02" + b"}X\x01\x00\x00\x00a" * depth + b"}" + b"s" * depth + b"."
  with zipfile.ZipFile(tmp_path / "deep.pt", "w") as archive:
    archive.writestr("deep/data.pkl", program)
    archive.writestr("deep/version", b"3\n")
    archive.writestr("deep/byteorder", b"little")
  for name in ("loop.pt", "deep.pt"):
    refused(tmp_path / name, "nested too deeply, or within themselves")


@pytest.mark.torch
def test_keys_that_are_no_text(tmp_path):
  import torch

  torch.save({1: torch.zeros(2), "y": {(0, "a"): 3}}, tmp_path / "x.pt")
  found = open_torch(tmp_path / "x.pt")
  assert list(found) == ["1", "y"]
  assert found["y"] == {"(0, 'a')": 3}
  with pytest.raises(WeightsError, match=r"not a Dasheng encoder \(it holds 1, y"):
    read_encoder_file(tmp_path / "x.pt")


class _Asks:
  """Pickles as a call of whatever is named."""

  def __init__(self, function):
    self.function = function

  def __reduce__(self):
    return self.function, ("x",)


@pytest.mark.torch
@pytest.mark.parametrize("old", [False, True])
def test_a_name_of_pytorch_that_would_run_is_named_with_its_key(tmp_path, old):
  import torch

  content = {"model": {"w": torch.zeros(2)}, "config": {"net": _Asks(torch.hub.load)}}
  torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
  said = refused(tmp_path / "x.pt", "asks for torch.hub.load under the key 'net'.*re-save its")
  assert "safe_globals" not in said
  torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
  refused(tmp_path / "x.pt", r"asks for torch.nn.modules.linear.Linear")


def test_a_digest_of_an_archive(tmp_path):
  """Of what the members hold, not of how the archive is laid out."""
  one, two = tmp_path / "a.pt", tmp_path / "b" / "a.pt"
  two.parent.mkdir()
  write_torch(one, {"x": np.zeros(3, np.float32)})
  write_torch(two, {"x": np.zeros(3, np.float32)})
  assert archive_digest(one) == archive_digest(two) != ""
  write_torch(two, {"x": np.full(3, 2, np.float32)})
  assert archive_digest(one) != archive_digest(two)
  pathlib.Path(two).write_bytes(b"\x80\x02.")
  assert archive_digest(two) == ""
