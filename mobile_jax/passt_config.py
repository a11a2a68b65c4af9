"""Configuration of PaSST (reference text of the scene models, section 4)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from dasheng_jax.config import ComputeConfig
from dasheng_jax.errors import ConfigError
from pipelines.kaldi_mel import KaldiMelConfig

# AudioSet's front end, and that of scene fine-tuning, whose band is drawn less widely.
AUDIOSET_MEL = KaldiMelConfig(freq_mask=48, time_mask=192, mask_sharing="batch")
SCENE_MEL = dataclasses.replace(AUDIOSET_MEL, fmin_range=1, fmax_range=1000, time_mask=20)
_PLAIN = ComputeConfig()


@dataclasses.dataclass(frozen=True)
class PaSSTConfig:
  """The transformer teacher.

  Args:
    classes: outputs.
    width, depth, heads, mlp_ratio: of the blocks.
    patch, stride: side of a patch, and cells from one to the next, in bands and frames.
    columns: of the time table; more of the input is cut off.
    objective: whether a clip has one class or tags, which no weight tells.
    patchout_time, patchout_frequency: columns and rows of the patch map that a training step leaves
      out (s_patchout_t and s_patchout_f of the released code).
    patchout_tokens: patches that it leaves out besides (u_patchout).
  """

  classes: int = 10
  width: int = 768
  depth: int = 12
  heads: int = 12
  mlp_ratio: float = 4.0
  patch: int = 16
  stride: int = 10
  columns: int = 99
  patchout_time: int = 0
  patchout_frequency: int = 6
  patchout_tokens: int = 0
  objective: Literal["classes", "tags"] = "classes"
  mel: KaldiMelConfig = SCENE_MEL
  compute: ComputeConfig = _PLAIN

  dropout: ClassVar[float] = 0.0

  def __post_init__(self):
    for name in ("classes", "width", "depth", "heads", "mlp_ratio", "patch", "stride", "columns"):
      if not getattr(self, name) > 0:
        raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0")
    if self.width % self.heads:
      raise ConfigError(f"width {self.width} is not divisible by {self.heads} heads")
    if self.mel.mel_bins < self.patch:
      raise ConfigError(f"mel.mel_bins is {self.mel.mel_bins}; a patch needs {self.patch}")
    if self.objective not in ("classes", "tags"):
      raise ConfigError(f"objective is {self.objective!r}; choose from classes, tags")
    for name in ("patchout_time", "patchout_frequency", "patchout_tokens"):
      if getattr(self, name) < 0:
        raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 (off) or more")
    if self.patchout_frequency >= self.rows or self.patchout_time >= self.columns:
      raise ConfigError(
        f"patchout leaves out {self.patchout_frequency} of {self.rows} rows and "
        f"{self.patchout_time} of {self.columns} columns; something has to stay"
      )

  @property
  def least_frames(self) -> int:
    """Of a log-mel that fills one patch."""
    return self.patch

  @property
  def rows(self) -> int:
    """Of the patch map, and of the frequency table."""
    return (self.mel.mel_bins - self.patch) // self.stride + 1

  @property
  def features(self) -> int:
    """Numbers of the pooled features."""
    return self.width

  def with_compute(self, **changes):
    """The same model computed in another way, e.g. `cfg.with_compute(dtype="bfloat16")`."""
    return dataclasses.replace(self, compute=dataclasses.replace(self.compute, **changes))


PASST_SIZES: dict[str, PaSSTConfig] = {
  "passt_scenes": PaSSTConfig(),
  "passt_as": PaSSTConfig(
    classes=527, patchout_time=40, patchout_frequency=4, objective="tags", mel=AUDIOSET_MEL
  ),
}
