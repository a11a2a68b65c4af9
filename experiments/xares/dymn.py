"""X-ARES encoder of DyMN; see `experiments.xares.api` for its settings."""

from __future__ import annotations

from experiments.xares.api import encoder_class

DyMNEncoder = encoder_class("dymn", "DyMNEncoder")
