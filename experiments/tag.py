r"""Names what is heard in recordings and streams, with MN and DyMN.

    python -m experiments.tag clip.wav folder/ --weights mn10_as_mAP_471.pt
    python -m experiments.tag long.mp3 --weights mn10_as_mAP_471.pt --window 10 --hop 2.5 \
      --csv tags.csv --picture tags.png
    arecord -f S16_LE -r 32000 -t raw | python -m experiments.tag --stream --weights ...

Files of any length, rate and number of channels, in the formats that libsndfile reads: WAV, FLAC,
Ogg, Opus, MP3, AIFF, AU. docs/tagging.md tells the rest.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Literal

import numpy as np

from experiments.audio_formats import passed_over, paths_of
from experiments.tagging import outputs, stream
from experiments.tagging.files import Plan, Tagged, tag_files
from experiments.tagging.labels import Label, find_labels, top_tags
from experiments.tagging.models import Tagger, open_tagger
from experiments.tagging.stream import PcmFormat
from experiments.training import cli
from experiments.training.errors import UsageError
from mobile_jax.scene_config import SCENES
from mobile_jax.scene_config import SECONDS as SCENE_SECONDS
from pipelines.progress import Progress

WINDOW_SECONDS = 10.0  # that the published taggers were trained on
PUBLISHED_SCENES = "cp_mobile_dcase23"
STREAM_HOP_SECONDS = 2.0
MOST_SECONDS = 3600.0  # of a window, which is held and computed in one piece
TAGS_IN_CLIP, TAGS_IN_WINDOW = 10, 3
MANY_LENGTHS = 20


@dataclasses.dataclass(frozen=True)
class TagConfig:
  """What to tag, by what, and what to write."""

  # recordings (wav, flac, ogg, opus, mp3, aiff, au), or folders of them
  files: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
  # .pt or .safetensors, or a folder that holds the model's published file; several are an ensemble
  # (the mean of their logits); empty: the model's file in the current folder
  weights: tuple[str, ...] = ()
  # a published name such as mn04_as or dymn10_as, or one for each file of weights; empty: by the
  # name of the weight file, and mn10_as without weights
  model: tuple[str, ...] = ()
  labels: str = ""  # CSV (index, mid, display_name); empty: beside the weights, else numbers
  k: int | None = None  # tags to show; none is 10, and 3 in each line of windows and streams
  whole: bool = False  # one pass over each file, however long, as released
  over_windows: Literal["mean", "max"] = "mean"  # how the 10 s windows of a long file are joined
  # seconds: tags over time; none is off, or with --hop what the network was trained on (10 or 1)
  window: float | None = None
  hop: float | None = None  # seconds between windows; none is a quarter of --window
  json: str = ""  # also write JSON here; - or *.jsonl: a line for each file, as it is done
  csv: str = ""  # also write CSV here, a row for each tag; - is standard output
  picture: str = ""  # PNG of one file's tags over time, with --window
  batch: int = 8  # windows that go through the network side by side
  # seconds: clips shorter than 10 s are repeated up to a multiple of this, so that folders of many
  # lengths need few compilations; 0: exact
  round: float = 0.0
  stream: bool = False  # tag raw PCM from standard input: --window (10 s) every --hop (2 s)
  rate: int = 32_000  # Hz of the stream
  channels: int = 1  # of the stream, interleaved
  format: PcmFormat = "s16le"  # of the stream's samples
  about: str = "files, folders, or with --stream standard input"


def main(cfg: TagConfig) -> int:
  """Tags files or a stream; 1 where a file was unusable, else 0."""
  check(cfg)
  if cfg.stream:
    return tag_standard_input(cfg)
  if not cfg.files:
    raise UsageError(f"name at least one audio file or folder{cli.swallowed(cfg)}")
  paths = paths_of(cfg.files)
  if note := passed_over(cfg.files):
    _say(f"tag: {note}")
  if cfg.picture and len(paths) > 1:
    raise UsageError(f"--picture draws one file, but {len(paths)} were named")
  plan = plan_of(cfg)
  tagger, labels = _open(cfg, plan.window or default_window(cfg))
  quiet = outputs.STDOUT in (cfg.json, cfg.csv)
  # On a terminal the results themselves show how far it is.
  silent = len(paths) == 1 or (sys.stdout.isatty() and not quiet)
  bar = Progress("tagging", len(paths), "files", math.inf if silent else 2.0)
  unusable, hinted = 0, False
  with outputs.open_outputs(cfg.json, cfg.csv, _about(cfg)) as written, bar:
    for file in tag_files(paths, tagger, plan):
      if file.error:
        unusable += 1
        _say(f"tag: {file.error}")
      elif not quiet:
        print(text_of(cfg, file, labels), flush=True)
      for output in written:
        output.add(record_of(cfg, file, labels))
      if cfg.picture and not file.error:
        _draw(cfg, file, labels, tagger.rate)
      bar.add()
      if len(tagger.lengths) > MANY_LENGTHS and not hinted and not cfg.round:
        hinted = True
        _say("tag: clips of many lengths, a compilation each; --round 1 shares them, inexactly")
  if unusable and len(paths) > 1:
    _say(f"tag: {unusable} of {len(paths)} files could not be used")
  return 1 if unusable else 0


def check(cfg: TagConfig) -> None:
  """Raises UsageError for settings that do not go together."""
  windowed = cfg.window is not None or cfg.hop is not None
  for name, value in (("window", cfg.window), ("hop", cfg.hop)):
    if value is not None and not 0.02 <= value <= MOST_SECONDS:
      raise UsageError(f"--{name} {value:g}: give seconds, from 0.02 to {MOST_SECONDS:g} (an hour)")
  for name, least in (("batch", 1), ("channels", 1), ("rate", 1000)):
    if getattr(cfg, name) < least:
      raise UsageError(f"--{name} {getattr(cfg, name)}: at least {least}")
  if cfg.k is not None and cfg.k < 1:
    raise UsageError(f"--k {cfg.k}: at least one tag must be shown")
  if cfg.round and not 0.02 <= cfg.round <= MOST_SECONDS:
    raise UsageError(
      f"--round {cfg.round:g}: give seconds, from 0.02 to {MOST_SECONDS:g} (an hour), "
      "or 0 for exact results"
    )
  if cfg.whole and (windowed or cfg.stream):
    raise UsageError("--whole is one pass over a file; leave out --window, --hop and --stream")
  if cfg.picture and (cfg.stream or not windowed):
    raise UsageError("--picture draws a file's tags over time; add --window 4 (seconds), say")
  if cfg.picture and not cfg.picture.lower().endswith(".png"):
    raise UsageError(f"--picture {cfg.picture}: end the name in .png")
  if cfg.stream and cfg.files:
    raise UsageError("--stream tags standard input; name no files, or leave --stream out")
  if cfg.stream and sys.stdin is not None and sys.stdin.isatty():
    raise UsageError(
      "--stream reads raw PCM from standard input; pipe it in, as from "
      "`arecord -f S16_LE -r 32000 -t raw` or `ffmpeg -i FILE -ar 32000 -ac 1 -f s16le -`"
    )


def default_window(cfg: TagConfig) -> float:
  """Seconds that the networks were trained on."""
  return SCENE_SECONDS if _published_scenes(cfg) else WINDOW_SECONDS


def _published_scenes(cfg: TagConfig) -> bool:
  return PUBLISHED_SCENES in (*cfg.model, *(Path(name).stem for name in cfg.weights))


def plan_of(cfg: TagConfig) -> Plan:
  """How files are cut."""
  if cfg.whole:
    return Plan(window=None)
  if cfg.window is None and cfg.hop is None:
    return Plan(default_window(cfg), default_window(cfg), "back", cfg.round)
  window = cfg.window or default_window(cfg)
  return Plan(window, cfg.hop or window / 4, "pad")


def text_of(cfg: TagConfig, file: Tagged, labels: tuple[Label, ...]) -> str:
  """What is printed for a file."""
  plan = plan_of(cfg)
  if plan.end == "pad" and plan.window:
    k = cfg.k or TAGS_IN_WINDOW
    return outputs.windows_text(file, labels, k, plan.window, plan.hop)
  tags = top_tags(file.summary(cfg.over_windows), labels, cfg.k or TAGS_IN_CLIP)
  return outputs.clip_text(file, tags)


def record_of(cfg: TagConfig, file: Tagged, labels: tuple[Label, ...]) -> outputs.Record:
  """What JSON and CSV hold for a file."""
  name: outputs.Record = {"file": str(file.path)}
  if file.error:
    return name | {"error": file.error}
  k = cfg.k or TAGS_IN_CLIP
  name |= {"seconds": round(file.seconds, 6)}
  if plan_of(cfg).end == "pad":
    return name | {"windows": outputs.windows_of(file, labels, k)}
  tags = top_tags(file.summary(cfg.over_windows), labels, k)
  return name | {"tags": outputs.tag_records(tags)}


def tag_standard_input(cfg: TagConfig) -> int:
  """Tags the stream until it ends."""
  window, hop = cfg.window or default_window(cfg), cfg.hop or STREAM_HOP_SECONDS
  tagger, labels = _open(cfg, window)
  size, step = (round(t * tagger.rate) for t in (window, hop))
  if size < tagger.min_samples:
    raise UsageError(f"--window {window:g}: at least {tagger.min_samples / tagger.rate:.3f} s")
  tagger.probabilities(np.zeros((1, size), np.float32))  # compiled before the first sample
  waves = stream.pcm_waves(sys.stdin.buffer, cfg.format, cfg.channels, cfg.rate, tagger.rate)
  decimals = outputs.decimals_of(hop)

  def slow(seconds: float) -> None:
    _say(
      f"tag: cannot keep up: a line takes {seconds:.2f} s, one is due every {hop:g} s; "
      "give a longer --hop or a smaller model"
    )

  quiet = outputs.STDOUT in (cfg.json, cfg.csv)
  with outputs.open_outputs(cfg.json, cfg.csv, {}, lines=True) as written:
    for line in stream.tag_stream(
      waves, tagger.probabilities, rate=tagger.rate, window=size, hop=step, slow=slow
    ):
      if not quiet:
        tags = top_tags(line.probabilities, labels, cfg.k or TAGS_IN_WINDOW)
        print(f"{outputs.clock(line.end, decimals):>9}  {outputs.one_line(tags)}", flush=True)
      k = cfg.k or TAGS_IN_CLIP
      for output in written:
        output.add(outputs.window_record(*line, labels, k))
  return 0


def _open(cfg: TagConfig, window: float) -> tuple[Tagger, tuple[Label, ...]]:
  tagger, weights = open_tagger(cfg.weights, cfg.model, window, cfg.batch)
  labels, note = find_labels(cfg.labels, weights, tagger.classes)
  if note and _published_scenes(cfg):
    labels, note = tuple(Label(name) for name in SCENES), None
  if note:
    _say(f"tag: {note}")
  return tagger, labels


def _about(cfg: TagConfig) -> outputs.Record:
  plan = plan_of(cfg)
  how = {"window": plan.window, "hop": plan.hop} if plan.end == "pad" else {"whole": cfg.whole}
  return {"weights": [Path(w).name for w in cfg.weights], "model": list(cfg.model), **how}


def _draw(cfg: TagConfig, file: Tagged, labels: tuple[Label, ...], rate: int) -> None:
  from experiments.tagging.heatmap import envelope, heatmap

  wave = envelope(file.path, rate, file.seconds)
  k = cfg.k or TAGS_IN_CLIP
  _say(f"tag: drew {heatmap(file, labels, wave, cfg.picture, k=k, hop=plan_of(cfg).hop)}")


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
  cli.run_main(
    main,
    {"default": TagConfig()},
    prog="tag",
    default="default",
    description=(__doc__ or "").split("\n")[0],
  )
