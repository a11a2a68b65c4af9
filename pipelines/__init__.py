"""Audio from file to device: sources, seeded order, crops, batches.

Names load lazily, so importing this package (or `pipelines.mel`) pulls in neither TensorFlow nor an
audio library.
"""

import importlib

from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.to_device import to_device  # eager: the function, not its module, must own the name

_LAZY = {
  "Dataset": "pipelines.dataset",
  "open_dataset": "pipelines.dataset",
  "batches": "pipelines.batch",
  "evaluation_batches": "pipelines.batch",
  "open_source": "pipelines.sources",
  "ArraySource": "pipelines.sources.arrays",
}

__all__ = ["DataConfig", "DataError", "to_device", *_LAZY]


def __getattr__(name: str):
  if name not in _LAZY:
    raise AttributeError(f"module 'pipelines' has no attribute {name!r}")
  value = getattr(importlib.import_module(_LAZY[name]), name)
  globals()[name] = value
  return value
