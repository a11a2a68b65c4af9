"""Other microphones by their impulse responses, on the device.

    wave f32[b, s] * response f32[n] --> the first s samples of the full convolution

No delay is taken out and nothing is normalised: peaks may go beyond 1, as in the released code.

Source: reference text of the scene models, section 5.2; Morocutti et al. 2023.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from pipelines import decode
from pipelines.errors import BadAudio, DataError

# Of which clips the probability is one: of those that the main device recorded, as in the released
# code, or of all of them, as the paper has it.
Of = Literal["main_device", "all_devices"]


@dataclasses.dataclass(frozen=True, eq=False)
class Responses:
  """Microphones that a clip may be heard through, and when.

  Attributes:
    waves: one response in each row, padded with zeros.
    probability: of a clip that `of` allows.
    of: see `Of`.
  """

  waves: Float[np.ndarray, "n r"]
  probability: float
  of: Of = "main_device"

  @property
  def digest(self) -> str:
    """Tells two sets of responses apart."""
    content = np.ascontiguousarray(self.waves)
    return hashlib.blake2b(content.tobytes(), digest_size=12).hexdigest()

  def draw(self, key: Key[Array, ""], main_device: Bool[Array, " b"]) -> Int[Array, " b"]:
    """The number of each clip's response, -1 for none; see `draw_responses`."""
    return draw_responses(key, main_device, len(self.waves), self.probability, self.of)

  def through(self, wave: Float[Array, "b s"], which: Int[Array, " b"]) -> Float[Array, "b s"]:
    """Each wave through the response of this number; see `convolve_responses`."""
    return convolve_responses(wave, jnp.asarray(self.waves), which)


def draw_responses(
  key: Key[Array, ""],
  main_device: Bool[Array, " b"],
  responses: int,
  probability: float,
  of: Of = "main_device",
) -> Int[Array, " b"]:
  """Number of the response of each clip, -1 for none.

  main_device: whether the clip was recorded by it; with "main_device" the others are never touched,
  so of a set that is mostly recorded by it a smaller share than `probability` is changed.
  """
  if not 0 <= probability <= 1:
    raise ValueError(f"probability is {probability}; it must be from 0 (off) to 1")
  for_use, for_which = jax.random.split(key)
  rows = main_device.shape[0]
  used = jax.random.uniform(for_use, (rows,)) < probability
  if of == "main_device":
    used = used & main_device
  return jnp.where(used, jax.random.randint(for_which, (rows,), 0, responses), -1)


def convolve_responses(
  wave: Float[Array, "b s"], responses: Float[Array, "n r"], which: Int[Array, " b"]
) -> Float[Array, "b s"]:
  """Each wave through the response of this number, cut to its length; unchanged at -1.

  responses: padded with zeros at their ends. The convolution is a product of spectra.
  """
  samples = wave.shape[1]
  length = 1 << (samples + responses.shape[1] - 2).bit_length()
  spectrum = jnp.fft.rfft(responses[jnp.maximum(which, 0)], length)
  heard = jnp.fft.irfft(jnp.fft.rfft(wave, length) * spectrum, length)[:, :samples]
  return jnp.where((which >= 0)[:, None], heard, wave)


def read_responses(
  folder: str | Path, rate: int, names: Sequence[str] = ()
) -> Float[np.ndarray, "n r"]:
  """Audio files of a folder, mono at `rate` Hz, padded to the longest.

  names: of the files; without any, every file, sorted by name.
  Raises DataError where there is none, or where one cannot be read.
  """
  root = Path(folder).expanduser()
  files = [root / name for name in names] or _files(root)
  waves = [_read(path, rate) for path in files]
  padded = np.zeros((len(waves), max(map(len, waves))), np.float32)
  for row, wave in zip(padded, waves, strict=True):
    row[: len(wave)] = wave
  return padded


def _files(folder: Path) -> Sequence[Path]:
  found = []
  if folder.is_dir():
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in decode.AUDIO_SUFFIXES)
  if not found:
    raise DataError(f"impulse responses: no audio file in {str(folder)!r}")
  return found


def _read(path: Path, rate: int) -> np.ndarray:
  try:
    frames, _ = decode.header(str(path))
    wave, given = decode.read_span(str(path), 0, frames)
    decode.check_finite(wave)
  except BadAudio as error:
    raise DataError(f"impulse responses: {str(path)!r}: {error}") from None
  if not np.any(wave):
    raise DataError(f"impulse responses: {str(path)!r}: silent")
  return decode.resample(decode.mono(wave), given, rate)
