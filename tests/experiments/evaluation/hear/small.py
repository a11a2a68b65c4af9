"""Small folders in the benchmark's layout, and a model that needs no network."""

import json

import numpy as np
import soundfile

RATE = 8_000
LABELS = ("high", "low", "middle")
HERTZ = {"high": 3_000, "low": 200, "middle": 1_000}


class Spectrum:
  """Energies of eight bands: of the clip, or of every 50 ms of it."""

  sample_rate = RATE
  settings = {"model": "spectrum"}  # noqa: RUF012

  def __init__(self):
    self.heard = 0

  def group(self, samples):
    return samples

  def rows(self, group):
    return 4

  def scenes(self, waves):
    self.heard += len(waves)
    return [bands(wave) for wave in waves]

  def over_time(self, waves):
    self.heard += len(waves)
    hop = RATE // 20
    cuts = [wave[: len(wave) // hop * hop].reshape(-1, hop) for wave in waves]
    return [(np.stack([bands(c) for c in cut]), 50.0 * np.arange(len(cut))) for cut in cuts]


def bands(wave):
  power = np.abs(np.fft.rfft(wave)) ** 2
  return np.log1p([part.sum() for part in np.array_split(power, 8)]).astype(np.float32)


def write_folder(path, parts, metadata, *, clips=6, rate=RATE, seed=0):
  """A task of noisy tones; event tasks have two sounds in two seconds."""
  rng = np.random.default_rng(seed)
  told = {
    "task_name": "tones",
    "version": "1",
    "embedding_type": "scene",
    "prediction_type": "multiclass",
    "split_mode": "new_split_kfold",
    "evaluation": ["top1_acc"],
    "mode": "full",
    "splits": list(parts),
  } | metadata
  path.mkdir(parents=True)
  (path / "task_metadata.json").write_text(json.dumps(told))
  rows = [f"{i},{label}\n" for i, label in enumerate(LABELS)]
  (path / "labelvocabulary.csv").write_text("idx,label\n" + "".join(rows))
  for part in parts:
    audio = path / str(rate) / part
    audio.mkdir(parents=True)
    truth = {}
    for i in range(clips):
      label = LABELS[i % 3]
      name = f"{part}_{i}.wav"
      if told["embedding_type"] == "event":
        wave = 0.01 * rng.standard_normal(2 * rate)
        other = LABELS[(i + 1) % 3]
        wave[rate // 5 : rate * 4 // 5] += tone(label, rate * 3 // 5, rate)
        wave[rate : rate * 8 // 5] += tone(other, rate * 3 // 5, rate)
        truth[name] = [
          {"label": label, "start": 200.0, "end": 800.0},
          {"label": other, "start": 1000.0, "end": 1600.0},
        ]
      else:
        wave = 0.01 * rng.standard_normal(rate // 4) + tone(label, rate // 4, rate)
        truth[name] = [label]
      soundfile.write(audio / name, wave.astype(np.float32), rate)
    (path / f"{part}.json").write_text(json.dumps(truth))
  return path


def tone(label, samples, rate):
  return 0.3 * np.sin(2 * np.pi * HERTZ[label] * np.arange(samples) / rate)
