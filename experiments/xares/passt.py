"""X-ARES encoder of PaSST; see `experiments.xares.api` for its settings."""

from __future__ import annotations

from experiments.xares.api import encoder_class

PaSSTEncoder = encoder_class("passt", "PaSSTEncoder")
