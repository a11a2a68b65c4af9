"""What batches say of the devices that recorded their clips, where a set knows them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipelines import Dataset
from pipelines.sets import TrainingSet


def add_main_device(dataset: Dataset, labelled: TrainingSet) -> None:
  """Lets batches carry `main_device` bool[b]: impulse responses are for these clips alone.

  False for padding. Nothing is added where the set knows no devices.
  """
  if labelled.devices is None:
    return
  is_main = np.array([name == labelled.devices.main for name in labelled.devices.names] + [False])
  number_of = _device_numbers(dataset, labelled)
  dataset.fields["main_device"] = lambda examples: is_main[number_of(examples)]  # -1 is the last


def add_devices(dataset: Dataset, labelled: TrainingSet) -> None:
  """Lets batches carry `device` i32[b], by which they are scored; -1 for padding.

  Nothing is added where the set knows no devices.
  """
  if labelled.devices is not None:
    dataset.fields["device"] = _device_numbers(dataset, labelled)


def _device_numbers(dataset: Dataset, labelled: TrainingSet) -> Callable[[np.ndarray], np.ndarray]:
  """The function from clip numbers i64[b] to numbers of devices i32[b]."""
  assert labelled.devices is not None
  numbers = [labelled.devices.numbers(map(str, source.ids)) for source in dataset.sources]

  def number_of(example: int) -> int:
    clip = dataset.clip(example)
    return int(numbers[clip.source][clip.recording])

  return lambda rows: np.array([number_of(int(e)) if e >= 0 else -1 for e in rows], np.int32)
