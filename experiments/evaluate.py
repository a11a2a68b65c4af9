r"""Evaluates frozen encoders on labelled sets, beside features that need no training.

    python -m experiments.evaluate --checkpoint encoder.safetensors --rivals \
      --tasks spoken_digits=FOLDER esc10=FOLDER synthetic
    python -m experiments.evaluate --suite knn linear mlp attention --seeds 3 \
      --checkpoint runs/night random:runs/night mn04_as_mAP_432.pt log_mel \
      --tasks spoken_digits=FOLDER speaker=FOLDER esc10=FOLDER hear=ARCHIVE.tar.gz \
      --out results.md results.json --picture results.png

Every suite leaves out one group (a speaker, a fold) at a time and learns from the others: `knn`
lets the nearest neighbours vote, `linear` fits a logistic regression, `mlp` a perceptron, and
`attention` weighs the frames of a clip. Embeddings are kept, so a second run only fits the probes.
`hear` and `xares` are benchmarks with protocols of their own (docs/hear.md, docs/xares.md).
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Literal

from experiments.embedding.module import MODULE
from experiments.evaluation import report
from experiments.evaluation.cache import cache_root
from experiments.evaluation.comparison import SUITES, Probes, Suite, compare, table
from experiments.evaluation.comparison_picture import bars, check_picture
from experiments.evaluation.embed import Pooling
from experiments.evaluation.encoders import FEATURES, RANDOM, name_of, open_encoder
from experiments.evaluation.feature_sets import JOINT, asked, columns_of
from experiments.evaluation.hear.config import HearConfig
from experiments.evaluation.rivals import RIVAL_SPECS
from experiments.evaluation.trained import AttentionConfig, MlpConfig
from experiments.evaluation.xares.config import XaresConfig
from experiments.training import cli
from experiments.training.errors import UsageError
from pipelines.tasks import open_task

# What benchmarks settle themselves.
_OF_PROBES = (
  "apart",
  "pooling",
  "k",
  "metric",
  "c",
  "seeds",
  "mlp",
  "attention",
  "cache",
  "picture",
)


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
  """What to evaluate, on what, and how."""

  # the ways of evaluating: probes, any of which stand in one table, or a benchmark
  suite: tuple[Literal[Suite, "hear", "xares"], ...] = ("knn",)
  # encoders: weight files, folders of Dasheng runs, random:NAME, random:RUN, log_mel, log_mel_50db,
  # and anyone's with the HEAR interface: module:NAME, module:NAME:WEIGHTS
  checkpoint: tuple[str, ...] = ()
  # of MN and DyMN: some of blocks, mel, se, clf1, clf2, logits, all_blocks, b0 to b15
  features: tuple[str, ...] = FEATURES
  # of probes: each of --features is a row of its own, from one pass; blocks+mel joins two
  apart: bool = False
  tasks: tuple[str, ...] = ("synthetic",)  # NAME=FOLDER, or synthetic
  rivals: bool = False  # also evaluate features that need no training
  pooling: Pooling = "mean"  # of Dasheng's output over time
  k: int = 10  # of knn: neighbours that vote
  metric: Literal["cosine", "euclidean"] = "cosine"  # of knn: distance between clips
  c: float = 1.0  # of the linear suite: the losses' weight against half the squared weights
  seeds: int = 1  # of mlp and attention: runs with other draws, for mean and deviation
  mlp: MlpConfig = dataclasses.field(default_factory=MlpConfig)
  attention: AttentionConfig = dataclasses.field(default_factory=AttentionConfig)
  cache: str = "auto"  # folder that keeps embeddings; auto is the user's own, off keeps nothing
  out: tuple[str, ...] = ()  # also write the results here, as .json, .csv or .md
  picture: str = ""  # also draw them here, as .png, .svg or .pdf
  # of the suite hear, which has tasks of its own, and of the suite xares
  hear: HearConfig = dataclasses.field(default_factory=HearConfig)
  xares: XaresConfig = dataclasses.field(default_factory=XaresConfig)


def main(cfg: EvaluateConfig) -> None:
  """Prints a markdown table, a row for each encoder and task; writes and draws if asked."""
  specs = encoders_of(cfg)
  suites = check(cfg)
  if cfg.suite == ("hear",):
    hear_suite(cfg, specs)
    return
  if cfg.suite == ("xares",):
    xares_suite(cfg, specs)
    return
  # All tasks and encoders are opened before the first clip is embedded: mistakes show at once.
  tasks = [open_task(spec) for spec in dict.fromkeys(cfg.tasks)]
  open_one = functools.partial(
    open_encoder,
    features=asked(cfg.features) if cfg.apart else cfg.features,
    pooling=cfg.pooling,
    timestamps="attention" in suites,
  )
  encoders = {name_of(spec, specs): open_one(spec) for spec in specs}
  sets = {name: columns_of(one, cfg.features) for name, one in encoders.items() if cfg.apart}
  if cfg.apart and not any(sets.values()):
    raise UsageError("--apart: none of the encoders is an MN or a DyMN, which have feature sets")
  probes = Probes(cfg.k, cfg.metric, cfg.c, cfg.seeds, cfg.mlp, cfg.attention)
  say = functools.partial(print, file=sys.stderr, flush=True)
  rows = compare(encoders, tasks, suites, probes, cache_root(cfg.cache), say, sets)
  shown = table(rows, suites)
  print(shown)
  for path in cfg.out:
    report.write_report(path, [record for row in rows for record in row.records()], shown)
  if cfg.picture:
    bars(rows, suites, check_picture(cfg.picture))


def encoders_of(cfg: EvaluateConfig) -> tuple[str, ...]:
  """Specs of everything to evaluate, each once. Raises UsageError for nothing."""
  specs = tuple(dict.fromkeys((*cfg.checkpoint, *(RIVAL_SPECS if cfg.rivals else ()))))
  if not specs:
    raise UsageError("nothing to evaluate: give --checkpoint FILE, or --rivals, or both")
  return specs


def hear_suite(cfg: EvaluateConfig, specs: Sequence[str]) -> None:
  """The HEAR benchmark's own tasks and predictor (`experiments.evaluation.hear`)."""
  from experiments.evaluation.hear.models import models_of
  from experiments.evaluation.hear.run import run_hear

  run_hear(cfg.hear, models_of(specs, cfg.features), cfg.out)


