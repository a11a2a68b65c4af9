"""Is what was written what was meant? Reports against SOURCE, golden outputs or a live module."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dasheng_jax.weights.download import digest_of
from dasheng_jax.weights.found import Found
from dasheng_jax.weights.table import from_torch
from dasheng_jax.weights.tensors import Arrays
from experiments.conversion import golden, live, parity
from experiments.conversion.source import Wishes, open_source
from experiments.conversion.stages import default_wave, stages
from experiments.training.errors import UsageError

ROUNDED, table = parity.ROUNDED, parity.table


def check_flags(dest: Path | None, check: str, module: str, golden: str, overwrite: bool) -> None:
  """UsageError for what cannot be compared or written, before anything is read."""
  if check == "self" and dest is None and not module:
    raise UsageError("--check self compares DEST with SOURCE; give DEST, or a golden file")
  if check not in ("", "self") and not Path(check).is_file():
    raise UsageError(f"--check {check}: no such file; give a golden file, or 'self'")
  if golden and Path(golden).suffix not in (".npz", ".safetensors"):
    raise UsageError(f"--golden {golden}: end its name in .npz or .safetensors")
  if golden and not Path(golden).absolute().parent.is_dir():
    raise UsageError(f"--golden {golden}: no such folder; make it first")
  if golden and Path(golden).exists() and not overwrite:
    raise UsageError(f"--golden {golden}: is there already; pass --overwrite or another name")


def report(
  found: Found, dest: Path | None, *, check: str, module: str, tolerance: float | None
) -> parity.Report:
  """Compares DEST, or SOURCE without it, with what the user names.

  check: "self" (SOURCE) or a golden file; module: a PyTorch module, which goes before it.
  tolerance: None takes each stage's own.
  """
  written = found if dest is None else open_source(dest, Wishes())
  if module:
    return live.check(found.cfg, _variables(written), _filled(found, module), tolerance=tolerance)
  if check != "self":
    return golden.check(found.cfg, _variables(written), check, tolerance)
  wave = default_wave(found.cfg)
  ours, theirs = (stages(f.cfg, _variables(f), wave) for f in (written, found))
  return parity.compare(ours, theirs, tolerance)


def write_golden(path: Path, found: Found, module: str, source: Path) -> None:
  """Writes what SOURCE makes of the usual wave: by a PyTorch module, or, without one, by ours."""
  wave = default_wave(found.cfg)
  outputs = stages(found.cfg, _variables(found), wave)
  made_by = f"dasheng_jax, jax {jax.__version__}"
  if module:
    filled = _filled(found, module)
    outputs, _ = live.outputs(found.cfg, outputs, filled, wave)
    made_by = f"{module}, torch {importlib.metadata.version('torch')}"
  sha256 = digest_of(source) if source.is_file() else ""
  about = golden.About(
    found.family,
    made_by,
    found.name,
    golden.config_record(found.cfg),
    sha256,
  )
  golden.write_golden(path, wave, outputs, about)


def _variables(found: Found) -> dict:
  tree = from_torch(Arrays(found.tensors), found.rules, found.target, ignore=found.ignore)
  return jax.tree.map(jnp.asarray, tree)


def _filled(found: Found, name: str) -> Any:
  """The named module with the source's tensors."""
  module = live.load_module(name)
  state = {key: np.asarray(tensor.read()) for key, tensor in found.tensors.items()}
  live.load_state(module, state, f"the state dict for {name}", constants=found.constants)
  return module
