"""X-ARES encoder of MN; see `experiments.xares.api` for its settings."""

from __future__ import annotations

from experiments.xares.api import encoder_class

MNEncoder = encoder_class("mn", "MNEncoder")
