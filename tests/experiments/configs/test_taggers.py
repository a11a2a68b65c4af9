"""The recipes of the weakly supervised taggers against the reference text, section 3."""

import pytest

from experiments.configs.supervised import EpochLoopConfig
from experiments.configs.taggers import CONSTANT, FINETUNE
from experiments.training.errors import UsageError
from mobile_jax.decision_config import DECISION_SIZES

SIZES = ("mobilenet_v2", "efficientnet_b0")
# rate, what is mixed, epochs, epochs between validations, validations without a gain
CODE, PAPER = (1e-3, "wave", 300, 1, 15), (1e-4, "spectrum", 100, 1 / 6, 5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("end", "told"), [("", CODE), ("_paper", PAPER)])
def test_code_and_paper(size, end, told):
  cfg = FINETUNE[f"audioset_{size}{end}"]
  found = (cfg.optim.peak_lr, cfg.augment.pairs, cfg.loop.epochs, cfg.loop.validate_every)
  assert (*found, cfg.select.patience) == told
  assert cfg.model == DECISION_SIZES[size]
  assert (cfg.data.sample_rate, cfg.data.crop_seconds, cfg.data.order) == (16_000, 10.0, "balanced")
  assert (cfg.select.metric, cfg.select.average, cfg.loop.batch_size) == ("mAP", 4, 32)
  augment = cfg.augment
  assert (augment.freq_mask, augment.time_mask, augment.mask_fill) == (12, 96, 0.0)
  assert (augment.half_waves, augment.pair_alpha) == (0.5, 1.0)
  assert (augment.gain, augment.roll, augment.wave_mixup, augment.mixup) == (0, 0, 0.0, 0.0)
  optim = cfg.optim
  assert (optim.weight_decay, optim.beta1, optim.beta2, optim.eps) == (0.0, 0.9, 0.999, 1e-8)
  assert not cfg.init


def test_the_rate_stays():
  assert [CONSTANT(epoch) for epoch in (0, 1, 299)] == [1.0, 1.0, 1.0]
  assert all(cfg.schedule == CONSTANT for cfg in FINETUNE.values())


def test_a_sixth_of_an_epoch_of_audioset():
  """1,904,746 clips are 59,523 steps of 32, of which the paper takes a sixth."""
  loop = FINETUNE["audioset_mobilenet_v2_paper"].loop
  assert loop.in_steps(10**7, 1_904_746).validate_every == 9_921
  for field in ("validate_every", "save_every"):
    with pytest.raises(UsageError, match=f"--loop.{field} -0.5: it must be 0"):
      EpochLoopConfig(**{field: -0.5})
