"""Event files as TensorFlow reads them, checksums included."""

import math

import pytest

from experiments.training import events


def read(folder):
  tf = pytest.importorskip("tensorflow")
  files = [str(file) for file in sorted(folder.iterdir())]
  records = tf.data.TFRecordDataset(files).as_numpy_iterator()
  return [tf.compat.v1.Event.FromString(record) for record in records]


def test_tensorflow_reads_what_we_write(tmp_path):
  values = {"train/loss": 0.5, "train/größe": -2.0}
  for start in (0, 300):  # at once, as a run that is killed and started again
    writer = events.EventWriter(tmp_path, start)
    writer.scalars(start + 1, values)
    writer.scalars(2**40 + start, {"train/loss": math.nan, "big": 1e300, "small": -1e300})
    writer.close()
  found = read(tmp_path)
  assert [e.file_version for e in found if e.file_version] == ["brain.Event:2"] * 2
  assert [(e.step, e.session_log.status) for e in found if e.HasField("session_log")] == [(301, 1)]
  scalars = [(e.step, {v.tag: v.simple_value for v in e.summary.value}) for e in found]
  scalars = [(step, row) for step, row in scalars if row]
  assert [step for step, _ in scalars] == [1, 2**40, 301, 2**40 + 300]
  assert scalars[0][1] == scalars[2][1] == values
  late = scalars[1][1]
  assert math.isnan(late["train/loss"])
  assert (late["big"], late["small"]) == (math.inf, -math.inf)
  assert all(abs(e.wall_time - found[0].wall_time) < 60 for e in found)
