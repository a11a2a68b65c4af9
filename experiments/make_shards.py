"""Turns any source into training shards.

    python -m experiments.make_shards SOURCE... DEST [--clips_per_shard 1000] [--kind tar]

SOURCE is what `data.source` takes: a folder, a manifest, shards, "tfds:NAME", or synthetic. DEST is
a folder, and a `data.source` itself afterwards. A stopped run goes on where it was.
"""

import dataclasses
import logging

from experiments.training import cli
from experiments.training.errors import UsageError
from pipelines.config import DataConfig
from pipelines.dataset import open_dataset
from pipelines.shards import ShardPlan, write_shards


@dataclasses.dataclass(frozen=True)
class MakeShards(ShardPlan):
  """Settings of make_shards."""

  # one or more sources, then the folder for the shards
  paths: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
  # split of a TFDS source
  split: str = "train"
  # folder of prepared TFDS data sets; empty: the default of TFDS
  data_dir: str = ""
  # share of unusable recordings past which the work stops
  max_bad_share: float = 0.01
  # encoding threads, 0: one per core
  workers: int = 0
  about: str = "FLAC at 16 kHz in TFRecord files"


EXPERIMENTS = {
  "default": MakeShards(),
  "webdataset": MakeShards(kind="tar", about="FLAC at 16 kHz in WebDataset tar files"),
}


def main(cfg: MakeShards) -> int:
  """Writes the shards and says what it did."""
  if len(cfg.paths) < 2:
    raise UsageError(
      "make_shards needs a SOURCE and a DEST folder, such as: make_shards wavs shards"
    )
  *sources, folder = cfg.paths
  logging.basicConfig(format="%(message)s")
  data = DataConfig(
    source=tuple(sources),
    split=cfg.split,
    data_dir=cfg.data_dir,
    workers=cfg.workers,
    max_bad_share=cfg.max_bad_share,
  )
  dataset = open_dataset(data, part="all")
  plan = ShardPlan(**{f.name: getattr(cfg, f.name) for f in dataclasses.fields(ShardPlan)})
  done = write_shards(dataset, folder, plan, cfg.workers)
  text = f"{folder}: {done.shards} shards, {done.made} made now"
  text += f" ({done.recordings:,} recordings, {done.bytes / 1e6:,.1f} MB)"
  if done.skipped:
    name, reason = done.skipped[0]
    text += f"; left out {len(done.skipped)} unusable, such as {name}: {reason}"
  print(text)
  return 0


if __name__ == "__main__":
  cli.run_main(
    main,
    EXPERIMENTS,
    prog="make_shards",
    default="default",
    description="Turns any source of recordings into training shards.",
  )
