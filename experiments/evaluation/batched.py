"""Waves of labelled clips gathered into batches, each of waves that a model hears together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from pipelines.errors import BadAudio, DataError

Key = TypeVar("Key")
Made = TypeVar("Made")


def batched(
  waves: Iterable[tuple[Key, np.ndarray]],
  group: Callable[[int], Hashable],
  rows: Callable[[Hashable], int],
  embed: Callable[[Sequence[np.ndarray]], Iterable[Made]],
  where: Callable[[Key], str],
) -> Iterator[tuple[Key, Made]]:
  """(key, what is made of its wave) for every wave, in the order in which batches are full.

  Args:
    waves: (key, f32[s]), read as they are asked for.
    group: samples -> the group of waves that such a wave shares batches with.
    rows: group -> waves that fill a batch; the rest of each group comes last.
    embed: waves of one group -> one thing for each.
    where: key -> how messages name the wave.

  Raises:
    DataError: a wave that belongs to no group, such as one that is too short.
  """
  waiting: dict[Hashable, list[tuple[Key, np.ndarray]]] = {}

  def flush(name: Hashable) -> Iterable[tuple[Key, Made]]:
    clips = waiting.pop(name)
    return zip([key for key, _ in clips], embed([wave for _, wave in clips]), strict=True)

  for key, wave in waves:
    try:
      name = group(wave.size)
    except BadAudio as error:
      raise DataError(f"{where(key)}: {error}") from None
    waiting.setdefault(name, []).append((key, wave))
    if len(waiting[name]) >= rows(name):
      yield from flush(name)
  for name in list(waiting):
    yield from flush(name)
