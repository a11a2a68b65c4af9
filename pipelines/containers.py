"""What a WAV or FLAC file says twice about itself must agree.

No checksum covers the head of a WAV file or the stream information of a FLAC file, so a flipped bit
there would pass for another rate or another sample size. Both formats repeat themselves: WAV states
bytes per second and per frame beside what they are the product of (Microsoft, "Multiple channel
audio data and WAVE files", section 1), and every FLAC frame states rate, channels and sample size
(RFC 9639, section 9.1).

Samples of 24 bits in containers of 32 are read where the header says so as the same document asks
(section 2: 32 bits per sample, 24 of them valid). Headers that give 24 bits per sample and four
bytes for each are refused: libsndfile goes by the bits and would read three bytes a sample, and
nothing says at which end of the four bytes the sample lies.
"""

import struct
from collections.abc import Callable

ReadAt = Callable[[int, int], bytes]
"""(offset, most bytes) -> the bytes there, fewer at the end of the file."""

# Rates that no flipped bit turns into one another. A wrong byte rate beside one of them is a sloppy
# writer's, and harms nothing.
_USUAL_RATES = (
  8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400,
  192_000,
)  # fmt: skip
_LINEAR = (1, 3)  # format tags of integer and float samples
_EXTENSIBLE = 0xFFFE
_MOST_BLOCKS = 512  # looked at before the audio
_FLAC_RATES = (0, 88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000,
               96_000)  # fmt: skip
_FLAC_BITS = (0, 8, 12, -1, 16, 20, 24, 32)


def contradiction(read: ReadAt) -> str:
  """What contradicts itself in the head of a WAV or FLAC file; "" where nothing does.

  A head that is cut or makes no sense is left to the decoder, and so is every other format.
  """
  magic = read(0, 12)
  if magic[:4] in (b"RIFF", b"RF64", b"RIFX") and magic[8:12] == b"WAVE":
    return _wav(read, ">" if magic[:4] == b"RIFX" else "<")
  at = 0
  if magic[:3] == b"ID3" and len(magic) > 9:  # an ID3v2 tag before the stream
    at = 10 + sum((byte & 127) << shift for byte, shift in zip(magic[6:10], (21, 14, 7, 0)))  # noqa: B905
  return _flac(read, at + 4) if read(at, 4) == b"fLaC" else ""


def _wav(read: ReadAt, order: str) -> str:
  at = 12
  for _ in range(_MOST_BLOCKS):
    head = read(at, 8)
    if len(head) < 8:
      return ""
    size = struct.unpack(f"{order}I", head[4:])[0]
    if head[:4] == b"fmt ":
      return _fmt(read(at + 8, min(size, 40)), order)
    at += 8 + size + size % 2
  return ""


def _fmt(data: bytes, order: str) -> str:
  if len(data) < 16:
    return ""
  tag, channels, rate, per_second, per_frame, bits = struct.unpack(f"{order}HHIIHH", data[:16])
  if tag == _EXTENSIBLE and len(data) >= 26:
    tag = struct.unpack(f"{order}H", data[24:26])[0]
  if tag not in _LINEAR:
    return ""
  if bits == 24 and per_frame == 4 * channels and per_second == rate * per_frame:
    return (
      "holds 24-bit samples in 4 bytes each, under a header that says 24; save it as 24-bit PCM"
    )
  if per_frame != channels * -(-bits // 8):
    return f"header says {channels} channels of {bits} bits in {per_frame} bytes"
  if per_second != rate * per_frame and rate not in _USUAL_RATES:
    return f"header says {rate} Hz, and {per_second} bytes per second in frames of {per_frame}"
  return ""


def _flac(read: ReadAt, at: int) -> str:
  """at: of the first metadata block."""
  stated: tuple[int, int, int] | None = None
  for _ in range(_MOST_BLOCKS):
    head = read(at, 4)
    if len(head) < 4:
      return ""
    if head[0] & 127 == 0:
      info = int.from_bytes(read(at + 4 + 10, 8), "big")
      stated = info >> 44, (info >> 41 & 7) + 1, (info >> 36 & 31) + 1
    at += 4 + int.from_bytes(head[1:], "big")
    if head[0] & 128:
      break
  found = _flac_frame(read(at, 16))
  if stated is None or found is None:
    return ""
  for says, is_, what in zip(stated, found, ("Hz", "channels", "bits"), strict=True):
    if is_ and says != is_:
      return f"header says {says} {what}, the first frame {is_} {what}"
  return ""


def _flac_frame(head: bytes) -> tuple[int, int, int] | None:
  """(rate, channels, bits) of a frame, 0 where it refers to the stream; None for no frame head."""
  if len(head) < 16 or head[0] != 0xFF or head[1] & 0xFE != 0xF8:
    return None
  block, code = head[2] >> 4, head[2] & 15
  layout, bits = head[3] >> 4, _FLAC_BITS[head[3] >> 1 & 7]
  if layout > 10 or bits < 0 or code == 15:
    return None
  at = 5  # behind the coded number, which takes a byte for each leading one of its first, or one
  ones = f"{head[4]:08b}".index("0") if head[4] < 255 else 8
  at += max(0, ones - 1)
  at += {6: 1, 7: 2}.get(block, 0)
  rate = _FLAC_RATES[code] if code < len(_FLAC_RATES) else 0
  if code == 12:
    rate = head[at] * 1000
  elif code > 12:
    rate = int.from_bytes(head[at : at + 2], "big") * (10 if code == 14 else 1)
  return rate, layout + 1 if layout < 8 else 2, bits
