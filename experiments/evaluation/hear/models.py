"""Encoders as models that the suite can hear with."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.embedding.load import has_features
from experiments.embedding.module import MODULE
from experiments.evaluation.encoders import RANDOM, open_encoder
from experiments.evaluation.rivals import RIVAL_SPECS
from experiments.training.errors import UsageError


def models_of(specs: Sequence[str], features: Sequence[str]) -> list[tuple[str, Callable[[], Any]]]:
  """(name, what opens it) of each encoder, as `open_encoder` takes it.

  A name is a folder's too. That of a weight file of MN or DyMN has the features as well; others
  have one kind. Timestamps are the HEAR wrapper's: windows of 160 ms every 50 ms for MN
  and DyMN, tokens for Dasheng (reference texts, section 9).
  """
  models: dict[str, Callable[[], Any]] = {}
  for spec in specs:
    name = _name(spec, features)
    if name in models:
      raise UsageError(f"--checkpoint {spec}: two are called {name}; rename one")
    models[name] = functools.partial(open_encoder, spec, features=tuple(features), timestamps=True)
  return list(models.items())


def _name(spec: str, features: Sequence[str]) -> str:
  if spec in RIVAL_SPECS or spec.startswith((RANDOM, MODULE)):
    return re.sub(r"[^\w.]+", "-", spec)
  path = Path(spec).expanduser()
  return "-".join((path.stem or "run", *(features if has_features(path) else ())))