def xares_suite(cfg: EvaluateConfig, specs: Sequence[str]) -> None:
  """The protocols of X-ARES (`experiments.evaluation.xares`)."""
  from experiments.evaluation.xares import suite

  unfit = [s for s in specs if s in RIVAL_SPECS or s.startswith((RANDOM, MODULE))]
  if unfit:
    raise UsageError(f"--checkpoint {unfit[0]}: the suite xares scores weight files alone")
  files = [(name_of(spec, specs), spec) for spec in specs]
  suite.run(files, cfg.tasks, cfg.features, cfg.xares, cfg.out)


def check(cfg: EvaluateConfig) -> tuple[Suite, ...]:
  """The probes that were asked for. Raises UsageError for settings that no evaluation can have."""
  if not cfg.suite:
    raise UsageError("--suite is empty: name one or more, such as --suite knn linear")
  probes: list[Suite] = [suite for suite in SUITES if suite in cfg.suite]
  benchmarks = [suite for suite in cfg.suite if suite not in SUITES]
  if benchmarks and len(cfg.suite) > 1:
    raise UsageError(f"--suite {benchmarks[0]}: is a benchmark; run it without other suites")
  plain = EvaluateConfig()
  given = [name for name in _OF_PROBES if getattr(cfg, name) != getattr(plain, name)]
  if benchmarks and given:
    raise UsageError(f"--{given[0]}: is of probes; the suite {benchmarks[0]} takes it not")
  if not cfg.tasks:
    raise UsageError("--tasks is empty: give NAME=FOLDER, or synthetic")
  _check_features(cfg)
  if cfg.k < 1:
    raise UsageError(f"--k {cfg.k}: at least one neighbour must vote")
  if not cfg.c > 0:
    raise UsageError(f"--c {cfg.c:g}: it must be more than 0")
  if cfg.seeds < 1:
    raise UsageError(f"--seeds {cfg.seeds}: at least one run is needed")
  for name in ("mlp", "attention"):
    _check_fit(name, getattr(cfg, name))
  for path in cfg.out:
    report.check_output(path)
  if cfg.picture:
    check_picture(cfg.picture)
  return tuple(probes)


def _check_features(cfg: EvaluateConfig) -> None:
  if not cfg.features:
    raise UsageError("--features is empty: name some of blocks, mel, se, clf1, clf2, logits")
  joint = [name for name in cfg.features if JOINT in name]
  if joint and not cfg.apart:
    sets = " ".join(asked(joint[:1]))
    raise UsageError(f"--features {joint[0]}: sets are joined under --apart; else write {sets}")
  rows = [frozenset(name.split(JOINT)) for name in cfg.features]
  if cfg.apart and len(set(rows)) < len(rows):
    raise UsageError("--features: under --apart each row must be another one")


def _check_fit(name: str, cfg: MlpConfig | AttentionConfig) -> None:
  least = {"epochs": 1, "patience": 1, "batch": 1, "hidden": 1}
  for field, limit in least.items():
    if getattr(cfg, field, limit) < limit:
      raise UsageError(f"--{name}.{field} {getattr(cfg, field)}: at least {limit}")
  if not 0 < cfg.held_out < 1:
    raise UsageError(f"--{name}.held_out {cfg.held_out:g}: a share between 0 and 1")
  if not 0 <= cfg.dropout < 1:
    raise UsageError(f"--{name}.dropout {cfg.dropout:g}: from 0 to below 1")
  if not cfg.peak_lr > 0:
    raise UsageError(f"--{name}.peak_lr {cfg.peak_lr:g}: it must be more than 0")


if __name__ == "__main__":
  cli.run_main(
    main,
    {"knn": EvaluateConfig()},
    prog="evaluate",
    default="knn",
    description=(__doc__ or "").split("\n")[0],
  )
