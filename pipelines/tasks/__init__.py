"""Labelled sets for evaluation, one small file per public data set.

`open_task("esc10=PATH")` returns a `LabelledSet`: ids, labels, groups, classes and `load(i)`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from pipelines.errors import DataError
from pipelines.tasks.esc import esc10, esc50
from pipelines.tasks.hear import hear
from pipelines.tasks.labelled import LabelledSet
from pipelines.tasks.spoken_digits import speaker, spoken_digits
from pipelines.tasks.synthetic import synthetic

TASKS: dict[str, Callable[[str], LabelledSet]] = {
  "spoken_digits": spoken_digits,
  "speaker": speaker,
  "esc10": esc10,
  "esc50": esc50,
  "hear": hear,
  "synthetic": synthetic,
}

__all__ = ["TASKS", "LabelledSet", "open_task"]


def open_task(spec: str) -> LabelledSet:
  """Opens "NAME=PATH" or "synthetic". Raises DataError for an unknown name or unusable data."""
  name, _, path = spec.partition("=")
  if name not in TASKS:
    near = difflib.get_close_matches(name, TASKS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(TASKS)}"
    raise DataError(f"tasks: unknown task {name!r}; {hint}")
  return TASKS[name](path)
