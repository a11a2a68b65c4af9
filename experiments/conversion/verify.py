"""Is what was written what was meant? Reports against SOURCE, golden outputs or a live module."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dasheng_jax.weights.found import Found
from dasheng_jax.weights.table import from_torch
from dasheng_jax.weights.tensors import Arrays
from experiments.conversion import golden, live, parity
from experiments.conversion.golden import read_golden
from experiments.conversion.source import Wishes, open_source
from experiments.conversion.stages import default_wave, stages
from experiments.training.errors import UsageError

ROUNDED, table = parity.ROUNDED, parity.table


def check_flags(dest: Path | None, check: str, module: str, golden: str, overwrite: bool) -> Any:
  """The module that --module names, or None; loaded before anything else is done.

  UsageError for what cannot be compared or written, WeightsError for golden outputs that cannot be
  read, before anything is written.
  """
  if check == "self" and dest is None and not module:
    raise UsageError("--check self compares DEST with SOURCE; give DEST, or a golden file")
  if check not in ("", "self"):
    if not Path(check).is_file():
      raise UsageError(f"--check {check}: no such file; give a golden file, or 'self'")
    read_golden(check)
  if golden and Path(golden).suffix not in (".npz", ".safetensors"):
    raise UsageError(f"--golden {golden}: end its name in .npz or .safetensors")
  if golden and not Path(golden).absolute().parent.is_dir():
    raise UsageError(f"--golden {golden}: no such folder; make it first")
  if golden and Path(golden).exists() and not overwrite:
    raise UsageError(f"--golden {golden}: is there already; pass --overwrite or another name")
  return live.load_module(module) if module else None


def report(
  found: Found, dest: Path | None, *, check: str, module: Any, tolerance: float | None
) -> parity.Report:
  """Compares DEST, or SOURCE without it, with what the user names.

  check: "self" (SOURCE) or a golden file; module: a PyTorch module, which goes before it.
  tolerance: None takes each stage's own. Each side runs with the configuration that it holds.
  """
  written = found if dest is None else open_source(dest, Wishes())
  if module is not None:
    return live.check(written.cfg, _variables(written), _filled(found, module), tolerance=tolerance)
  if check != "self":
    return golden.check(written.cfg, _variables(written), check, tolerance)
  wave = default_wave(found.cfg)
  ours, theirs = (stages(side.cfg, _variables(side), wave) for side in (written, found))
  apart = golden.differences(golden.config_record(found.cfg), golden.config_record(written.cfg))
  notes = [f"SOURCE and DEST differ in {what}" for what in apart]
  return parity.compare(ours, theirs, tolerance, notes)


def write_golden(path: Path, found: Found, module: Any, called: str, sha256: str) -> None:
  """Writes what SOURCE makes of the usual wave: by a PyTorch module, or, without one, by ours.

  called: the module as the user named it. sha256: of SOURCE.
  """
  wave = default_wave(found.cfg)
  outputs = stages(found.cfg, _variables(found), wave)
  made_by = f"dasheng_jax, jax {jax.__version__}"
  if module is not None:
    outputs, _ = live.outputs(found.cfg, outputs, _filled(found, module), wave)
    made_by = f"{called}, torch {importlib.metadata.version('torch')}"
  config = golden.config_record(found.cfg)
  about = golden.About(found.family, made_by, found.name, config, sha256)
  golden.write_golden(path, wave, outputs, about)


def _variables(found: Found) -> dict:
  tree = from_torch(Arrays(found.tensors), found.rules, found.target, ignore=found.ignore)
  return jax.tree.map(jnp.asarray, tree)


def _filled(found: Found, module: Any) -> Any:
  """The module with the source's tensors."""
  state = {key: np.asarray(tensor.read()) for key, tensor in found.tensors.items()}
  name = type(module).__name__
  live.load_state(module, state, f"the state dict for {name}", constants=found.constants)
  return module
