"""What of a data configuration labelled sets refuse."""

import dataclasses

import pytest

from experiments.configs.finetune import EXPERIMENTS
from experiments.supervised.prepare import prepare
from experiments.training.errors import UsageError
from pipelines.ledger import Ledger


def test_labelled_sets_are_used_whole():
  cfg = EXPERIMENTS["esc50"]
  cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, share=0.5))
  with pytest.raises(UsageError, match=r"--data.share 0.5: labelled sets are used whole"):
    prepare(cfg, Ledger(log=False), 1)
