r"""Tables what models cost: parameters, MACs, activation memory, receptive field.

    python -m experiments.complexity mn04 mn10 dymn10
    python -m experiments.complexity mn10 --strides 2 2 2 1 --head fully_convolutional
    python -m experiments.complexity dymn10 --convs depthwise --attention_axes time
    python -m experiments.complexity all --csv > sizes.csv

A model is a size (mn10, dymn04, cp_mobile_32) or a published name (mn10_as_hop_5); `all` stands for
every size of MN and DyMN.
A flag for an option of the model changes it in every model named: every field of `MNConfig` and
`DyMNConfig` that changes a figure is one. `docs/complexity.md` defines the figures.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from typing import Any

import mobile_jax
from dasheng_jax.config import unknown_name
from experiments.training import cli
from experiments.training.errors import UsageError
from experiments.training.fields import field_types
from mobile_jax import complexity
from mobile_jax.config import DyMNConfig, MNConfig
from pipelines.kaldi_mel import KaldiMelConfig

EVERY_SIZE = "all"
# Fields that change no figure, and `frames`, which the command has for every model.
NO_OPTIONS = ("mel", "compute", "dropout", "temperature", "objective", "frames")
# Options of the front end, by the field of its configuration.
FRONT_END = ("mel_bins", "hop_length")
HELP = {
  "classes": "outputs of the head",
  "width": "factor on the channels",
  "strides": "of blocks 2, 4, 7 and 13, each 1 or 2",
  "reduced_tail": "half the channels in the last three blocks",
  "dilated": "the last three blocks are dilated by 2",
  "head": "what makes logits of the last map",
  "attention_heads": "of the head `attention`",
  "se": "squeeze-and-excitation over c, f, t or several such as cft; none",
  "se_aggregate": "how several are joined",
  "se_reduction": "the squeezed axis is divided by this to give the bottleneck",
  "dynamic": "which blocks are dynamic",
  "convs": "dynamic convolutions: some of expand, depthwise, project; no value for none of them",
  "relus": "which of them have a Dy-ReLU behind; no value for none",
  "attention": "the gate before the projection",
  "attention_axes": "of the attention `coordinate`",
  "kernels": "K of a dynamic convolution",
  "pieces": "M of Dy-ReLU",
  "context": "one for each block, or one for each use",
  "sequences": "parameters of the frequency and the time sequence",
  "context_ratio": "the expanded channels are divided by this to give the size of the context",
  "min_context": "bound of that size, at width 1",
  "max_context": "bound of that size, at width 1",
  "mel_bins": "bands of the front end",
  "hop_length": "samples between two frames",
}


class _AsNamed:
  """Stands for the value that the named model has."""

  def __str__(self) -> str:
    return "as named"

  def __bool__(self) -> bool:
    return False


AS_NAMED = _AsNamed()


def options() -> dict[str, tuple[Any, str]]:
  """(type, help) of every flag that makes a variant, from the configurations of both families."""
  families = {"MN": field_types(MNConfig), "DyMN": field_types(DyMNConfig)}
  found: dict[str, tuple[Any, str]] = {}
  for family, types in families.items():
    for name, kind in types.items():
      if name not in NO_OPTIONS:
        both = all(name in other for other in families.values())
        found[name] = kind, HELP[name] + ("" if both else f" ({family})")
  mel = field_types(KaldiMelConfig)
  return found | {name: (mel[name], HELP[name]) for name in FRONT_END}


@dataclasses.dataclass(frozen=True)
class Command:
  """Which models, and how to print."""

  models: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
  frames: int = 0  # frames of the log-mel; 0 for 10 s, of scene models for 1 s
  bits: int = 16  # of one number in memory
  json: bool = False  # print JSON
  csv: bool = False  # print CSV


OPTIONS = options()
ComplexityConfig = dataclasses.make_dataclass(
  "ComplexityConfig",
  [
    (name, kind, dataclasses.field(default=AS_NAMED, metadata={"help": text}))
    for name, (kind, text) in OPTIONS.items()
  ],
  bases=(Command,),
  frozen=True,
)


def main(cfg: Command) -> None:
  """Prints a markdown table, JSON or CSV, a row for each model in the order given."""
  if cfg.json and cfg.csv:
    raise UsageError("--json and --csv: choose one")
  for flag, least in (("frames", 0), ("bits", 1)):
    if getattr(cfg, flag) < least:
      raise UsageError(f"--{flag} {getattr(cfg, flag)}: must be more than 0")
  rows = {}
  for name, model in {name: variant(name, cfg) for name in names(cfg)}.items():
    print(f"{name} ...", file=sys.stderr, flush=True)
    rows[name] = complexity.measure(model, frames=cfg.frames or None, bits=cfg.bits)
  records = [{"model": name} | record(row) for name, row in rows.items()]
  if cfg.json:
    print(json.dumps(records, indent=2, allow_nan=False))
  elif cfg.csv:
    writer = csv.DictWriter(sys.stdout, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
  else:
    print(complexity.table(rows))


def names(cfg: Command) -> list[str]:
  """The models asked for, each once."""
  if not cfg.models:
    hint = cli.swallowed(cfg)
    raise UsageError(f"name a model, such as mn10, dymn04 or mn10_as_hop_5, or 'all'{hint}")
  wanted = [n for name in cfg.models for n in (mobile_jax.SIZES if name == EVERY_SIZE else (name,))]
  return list(dict.fromkeys(wanted))


def variant(name: str, cfg: Command) -> Any:
  """The configuration of a model with the options of the command line."""
  known = {**mobile_jax.ALL_SIZES, **{key: row.config for key, row in mobile_jax.MODELS.items()}}
  if name not in known:
    raise UsageError(unknown_name("model", name, known))
  model = known[name]
  changes = {n: value for n in OPTIONS if (value := getattr(cfg, n)) is not AS_NAMED}
  for option in changes:
    if option not in FRONT_END and not hasattr(model, option):
      raise UsageError(f"--{option}: {name} has no such option; leave {name} or the flag out")
  try:
    return _changed(model, changes)
  except ValueError as error:
    wrong = [n for n, value in changes.items() if _is_refused(model, {n: value})] or list(changes)
    raise UsageError(f"{', '.join('--' + n for n in wrong)}: {error}") from None


def _changed(model: Any, changes: Mapping[str, Any]) -> Any:
  front_end = {n: value for n, value in changes.items() if n in FRONT_END}
  own = {n: value for n, value in changes.items() if n not in FRONT_END}
  return dataclasses.replace(model, mel=dataclasses.replace(model.mel, **front_end), **own)


def _is_refused(model: Any, changes: Mapping[str, Any]) -> bool:
  try:
    _changed(model, changes)
  except ValueError:
    return True
  return False


def record(row: complexity.Complexity) -> dict[str, Any]:
  """One result for JSON or CSV; infinite is text, which `float` reads back."""
  values = dataclasses.asdict(row)
  bins, frames = values.pop("receptive_field")
  values |= {"receptive_field_bins": bins, "receptive_field_frames": frames}
  return {k: str(v) if isinstance(v, float) and math.isinf(v) else v for k, v in values.items()}


if __name__ == "__main__":
  cli.run_main(
    main,
    {"table": ComplexityConfig()},
    prog="complexity",
    default="table",
    description=(__doc__ or "").split("\n")[0],
  )
