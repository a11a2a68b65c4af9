"""Weights in, weights out: between PyTorch, Hugging Face, safetensors and our own folders.

    python -m experiments.convert_weights dasheng_base.pt dasheng_base --to huggingface
    python -m experiments.convert_weights mn04_as_mAP_432.pt mn04.safetensors
    python -m experiments.convert_weights dasheng_base dasheng_base.pt --check golden.npz
    python -m experiments.convert_weights mine.pt --module package.model:Network --golden golden.npz

SOURCE is a .pt, .ckpt or .safetensors file, a folder that holds model.safetensors (or shards), one
of our own folders, or a training run. What it is, is found out and said. Every tensor is checked
before anything is written, and DEST appears whole or not at all.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Literal

from dasheng_jax.weights.found import Found
from experiments.training import cli
from experiments.training.errors import RunError, UsageError

To = Literal["", "orbax", "safetensors", "torch", "huggingface"]


@dataclasses.dataclass(frozen=True)
class Convert:
  """What to convert, to what, and what no tensor tells."""

  # SOURCE DEST
  paths: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
  # kind of DEST; empty: by its suffix
  to: To = ""
  # type of the floating-point tensors in DEST
  dtype: Literal["float32", "bfloat16", "float16"] = "float32"
  # published model or size that SOURCE is, where neither its name nor its tensors tell
  name: str = ""
  # attention heads of the encoder, where nothing tells; 0: as found
  heads: int = 0
  # the same of a decoder
  decoder_heads: int = 0
  # length of the time table in patches of 40 ms, cut or stretched to fit; 0: as found
  positions: int = 0
  # of DyMN's dynamic convolutions; 0: as the name implies
  temperature: float = 0.0
  # number of classes; another one than found gives a fresh last layer; 0: as found
  classes: int = 0
  # seed of fresh layers
  seed: int = 0
  # prints what would be done, and the mapping, and writes nothing
  dry_run: bool = False
  # parity report: "self", or a golden file to compare with, or with --module the PyTorch module
  check: str = ""
  # PyTorch module to compare with, "package.module:callable"; it is your own code and is run
  module: str = ""
  # writes golden outputs (.npz, .safetensors) for --check: those of --module, or else ours
  golden: str = ""
  # replace DEST
  overwrite: bool = False
  # largest file of --to huggingface, such as 5GB or 500MB
  shard_size: str = "5GB"
  about: str = "convert weights"


def main(cfg: Convert) -> int:
  """Converts and returns 0; RunError where a parity report found a departure."""
  from dasheng_jax.weights.table import check
  from dasheng_jax.weights.tensors import Arrays
  from experiments.conversion import destination, overwrite, verify
  from experiments.conversion.provenance import origin as origin_of
  from experiments.conversion.source import Wishes, open_source, resolved
  from experiments.conversion.surgery import adjusted

  source, dest = _paths(cfg)
  shard_bytes = _bytes(cfg.shard_size)
  kind = None
  if dest is not None:
    kind = overwrite.kind_of(dest, cfg.to)
    overwrite.check_dest(dest, kind, cfg.overwrite, source if source.exists() else None)
    if kind == "orbax" and cfg.dtype != "float32":
      raise UsageError(f"--dtype {cfg.dtype}: our own folders hold float32; leave it out")
    if kind != "huggingface" and cfg.shard_size != Convert.shard_size:
      raise UsageError(f"--shard_size is of --to huggingface, not of {kind}; leave it out")
  module = verify.check_flags(dest, cfg.check, cfg.module, cfg.golden, cfg.overwrite)
  wishes = Wishes(cfg.name or None, cfg.heads or None, cfg.decoder_heads, cfg.temperature or None)
  source = resolved(cfg.paths[0])
  found = open_source(source, wishes)
  found = adjusted(
    found, positions=cfg.positions, classes=cfg.classes, seed=cfg.seed, source=str(source)
  )
  print(_said(source, found))
  check(
    Arrays(found.tensors),
    found.rules,
    found.target,
    ignore=found.ignore,
    source=str(source),
    dtype=cfg.dtype,
  )
  origin = origin_of(cfg.paths[0], source, found)
  print("\n".join(f"  {key}: {text}" for key, text in origin.about.items()))
  if cfg.dry_run:
    print(mapping(found))
    return 0
  if dest is not None and kind is not None:
    files = destination.write(
      dest, kind, found, dtype=cfg.dtype, shard_bytes=shard_bytes, origin=origin
    )
    for file in files:
      print(f"wrote {file}{f' ({file.stat().st_size:,} bytes)' if file.is_file() else ''}")
  if cfg.golden:
    verify.write_golden(Path(cfg.golden), found, module, cfg.module, origin.digest)
    print(f"wrote {cfg.golden}")
  if cfg.check or (cfg.module and not cfg.golden):
    tolerance = verify.ROUNDED.get(cfg.dtype) if dest is not None else None
    report = verify.report(found, dest, check=cfg.check, module=module, tolerance=tolerance)
    print(verify.table(report))
    if not report.ok:
      raise RunError("the parity report shows a departure")
  return 0


def _paths(cfg: Convert) -> tuple[Path, Path | None]:
  without = cfg.dry_run or cfg.check or cfg.module or cfg.golden
  if not cfg.paths or len(cfg.paths) > 2:
    raise UsageError("give SOURCE and DEST, such as dasheng_base.pt dasheng_base.safetensors")
  if len(cfg.paths) == 1 and not without:
    raise UsageError("DEST is missing; with --dry_run, --check or --golden SOURCE alone will do")
  source = Path(cfg.paths[0])
  dest = Path(cfg.paths[1]) if len(cfg.paths) == 2 and not cfg.dry_run else None
  if dest is not None and source.resolve() == dest.resolve():
    raise UsageError(f"{dest}: SOURCE and DEST are the same")
  taken = [path.resolve() for path in (source, dest) if path is not None]
  if cfg.golden and Path(cfg.golden).resolve() in taken:
    raise UsageError(f"--golden {cfg.golden}: is SOURCE or DEST; give it a name of its own")
  if cfg.heads < 0 or cfg.decoder_heads < 0 or cfg.positions < 0 or cfg.classes < 0:
    raise UsageError("--heads, --decoder_heads, --positions and --classes must not be negative")
  if cfg.temperature < 0:
    raise UsageError(f"--temperature {cfg.temperature:g}: must be more than 0")
  return source, dest


def _bytes(text: str) -> int:
  match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
  number = float(match[1]) if match else 0.0
  if not match or not 1 <= number < 1e6:
    raise UsageError(f"--shard_size {text}: give a size such as 5GB or 500MB")
  return int(number * 1000 ** " KMGT".index(match[2].upper() or " "))


def _said(source: Path, found: Found) -> str:
  count = sum(tensor.bytes for tensor in found.tensors.values())
  size = f" of the size of {found.name}" if found.name else ""
  head = f"{source}: {found.family}{size}, {count:,} bytes"
  return "\n".join([head, *(f"  {sentence}" for sentence in found.said)])


def mapping(found: Found) -> str:
  """The name table as it applies: every source tensor, its shape, our path and the transform."""
  from dasheng_jax.weights.table import LAYER, flatten

  shapes = flatten(found.target)
  rows = []
  for rule in found.rules:
    ours = tuple(shapes[rule.ours].shape)
    layers = ours[0] if LAYER in rule.torch else None
    first = rule.torch.replace(LAYER, "0")
    theirs = found.tensors[first].shape if first in found.tensors else ()
    times = f" x {layers}" if layers else ""
    shape = "x".join(map(str, theirs)) or "scalar"
    rows.append((rule.torch, shape + times, rule.ours, rule.transform.name))
  widths = [max(len(row[i]) for row in rows) for i in range(3)]
  lines = [
    "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
    for row in rows
  ]
  moved = {
    name for name in found.tensors if any(_matches(rule.torch, name) for rule in found.rules)
  }
  left = [name for name in found.tensors if name not in moved]
  lines += [f"left out: {name} (we compute it or drop it)" for name in left]
  return "\n".join(lines)


def _matches(pattern: str, name: str) -> bool:
  from dasheng_jax.weights.table import LAYER

  return re.fullmatch(re.escape(pattern).replace(re.escape(LAYER), r"\d+"), name) is not None


if __name__ == "__main__":
  cli.run_main(
    main,
    {"default": Convert()},
    prog="convert_weights",
    default="default",
    description=(__doc__ or "").split("\n")[0],
  )
