"""What the outputs of a tagger are called: label lists, and the best tags of a row of outputs.

A list is a CSV file with the columns index, display_name and, if known, mid, such as AudioSet's
class_labels_indices.csv. It is not part of this repository.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.training.errors import UsageError

FILE_NAME = "class_labels_indices.csv"
SITE = "https://research.google.com/audioset/download.html"


class Label(NamedTuple):
  """A class: its name for people and its machine id ("" where there is none)."""

  name: str
  mid: str = ""


class Tag(NamedTuple):
  """A class that was heard, with its probability in [0, 1]."""

  number: int
  label: Label
  probability: float


def find_labels(
  named: str, beside: Sequence[Path], classes: int
) -> tuple[tuple[Label, ...], str | None]:
  """(labels, a line to show or None): the named list, else one beside the weights, else numbers.

  Raises UsageError when the named list cannot be read or has another number of classes.
  """
  if named:
    return read_labels(Path(named).expanduser(), classes), None
  for weights in beside:
    path = weights.parent / FILE_NAME
    if path.is_file():
      try:
        return read_labels(path, classes), None
      except UsageError as error:
        return numbered(classes), f"{error}; tags are shown by number"
  return numbered(classes), (
    f"no label list, so tags are shown by number; for AudioSet's names put {FILE_NAME} from {SITE} "
    "beside the weights, or name it with --labels"
  )


def numbered(classes: int) -> tuple[Label, ...]:
  """Labels "class 0" to "class n - 1"."""
  return tuple(Label(f"class {n}") for n in range(classes))


def read_labels(path: Path, classes: int) -> tuple[Label, ...]:
  """The labels of a CSV file in the order of their index. Raises UsageError, naming the file."""
  try:
    with path.open(encoding="utf-8-sig", newline="") as file:
      rows = list(csv.DictReader(file))
    found = {int(row["index"]): Label(row["display_name"], row.get("mid") or "") for row in rows}
  except OSError as error:
    raise UsageError(f"--labels {path}: {error.strerror}; get {FILE_NAME} from {SITE}") from None
  except (KeyError, ValueError, TypeError, csv.Error):
    raise UsageError(
      f"--labels {path}: no label list; expected CSV with the columns index, mid, display_name"
    ) from None
  if sorted(found) != list(range(classes)):
    raise UsageError(f"--labels {path}: {len(found)} labels, but the model has {classes} classes")
  return tuple(found[n] for n in range(classes))


def top_tags(
  probabilities: Float[np.ndarray, " classes"], labels: Sequence[Label], k: int
) -> list[Tag]:
  """The k best tags, best first; equal ones in the order of their index."""
  order = np.argsort(-probabilities, kind="stable")[:k]
  return [Tag(int(n), labels[n], float(probabilities[n])) for n in order]
