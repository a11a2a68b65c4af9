"""What the tests of tagging share: members that only measure, and recordings."""

import numpy as np
import soundfile

from experiments.tagging.models import Tagger
from mobile_jax.config import MNConfig

RATE = 32_000
CLASSES = 5


class Measure:
  """Its "logits": loudness, loudest sample, first sample, seconds, and a constant.

  `shapes` lists what it was called with: each new shape would be a compilation.
  """

  def __init__(self, offset: float = 0.0):
    self.cfg = MNConfig(classes=CLASSES)
    self.offset, self.shapes = offset, []

  def logits(self, waves):
    self.shapes.append(waves.shape)
    rows = [[np.abs(w).mean(), w.max(), w[0], len(w) / RATE, -9.0] for w in waves]
    return np.array(rows, np.float32) + np.float32(self.offset)


def measuring(batch=4, members=1):
  return Tagger([Measure() for _ in range(members)], batch)


def logit(probability):
  return np.log(probability) - np.log1p(-np.asarray(probability, np.float64))


def noise(seconds, seed=0, rate=RATE, channels=1):
  draw = np.random.default_rng(seed)
  return draw.uniform(-0.3, 0.3, (round(seconds * rate), channels)).astype(np.float32)


def write(path, wave, rate=RATE, **kind):
  path.parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, wave, rate, **kind)
  return path
