"""The learning rate by epochs, against the released schedules."""

import numpy as np
import pytest

from experiments.training.epoch_factor import EpochFactor
from experiments.training.errors import UsageError
from tests.mobile_jax.fixtures import golden

RECIPES = {
  "audioset_8_95_80_0.01": EpochFactor(),
  "finetune_10_65_10_0.01": EpochFactor(warmup=10, ramp_start=10, ramp_length=65),
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_epoch_is_the_recorded_one(name):
  recorded = golden("mobile_training")[f"lr/{name}"]
  ours = [RECIPES[name](epoch) for epoch in range(len(recorded))]
  np.testing.assert_allclose(ours, recorded, rtol=1e-12)


def test_without_a_warm_up():
  assert EpochFactor(warmup=0)(0) == 1.0


@pytest.mark.parametrize(
  ("field", "value"), [("warmup", -1), ("ramp_start", -1), ("ramp_length", 0), ("last", 1.5)]
)
def test_impossible_ones_are_named(field, value):
  with pytest.raises(UsageError, match=f"schedule.{field}={value} must be"):
    EpochFactor(**{field: value})
