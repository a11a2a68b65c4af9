r"""Writes scene and timestamp embeddings of recordings, by MN, DyMN or Dasheng.

    python -m experiments.embed music/ --weights mn10_as_mAP_471.pt --out embeddings --timestamps
    python -m experiments.embed a.wav b.flac --weights dasheng_base.pt --out scenes.npz

A folder as `--out` gets a file for each recording, a name that ends in .npz holds all scenes. The
same command goes on where it was stopped. docs/embeddings.md tells the rest.
"""

from __future__ import annotations

import dataclasses
import math
import sys

from experiments.audio_formats import passed_over
from experiments.embedding.load import Dtype, open_embedder
from experiments.embedding.loop import Report, embed_all
from experiments.embedding.recordings import recordings
from experiments.embedding.store import open_store
from experiments.training import cli
from experiments.training.errors import UsageError


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
  """What to embed, by what, and where it goes."""

  # recordings (wav, flac, ogg, opus, mp3, aiff, au), or folders of them
  files: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
  weights: str = ""  # .pt or .safetensors of any family, or the folder of a Dasheng run
  model: str = ""  # mn10_as, dymn04_as, dasheng, ...; empty: by the weight file
  out: str = ""  # a folder for a file per recording, or FILE.npz for all scenes in one
  # MN, DyMN: some of blocks, mel, se, clf1, clf2, logits, all_blocks, b0 to b15; empty: blocks mel
  features: tuple[str, ...] = ()
  # MN, DyMN: avg, max, add, cat, avg_time, avg_max_time; Dasheng: mean, max, mean_std, ...; empty:
  # the first
  pooling: str = ""
  timestamps: bool = False  # also embeddings over time
  window: float | None = None  # MN, DyMN: seconds that a timestamp sees; none is 0.16
  hop: float | None = None  # MN, DyMN: seconds between timestamps; none is 0.05
  dtype: Dtype = "float32"  # of the matrix products
  batch_seconds: float = 80.0  # audio that goes through the network side by side
  workers: int = 0  # reading threads, 0: one per core, at most 4
  about: str = "scenes; with --timestamps also embeddings over time"


def main(cfg: EmbedConfig) -> int:
  """Embeds what is not embedded yet; 1 where recordings were unusable, else 0."""
  for flag, value in (("weights", cfg.weights), ("out", cfg.out)):
    if not value:
      raise UsageError(f"--{flag} is missing: embed FILE_OR_FOLDER... --weights PATH --out OUT")
  if not 0 < cfg.batch_seconds < math.inf:
    raise UsageError(f"--batch_seconds {cfg.batch_seconds:g}: give seconds, more than 0")
  if cfg.workers < 0:
    raise UsageError(f"--workers {cfg.workers}: give --workers at least 0; 0 is one per core")
  if not cfg.files:
    raise UsageError(f"name at least one recording, or a folder of them{cli.swallowed(cfg)}")
  named = recordings(cfg.files)
  if note := passed_over(cfg.files):
    print(f"embed: {note}", file=sys.stderr, flush=True)
  embedder = open_embedder(
    cfg.weights,
    model=cfg.model,
    features=cfg.features,
    pooling=cfg.pooling,
    timestamps=cfg.timestamps,
    window=cfg.window,
    hop=cfg.hop,
    dtype=cfg.dtype,
    batch_seconds=cfg.batch_seconds,
  )
  store = open_store(cfg.out, embedder.settings)
  report = embed_all(named, embedder, store, workers=cfg.workers)
  print(f"{store.finish(list(named), report.unusable)}; {summary(report)}", file=sys.stderr)
  return 1 if report.unusable else 0


def summary(report: Report) -> str:
  """Such as "1,200 embedded (1.67 h), 40 were there, 2 unusable"."""
  parts = [f"{report.made:,} embedded ({report.audio_seconds / 3600:.2f} h)"]
  parts += [f"{report.skipped:,} were there"] if report.skipped else []
  parts += [f"{report.changed:,} had changed"] if report.changed else []
  parts += [f"{len(report.unusable):,} unusable"] if report.unusable else []
  return ", ".join(parts)


if __name__ == "__main__":
  cli.run_main(
    main,
    {"default": EmbedConfig()},
    prog="embed",
    default="default",
    description=(__doc__ or "").split("\n")[0],
  )
