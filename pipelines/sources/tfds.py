"""A prepared TFDS data set: its TFRecord files, read by offset."""

import difflib
import os

import numpy as np

from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.sources.tfrecord import RecordFormat, TFRecordSource

PREFIX = "tfds:"
_LABELS = ("label", "labels", "class", "target")


def open_tfds(name: str, cfg: DataConfig) -> TFRecordSource:
  """The split `cfg.split` of a TFDS data set, prepared below `cfg.data_dir`.

  Nothing is downloaded or prepared here. The first audio feature is read; `label` (a ClassLabel)
  gives labels and class names. TFDS states no loudness for integer samples: they count as 16 bits.
  """
  try:
    import tensorflow_datasets as tfds
  except ImportError:
    raise DataError(
      f"data.source {PREFIX}{name} needs tensorflow-datasets: pip install tensorflow-datasets"
    ) from None
  where = cfg.data_dir or "the default folder of TFDS"
  try:
    builder = tfds.builder(name, data_dir=cfg.data_dir or None)
  except Exception as error:  # TFDS raises many kinds here, all for a name it cannot find
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160].rstrip(".")
    known = tfds.list_builders(with_community_datasets=False)
    near = difflib.get_close_matches(name.partition("/")[0].partition(":")[0], known, n=2)
    way = f"did you mean {' or '.join(PREFIX + n for n in near)}? Else " if near else ""
    raise DataError(
      f"data.source {PREFIX}{name} is not found in {where} ({reason}); "
      f"{way}prepare it, or set data_dir"
    ) from None
  if cfg.split not in builder.info.splits:
    known = ", ".join(builder.info.splits) or f"none: it is not prepared in {where}"
    raise DataError(f"data.split {cfg.split!r} is no split of {PREFIX}{name}; splits: {known}")
  if "tfrecord" not in str(builder.info.file_format.value).lower():
    kind = builder.info.file_format.value
    raise DataError(f"{PREFIX}{name} is stored as {kind}; prepare it with file_format='tfrecord'")
  features = builder.info.features
  paths = [os.fspath(p) for p in builder.info.splits[cfg.split].filepaths]
  named = [k for k in _LABELS if k in features]
  label = next((k for k in named if isinstance(features[k], tfds.features.ClassLabel)), "")
  source = TFRecordSource(f"{PREFIX}{name}", paths, cfg, _format(name, features, label, tfds))
  source.name = name
  if label:
    source.classes = list(features[label].names)
  else:
    source.labels = None
  return source


def _format(name: str, features, label: str, tfds) -> RecordFormat:
  key = next((k for k in features if isinstance(features[k], tfds.features.Audio)), None)
  if key is None:
    raise DataError(f"{PREFIX}{name} has no audio feature; its features: {', '.join(features)}")
  audio = features[key]
  encoding = str(getattr(getattr(audio, "_encoding", ""), "value", "") or "none").lower()
  return RecordFormat(
    audio=key,
    rate=int(audio.sample_rate or 0),
    raw=np.dtype(audio.np_dtype).name,
    zipped=encoding == "zlib",
    channels=int(audio.shape[1] or 1) if len(audio.shape) > 1 else 1,
    label=label or "\0",  # no feature has this name: other fields must not pass for labels
    id="\0",  # ids of TFDS need not be unique; file and record number are
  )
