"""One tensor of a .pt file, as PyTorch 2.15 wrote it, and files that are something else."""

import io
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest

from pipelines import DataError
from pipelines.torch_tensor import read_tensor
from tests.mobile_jax.fixtures import GOLDEN

# torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), to four digits.
STORED = GOLDEN / "torch_tensor.pt"
FIRST, LAST = [-1.1258, -1.1524, 0.5667], [-0.8437, 0.9318, 1.2590]


def rewritten(path, **members):
  """A copy of the stored file with other contents of some members; None leaves one out."""
  with zipfile.ZipFile(STORED) as old, zipfile.ZipFile(path, "w") as new:
    for name in old.namelist():
      content = members.get(name.rsplit("/", 1)[-1].replace(".", "_"), old.read(name))
      if content is not None:
        new.writestr(name, content)
  return path


def program(**changes):
  """The stored pickle with some of its bytes replaced."""
  with zipfile.ZipFile(STORED) as archive:
    text = archive.read("torch_tensor/data.pkl")
  for old, new in changes.values():
    assert old in text
    text = text.replace(old, new)
  return text


def test_a_stored_tensor():
  found = read_tensor(STORED)
  assert (found.shape, found.dtype) == ((6, 3), np.float32)
  np.testing.assert_allclose(found[0], FIRST, atol=5e-5)
  np.testing.assert_allclose(found[-1], LAST, atol=5e-5)


def test_what_pytorch_writes(torch, tmp_path):
  """All types of floats, and views: transposed, with steps, from the middle, of one number."""
  whole = torch.randn(7, 12, generator=torch.Generator().manual_seed(1))
  views = [whole, whole.t(), whole[::2, 1::3], whole[3:, 5:], whole[2], whole[1, 1], whole[:0]]
  kinds = [whole.double(), whole.half(), whole.bfloat16()]
  for tensor in (*views, *kinds, whole.clone().requires_grad_()):
    torch.save(tensor, tmp_path / "x.pt")
    np.testing.assert_array_equal(read_tensor(tmp_path / "x.pt"), tensor.detach().float().numpy())
  for content in (whole.int(), {"logits": whole}, [whole], whole.to_sparse(), "text"):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(DataError) as error:
      read_tensor(tmp_path / "x.pt")
    assert "\n" not in str(error.value)
  torch.save(whole, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
  with pytest.raises(DataError, match="no .pt file as PyTorch writes it since 1.6"):
    read_tensor(tmp_path / "old.pt")


class Hostile:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (self.path,)


def test_nothing_of_a_file_is_executed(tmp_path):
  made = str(tmp_path / "made")
  for content in (Hostile(made), {"a": Hostile(made)}):
    path = rewritten(tmp_path / "x.pt", data_pkl=pickle.dumps(content))
    with pytest.raises(DataError, match=r"asks for posix\.mkdir.*nothing of it was executed"):
      read_tensor(path)
  assert not os.path.exists(made)


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"data_pkl": pickle.dumps({"a": 1})}, "holds a dict, not one tensor"),
    ({"data_pkl": b"\x80\x02Nr\xff\xff\xff\x7f."}, r"one tensor \(it has LONG_BINPUT\)"),
    ({"data_pkl": None}, "is no .pt file of one tensor"),
    ({"data_pkl": b"\x80\x02("}, "is no sound .pt file"),
    ({"0": None}, "is no sound .pt file.*no item named"),
    ({"0": b"\0" * 68}, "has no numbers for all of its tensor"),
    ({"byteorder": b"big"}, "big-endian"),
    ({"data_pkl": program(shape=(b"K\x06K\x03\x86", b"K\x07K\x03\x86"))}, "has no numbers for all"),
    (
      {"data_pkl": program(stride=(b"K\x03K\x01\x86", b"K\x04K\x01\x86"))},
      "has no numbers for all",
    ),
    ({"data_pkl": program(kind=(b"FloatStorage", b"LongStorage"))}, "asks for torch.LongStorage"),
  ],
)
def test_files_that_are_something_else(tmp_path, changes, match):
  with pytest.raises(DataError, match=match) as error:
    read_tensor(rewritten(tmp_path / "x.pt", **changes))
  assert "\n" not in str(error.value)


def test_damage_is_told(tmp_path):
  path = tmp_path / "x.pt"
  shutil.copy(STORED, path)
  content = bytearray(path.read_bytes())
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    numbers = archive.read("torch_tensor/data/0")
  content[content.index(numbers) + 5] ^= 1
  path.write_bytes(content)
  with pytest.raises(DataError, match="Bad CRC-32"):
    read_tensor(path)
  path.write_bytes(content[:-40])
  with pytest.raises(DataError, match="not a zip file"):
    read_tensor(path)
  with pytest.raises(DataError, match="No such file"):
    read_tensor(tmp_path / "absent.pt")
