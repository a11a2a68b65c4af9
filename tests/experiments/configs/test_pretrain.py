"""Every named run builds and traces, whatever its size, without allocating it."""

import re

import jax
import pytest

from experiments import pretrain
from experiments.configs.pretrain import EXPERIMENTS
from experiments.training import config_io
from tests.experiments.tiny_pretrain import replace

# Encoder and decoder parameters (reference text, section 7).
COUNTS = {
  "dasheng_base": (85_447_808, 25_875_200),
  "dasheng_0_6b": (630_333_568, 26_137_344),
  "dasheng_1_2b": (1_134_047_360, 58_276_864),
}


def allocated():
  return sum(x.nbytes for x in jax.live_arrays())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_configuration_builds_and_traces(name, capsys):
  before = allocated()
  assert pretrain.main(replace(EXPERIMENTS[name], dry_run=True)) == 0
  assert allocated() - before < 4e6
  text = capsys.readouterr().out
  assert "the step traces and returns grad_norm, loss, lr" in text
  encoder, decoder = re.search(r"encoder ([\d,]+) \+ decoder ([\d,]+) parameters", text).groups()
  if name in COUNTS:
    assert (int(encoder.replace(",", "")), int(decoder.replace(",", ""))) == COUNTS[name]
  # A rule for every array: a table line for each, over eight devices.
  assert re.search(r"encoder/blocks/\S*qkv_kernel +\(\d+, ", text)
  assert "state with optimiser" in text
  assert "on each of 8 device(s)" in text


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_configuration_survives_being_saved(name):
  cfg = EXPERIMENTS[name]
  assert config_io.from_dict(type(cfg), config_io.to_dict(cfg)) == cfg


def test_the_published_runs_share_the_published_recipe():
  for name in COUNTS:
    cfg = EXPERIMENTS[name]
    assert (cfg.loop.steps, cfg.loop.batch_size) == (1_500_000, 256)
    assert (cfg.optim.peak_lr, cfg.optim.warmup_steps) == (3e-4, 45_000)
    assert (cfg.optim.schedule, cfg.optim.decay) == ("dasheng", "everything")
    assert (cfg.model.mask_ratio, cfg.model.mask_group) == (0.75, 2)
    assert (cfg.model.padding, cfg.model.mel.clamp) == ("learn", "batch")
    assert cfg.data.crop_seconds == 10.0
