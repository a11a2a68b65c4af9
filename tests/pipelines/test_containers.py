import io
import struct

import numpy as np
import pytest
import soundfile

from pipelines import decode, index
from pipelines.containers import contradiction
from tests.pipelines.conftest import tone


def encoded(kind: str, subtype: str, rate: int = 16_000, channels: int = 1) -> bytes:
  file = io.BytesIO()
  soundfile.write(file, tone(1, 0.1, rate, channels), rate, format=kind, subtype=subtype)
  return file.getvalue()


def found(data: bytes) -> str:
  return contradiction(lambda at, most: data[at : at + most])


KINDS = [
  (kind, subtype, rate, channels)
  for kind, subtypes in {
    "WAV": ("PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM"),
    "WAVEX": ("PCM_16", "DOUBLE"),
    "RF64": ("PCM_16",),
    "FLAC": ("PCM_16", "PCM_24", "PCM_S8"),
    "OGG": ("VORBIS",),
    "AIFF": ("PCM_16",),
  }.items()
  for subtype in subtypes
  for rate, channels in ((16_000, 1), (44_100, 2), (12_345, 1))
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_sound_files_do_not_contradict_themselves(kind):
  assert found(encoded(*kind)) == ""


@pytest.mark.parametrize("rate", [8_000, 16_000, 12_345, 500_000])
def test_every_flipped_bit_of_a_rate_is_seen(rate):
  for kind, field in (("WAV", range(24, 28)), ("FLAC", range(18, 20))):
    data = encoded(kind, "PCM_16", rate)
    for at in field:
      for bit in range(8):
        flipped = bytearray(data)
        flipped[at] ^= 1 << bit
        assert found(bytes(flipped)), (kind, at, bit)
        assert index.header_or_reason(bytes(flipped), len(flipped))[2]


def test_flipped_sample_sizes_and_channels_are_seen():
  wav, flac = encoded("WAV", "PCM_16"), encoded("FLAC", "PCM_16")
  for data, places in ((wav, (22, 32, 34)), (flac, (20,))):
    for at in places:
      flipped = bytearray(data)
      flipped[at] ^= 2
      assert found(bytes(flipped)), at


def in_four_bytes(bits: int, wave: np.ndarray, extensible: bool = True) -> bytes:
  """24-bit samples, at the upper end of four bytes each, under a header that says `bits`."""
  channels = wave.shape[1]
  head = (channels, 16_000, 16_000 * 4 * channels, 4 * channels, bits)
  fmt = struct.pack("<HHIIHH", 0xFFFE if extensible else 1, *head)
  if extensible:  # size, valid bits, speakers, and the format PCM
    fmt += struct.pack("<HHI", 22, 24, 0)
    fmt += bytes.fromhex("0100000000001000800000aa00389b71")
  data = (wave << 8).astype("<i4").tobytes()
  chunks = ((b"fmt ", fmt), (b"data", data))
  body = b"".join(name + struct.pack("<I", len(part)) + part for name, part in chunks)
  return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


@pytest.mark.parametrize("channels", [1, 2])
def test_24_bits_in_four_bytes(channels):
  wave = np.random.default_rng(0).integers(-(1 << 23), 1 << 23, (500, channels))
  # As the standard has it: the header gives the size of the container.
  data = in_four_bytes(32, wave)
  assert decode.header(data) == (500, 16_000)
  found, _ = decode.read_span(data, 0, 500)
  assert np.array_equal(found, (wave / 2.0**23).astype(np.float32))
  theirs = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0]
  assert np.array_equal(found, theirs)
  # A header that gives the valid bits instead: libsndfile would read three bytes a sample.
  for extensible in (True, False):
    data = in_four_bytes(24, wave, extensible)
    assert len(soundfile.read(io.BytesIO(data))[0]) != 500
    with pytest.raises(decode.BadAudio, match=r"24-bit samples in 4 bytes each, .*; save it as"):
      decode.header(data)


def test_a_sloppy_byte_rate_harms_nothing():
  data = bytearray(encoded("WAV", "PCM_16"))
  data[28:32] = bytes(4)
  assert index.header_or_reason(bytes(data), len(data))[2] == ""


@pytest.mark.parametrize("rate", [1, 99, 3_000_000])
def test_rates_that_no_recording_has(rate):
  with pytest.raises(decode.BadAudio, match=f"header says {rate} Hz"):
    decode.header(decode.Samples(np.zeros((5, 1), np.float32), rate))


def test_a_length_that_the_file_cannot_hold():
  data = bytearray(encoded("FLAC", "PCM_16"))
  data[21] |= 0x0F
  assert "cannot hold" in index.header_or_reason(bytes(data), len(data))[2]


def test_an_id3_tag_before_the_stream():
  data = encoded("FLAC", "PCM_16")
  tag = b"ID3\x03\x00\x00" + bytes((0, 0, 1, 5)) + bytes(133)
  assert found(tag + data) == ""
  flipped = bytearray(tag + data)
  flipped[len(tag) + 18] ^= 1
  assert "the first frame 16000 Hz" in found(bytes(flipped))
