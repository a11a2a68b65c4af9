import pytest

from pipelines import DataConfig, DataError


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("source", (), "data.source is empty"),
    ("weights", (1.0, 2.0), "2 entries for 1 sources"),
    ("weights", (0.0,), "must all be positive"),
    ("crop", "randon", "did you mean 'random'"),
    ("order", "shard", "did you mean 'shards'"),
    ("cache", "disk", "choose one of none, memory"),
    ("sample_rate", 16, "1000 to 384000"),
    ("crop_seconds", 0.0, "data.crop_seconds is 0.0"),
    ("crop_seconds", float("nan"), "data.crop_seconds is nan"),
    ("holdout", 1.0, "data.holdout is 1.0"),
    ("share", 0.0, "data.share is 0.0"),
    ("share", 1.5, r"a share of the training audio in \(0, 1\]"),
    ("max_bad_share", -0.1, "data.max_bad_share"),
    ("workers", -1, "data.workers"),
    ("prefetch", 0, "data.prefetch"),
  ],
)
def test_wrong_values_are_refused_in_one_line(field, value, message):
  with pytest.raises(DataError, match=message) as caught:
    DataConfig(**{field: value})
  assert "\n" not in str(caught.value)


def test_crop_length_in_samples():
  assert DataConfig(crop_seconds=0.5).crop_samples == 8000
