"""Damage as disks, copies and networks do it, drawn by Hypothesis."""

from typing import NamedTuple

from hypothesis import strategies as st

LIES = (
  b"\xff" * 4,
  b"\xff" * 8,
  b"\xff\xff\xff\x7f",
  b"\x00\x00\x00\x80",
  b"\x00" * 7 + b"\x10",
  b"77777777777\0",
  b"\x80" + b"\0" * 3 + b"\x10" + b"\0" * 7,
  b"\x80" + b"\xff" * 11,
  b"1e999",
  b"[" * 60,
  b"../../../",
  b"999999999999",
)


class Damage(NamedTuple):
  """A damaged file.

  data: its bytes. low, high: the stretch outside of which every byte is as it was, at its place;
  high is infinite where bytes came or went, and a cut is no change of the bytes before it.
  """

  data: bytes
  low: float
  high: float


def damaged(original: bytes) -> st.SearchStrategy[Damage]:
  """The original after one to three accidents, never as it was."""
  return _accidents(original).filter(lambda damage: damage.data != original)


@st.composite
def _accidents(draw, original: bytes) -> Damage:
  data = bytearray(original)
  low, high = float("inf"), 0.0
  for _ in range(draw(st.integers(1, 3))):
    if not data:
      break
    kind = draw(st.sampled_from(("flip", "flip", "flip", "cut", "write", "wipe", "lie", "move")))
    # Half of all accidents befall the first bytes, where a file says what it is.
    at = draw(st.integers(0, min(len(data) - 1, 100)) | st.integers(0, len(data) - 1))
    if kind == "cut":
      del data[at:]
      continue
    if kind == "move":
      if draw(st.booleans()):
        del data[at : at + draw(st.integers(1, 600))]
      else:
        data[at:at] = draw(st.binary(min_size=1, max_size=40))
      low, high = min(low, at), float("inf")
      continue
    if kind == "flip":
      new = bytes([data[at] ^ 1 << draw(st.integers(0, 7))])
    elif kind == "write":
      new = draw(st.binary(min_size=1, max_size=60))
    elif kind == "wipe":
      new = bytes([draw(st.sampled_from((0, 255)))]) * draw(st.integers(1, 700))
    else:
      new = draw(st.sampled_from(LIES))
    new = new[: len(data) - at]
    data[at : at + len(new)] = new
    low, high = min(low, at), max(high, at + len(new))
  return Damage(bytes(data), low, high)
