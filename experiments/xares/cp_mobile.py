"""X-ARES encoder of CP-Mobile; see `experiments.xares.api` for its settings."""

from __future__ import annotations

from experiments.xares.api import encoder_class

CPMobileEncoder = encoder_class("cp_mobile", "CPMobileEncoder")
