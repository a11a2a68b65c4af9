"""Waves in memory: the same rules as any source, no TensorFlow, and one line for what cannot be."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile

from pipelines import ArraySource, DataConfig, DataError, batches, evaluation_batches, open_dataset
from tests.pipelines.conftest import tone

RATE = 16_000
CFG = DataConfig(source=("arrays",), crop_seconds=0.02, crop="random", workers=2)


def waves(count=12):
  return [tone(i, 0.03 + 0.02 * (i % 4))[:, 0] for i in range(count)]


def collect(dataset, start=0, steps=30, hosts=1, **changes):
  how = {"batch_size": 4, "seed": 3, "start_step": start, "steps": steps} | changes
  streams = [batches(dataset, host_index=h, host_count=hosts, **how) for h in range(hosts)]
  return [
    (
      [i for p in parts for i in p["id"].tolist()],
      np.concatenate([p["valid"] for p in parts]).tolist(),
      np.concatenate([p["wave"] for p in parts]).tobytes(),
    )
    for parts in zip(*streams, strict=True)
  ]


def opened(source, part="all", **changes):
  cfg = DataConfig(**{**CFG.__dict__, **changes})
  return open_dataset(cfg, part, sources=[source])


def test_batches_are_those_of_the_same_waves_in_files(tmp_path):
  names = [f"{i:03d}.wav" for i in range(12)]
  for name, wave in zip(names, waves(), strict=True):
    soundfile.write(tmp_path / name, wave, RATE, subtype="FLOAT")
  stored = DataConfig(**{**CFG.__dict__, "source": (str(tmp_path),)})
  want = collect(open_dataset(stored, "all"))
  assert collect(opened(ArraySource(waves(), RATE, ids=names))) == want


def test_batches_depend_on_seed_and_step_alone():
  source = ArraySource(waves(), RATE)
  whole = collect(opened(source))
  assert len({tuple(ids) for ids, _, _ in whole}) > 25
  assert collect(opened(source), start=11, steps=19) == whole[11:]
  assert collect(opened(source, workers=3), hosts=2) == whole
  assert collect(opened(source, cache="memory")) == whole
  assert collect(opened(source), seed=4) != whole


def test_one_array_of_equal_clips_with_labels():
  source = ArraySource(np.stack([tone(i, 0.02)[:, 0] for i in range(6)]), RATE, labels=[0, 2] * 3)
  dataset = opened(source)
  assert dataset.classes == ("0", "2")
  (batch,) = evaluation_batches(dataset, 6)
  assert batch["id"].tolist() == [f"{i:06d}" for i in range(6)]
  assert batch["labels"].tolist() == [0, 1] * 3
  np.testing.assert_array_equal(batch["wave"][4], tone(4, 0.02)[:, 0])


def test_rates_channels_and_widths_differ():
  stereo = tone(1, 0.1, 8000, channels=2)
  source = ArraySource([tone(0, 0.1)[:, 0].astype(np.float64), stereo], [RATE, 8000])
  dataset = opened(source, crop_seconds=0.1, crop="sequential")
  (batch,) = evaluation_batches(dataset, 2)
  assert batch["wave"].dtype == np.float32
  assert batch["valid"].tolist() == [1600, 1600]
  np.testing.assert_array_equal(batch["wave"][0], tone(0, 0.1)[:, 0])
  plain = tone(1, 0.1)[:, 0] * 0.75  # the mean of both channels, at twice the rate
  assert np.abs(batch["wave"][1] - plain)[100:-100].max() < 1e-3


def test_the_part_held_out_follows_the_ids():
  source = ArraySource(waves(40)[:40], RATE, ids=[f"clip-{i}" for i in range(40)])
  train, held = (opened(source, part, holdout=0.25) for part in ("train", "holdout"))
  assert train.recordings + held.recordings == 40
  assert {i.split("#")[0] for i in train.ids}.isdisjoint(i.split("#")[0] for i in held.ids)


ONE = np.zeros(100, np.float32)
BROKEN = np.array([0.0, np.nan, np.inf], np.float32)


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (([], RATE), "waves must be"),
    ((ONE, RATE), r"waves must be \[recordings, samples\] .*got shape \(100,\)"),
    (([ONE, np.zeros((2, 2, 2), np.float32)], RATE), r"'000001' has shape \(2, 2, 2\)"),
    (([ONE, ONE[:0]], RATE), r"'000001' has shape \(0,\)"),
    ((np.zeros((1, 2, 100), np.float32), RATE), "more channels than samples; transpose"),
    (([ONE.astype(np.int16)], RATE), "is int16; give floats .*divided by 32768"),
    (([ONE, BROKEN], RATE), "'000001': 2 of 3 samples are NaN or infinite"),
    (([ONE], 0), "rate is 0 Hz"),
    (([ONE], 16_000.5), "rate is 16000.5 Hz; give whole numbers"),
    (([ONE], np.nan), "rate is nan Hz"),
    (([ONE], [RATE, RATE]), r"rate has shape \(2,\)"),
    (([ONE, ONE], RATE, ["a"]), "1 ids for 2 recordings"),
    (([ONE, ONE], RATE, ["a", "a"]), "id 'a' is empty, no text or there twice"),
    (([ONE, ONE], RATE, None, [1]), "1 labels for 2 recordings"),
    (([ONE], RATE, None, [-1]), "label -1 is neither"),
  ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments, words, unchecked):
  with pytest.raises(DataError, match=words) as caught:
    ArraySource(*arguments)
  assert "\n" not in str(caught.value)


def test_weights_are_one_per_source():
  cfg = DataConfig(source=("a", "b"), weights=(1.0, 2.0))
  with pytest.raises(DataError, match="2 entries for 1 sources"):
    open_dataset(cfg, "all", sources=[ArraySource([ONE], RATE)])


def test_tensorflow_stays_unimported():
  script = """
import sys, numpy as np
from pipelines import ArraySource, DataConfig, batches, evaluation_batches, open_dataset
source = ArraySource(np.zeros((4, 400), np.float32), 16_000)
for sources in ([source], ()):
  cfg = DataConfig(source="synthetic:3", crop_seconds=0.5)
  dataset = open_dataset(cfg, "all", sources=sources)
  assert len(list(batches(dataset, batch_size=2, seed=0, steps=3))) == 3
  assert len(list(evaluation_batches(dataset, 2))) == -(-len(dataset) // 2)
print([m for m in ("tensorflow", "torch", "librosa") if m in sys.modules])
"""
  out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
  assert out.stdout.strip() == "[]", out.stderr
