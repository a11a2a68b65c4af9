"""What audio a run reads, and how it is cut: one frozen dataclass that every entry point shares."""

import dataclasses
import difflib
import math

from pipelines.errors import DataError

CROPS = ("sequential", "random", "single", "first", "pieces", "whole")
ORDERS = ("global", "shards", "importance", "balanced")
BY_LABELS = ("importance", "balanced")
CACHES = ("none", "memory")


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Settings of the audio pipeline. Invalid values raise DataError with the fix."""

  # each: "synthetic", "synthetic:CLIPS", a folder, a .csv/.tsv/.jsonl manifest, tar or TFRecord
  # shards ("x-{000..099}.tar"), an .hdf file, or "tfds:NAME"
  source: tuple[str, ...] = ("synthetic",)
  # mixing weights, one per source; none: the sources are joined and each clip is equally likely
  weights: tuple[float, ...] = ()
  # split of a TFDS source
  split: str = "train"
  # folder of prepared TFDS data sets; empty: the default of TFDS
  data_dir: str = ""
  # Hz, of the waves handed over
  sample_rate: int = 16_000
  # length of a clip
  crop_seconds: float = 10.0
  # "sequential": back to back from the start, remainder dropped; "random": as many, but each start
  # is a pure function of (seed, epoch, clip); "single": one random crop of each recording;
  # "first": the first of each recording; "pieces": back to back, the remainder padded with zeros;
  # "whole": each recording at its own length, for evaluation alone
  crop: str = "sequential"
  # with crop "whole", lengths are rounded up to multiples of this, with zeros; 0: left as they are
  grid_seconds: float = 0.0
  # "global": a permutation of all clips; "shards": shards are permuted, each is read through;
  # "importance": each epoch draws clips without replacement, those of rare classes more often;
  # "balanced": each epoch draws as many clips as there are, every class equally often
  order: str = "global"
  # clips that an epoch draws under order "importance"
  samples_per_epoch: int = 100_000
  # share of recordings, chosen by a stable hash of their id, kept out of training
  holdout: float = 0.0
  # share of the audio of training that is used, source by source in whole recordings; what a
  # smaller share holds, a larger one holds too, and the part held out stays as it is
  share: float = 1.0
  # which recordings these are
  share_seed: int = 0
  # "memory": decode each recording once and keep it in RAM (small sets; needs no TensorFlow)
  cache: str = "none"
  # decoding threads, 0: one per core; never changes what a batch holds
  workers: int = 0
  # batches prepared ahead of the consumer
  prefetch: int = 2
  # how long one read may take (a clip, a header, one record of a shard, some minutes of a long
  # recording), however many a file needs, before the run stops and names the file; 0: for ever
  stall_seconds: float = 300.0
  # share of unusable recordings past which the run stops
  max_bad_share: float = 0.01

  def __post_init__(self):
    if isinstance(
      self.source, str
    ):  # a lone string is what most people type; a tuple of letters is never meant
      object.__setattr__(self, "source", (self.source,))
    object.__setattr__(self, "source", tuple(self.source))
    object.__setattr__(self, "weights", tuple(float(w) for w in self.weights))
    if not self.source or not all(isinstance(s, str) and s for s in self.source):
      raise DataError(
        "data.source is empty; give a folder, a manifest, shards, tfds:NAME or synthetic"
      )
    if self.weights and len(self.weights) != len(self.source):
      raise DataError(
        f"data.weights has {len(self.weights)} entries for {len(self.source)} sources; "
        "give one per source or none"
      )
    if any(not (math.isfinite(w) and w > 0) for w in self.weights):
      raise DataError(
        f"data.weights must all be positive, got {self.weights}; leave a source out instead of 0"
      )
    for name, choices in (("crop", CROPS), ("order", ORDERS), ("cache", CACHES)):
      _check_choice(name, getattr(self, name), choices)
    if self.order in BY_LABELS and self.weights:
      raise DataError(
        f"data.order {self.order!r} weighs every clip by its labels; leave data.weights empty"
      )
    if self.samples_per_epoch < 1:
      raise DataError(f"data.samples_per_epoch is {self.samples_per_epoch}; give at least 1")
    if not 1_000 <= self.sample_rate <= 384_000:
      raise DataError(
        f"data.sample_rate is {self.sample_rate} Hz; give 1000 to 384000 (usual: 16000)"
      )
    if not (math.isfinite(self.crop_seconds) and self.crop_samples >= 1):
      raise DataError(
        f"data.crop_seconds is {self.crop_seconds}; give at least one sample, such as 10"
      )
    if not (math.isfinite(self.grid_seconds) and self.grid_seconds >= 0):
      raise DataError(
        f"data.grid_seconds is {self.grid_seconds}; give seconds such as 0.32, or 0 for none"
      )
    if not 0.0 <= self.holdout < 1.0:
      raise DataError(
        f"data.holdout is {self.holdout}; it is a share of the recordings in [0, 1), such as 0.05"
      )
    if not 0.0 < self.share <= 1.0:
      raise DataError(
        f"data.share is {self.share}; it is a share of the training audio in (0, 1], such as 0.25"
      )
    if not 0.0 <= self.max_bad_share <= 1.0:
      raise DataError(
        f"data.max_bad_share is {self.max_bad_share}; it is a share in [0, 1], such as 0.01"
      )
    if not (math.isfinite(self.stall_seconds) and self.stall_seconds >= 0):
      raise DataError(
        f"data.stall_seconds is {self.stall_seconds}; give seconds such as 300, or 0 to wait for "
        "ever"
      )
    if self.workers < 0:
      raise DataError(
        f"data.workers is {self.workers}; give 0 for one thread per core, or a positive number"
      )
    if self.prefetch < 1:
      raise DataError(f"data.prefetch is {self.prefetch}; give at least 1 batch")

  @property
  def crop_samples(self) -> int:
    """Samples of a clip at `sample_rate`."""
    return round(self.crop_seconds * self.sample_rate) if math.isfinite(self.crop_seconds) else 0


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DataError(f"data.{name} is {value!r}; choose one of {', '.join(choices)}{hint}")
