r"""Tables what models cost: parameters, MACs, activation memory, receptive field.

    python -m experiments.complexity mn04 mn10 dymn10
    python -m experiments.complexity mn10 --strides 2 2 2 1 --head fully_convolutional
    python -m experiments.complexity all --csv > sizes.csv

A model is a size (mn10, dymn04) or a published name (mn10_as_hop_5); `all` stands for every size.
A flag for an option of the model changes it in every model named. `docs/complexity.md` defines the
figures.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import sys
from typing import Any

import mobile_jax
from dasheng_jax.config import unknown_name
from experiments.training import cli
from experiments.training.errors import UsageError
from mobile_jax import complexity

EVERY_SIZE = "all"
# Flags that change the front end, by the field of its configuration.
FRONT_END = ("mel_bins", "hop_length")


@dataclasses.dataclass(frozen=True)
class ComplexityConfig:
  """Which models, in which variant, and how to print. Empty or 0 leaves an option as it is."""

  models: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
  frames: int = 0  # frames of the log-mel; 0 for 10 s
  bits: int = 16  # of one number in memory
  json: bool = False  # print JSON
  csv: bool = False  # print CSV
  width: float = 0.0  # factor on the channels
  strides: tuple[int, ...] = ()  # of blocks 2, 4, 7 and 13, each 1 or 2
  head: str = ""  # of MN: mlp, fully_convolutional, attention
  se: str = ""  # of MN: squeeze-and-excitation over c, f, t or several such as cft; none
  dilated: bool = False  # MN with dilated last blocks
  reduced_tail: bool = False  # MN with half the channels in the last blocks
  dynamic: str = ""  # of DyMN: all, replace_se, first, middle, last, none
  attention: str = ""  # of DyMN: coordinate, none, triplet, srm, grn, se, cbam, gc
  mel_bins: int = 0  # bands of the front end
  hop_length: int = 0  # samples between two frames


OPTIONS = tuple(
  field.name
  for field in dataclasses.fields(ComplexityConfig)
  if field.name not in ("models", "frames", "bits", "json", "csv")
)


def main(cfg: ComplexityConfig) -> None:
  """Prints a markdown table, JSON or CSV, a row for each model in the order given."""
  if cfg.json and cfg.csv:
    raise UsageError("--json and --csv: choose one")
  for flag in ("frames", "bits", "width", "mel_bins", "hop_length"):
    if getattr(cfg, flag) < 0 or (flag == "bits" and cfg.bits == 0):
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


def names(cfg: ComplexityConfig) -> list[str]:
  """The models asked for, each once."""
  if not cfg.models:
    raise UsageError("name a model, such as mn10, dymn04 or mn10_as_hop_5, or 'all'")
  wanted = [n for name in cfg.models for n in (mobile_jax.SIZES if name == EVERY_SIZE else (name,))]
  return list(dict.fromkeys(wanted))


def variant(name: str, cfg: ComplexityConfig) -> Any:
  """The configuration of a model with the options of the command line."""
  known = {**mobile_jax.SIZES, **{key: row.config for key, row in mobile_jax.MODELS.items()}}
  if name not in known:
    raise UsageError(unknown_name("model", name, known))
  model = known[name]
  changes = {option: getattr(cfg, option) for option in OPTIONS if getattr(cfg, option)}
  front_end = {option: changes.pop(option) for option in FRONT_END if option in changes}
  for option in changes:
    if not hasattr(model, option):
      raise UsageError(f"--{option}: {name} has no such option; leave {name} or the flag out")
  try:
    mel = dataclasses.replace(model.mel, **front_end)
  except ValueError as error:
    raise UsageError(f"{', '.join('--' + option for option in front_end)}: {error}") from None
  return dataclasses.replace(model, mel=mel, **changes)


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
