import io
import tarfile

import numpy as np
import pytest

from pipelines.sources.tar_members import Cut, Damaged, members

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
NAMES = ("a/0001.flac", "b" * 90 + "/" + "c" * 90 + ".wav", "ünï/ç.ogg", "d.json", "./e.mp3")


def archive(format: int, names=NAMES) -> bytes:
  file = io.BytesIO()
  draw = np.random.default_rng(0)
  with tarfile.open(fileobj=file, mode="w", format=format) as tar:
    for number, name in enumerate(names):
      data = draw.bytes(700 * number)
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
      info = tarfile.TarInfo(f"special-{kind.decode()}.flac")
      info.type, info.linkname = kind, "a/0001.flac"
      tar.addfile(info)
  return file.getvalue()


def listed(data: bytes) -> list[tuple]:
  return [tuple(m) for m in members(io.BytesIO(data), len(data))]


@pytest.mark.parametrize("format", FORMATS)
def test_agrees_with_the_standard_library(format):
  data = archive(format)
  with tarfile.open(fileobj=io.BytesIO(data)) as tar:
    theirs = [(m.name, m.isfile(), m.offset_data, m.size) for m in tar.getmembers()]
  ours = [
    (name.rstrip("/"), kind == "0", offset, size) for name, kind, offset, size in listed(data)
  ]
  assert ours == theirs


def test_sizes_beyond_octal():
  info = tarfile.TarInfo("large.wav")
  info.size = 1 << 40
  head = info.tobuf(tarfile.GNU_FORMAT)
  reader = members(io.BytesIO(head), len(head))
  assert next(reader) == ("large.wav", "0", 512, 1 << 40)
  with pytest.raises(Cut, match="no end mark"):
    next(reader)


def test_pax_size_and_path_count():
  info = tarfile.TarInfo("x" * 200 + ".flac")
  info.size, info.mtime = 3, 0.5
  data = info.tobuf(tarfile.PAX_FORMAT) + b"abc" + bytes(509 + 1024)
  ((name, kind, offset, size),) = listed(data)
  assert (name, kind, size) == (info.name, "0", 3)
  assert data[offset : offset + size] == b"abc"


@pytest.mark.parametrize("format", FORMATS)
def test_every_flipped_bit_of_a_header_is_seen(format):
  data = archive(format, NAMES[:2])
  whole = listed(data)
  for at in (*range(0, 512, 7), 100, 148, 156):
    flipped = bytearray(data)
    flipped[at] ^= 0x04
    with pytest.raises(Damaged) as caught:
      listed(bytes(flipped))
    assert caught.value.at == 0
  assert listed(data) == whole


def test_a_wiped_header_is_no_end():
  data = bytearray(archive(tarfile.USTAR_FORMAT))
  second = listed(bytes(data))[1][2] - 512
  data[second : second + 512] = bytes(512)
  with pytest.raises(Damaged, match=f"goes on behind its end mark at byte {second}"):
    listed(bytes(data))
