"""X-ARES encoder of Dasheng; see `experiments.xares.api` for its settings."""

from __future__ import annotations

from experiments.xares.api import encoder_class

DashengEncoder = encoder_class("dasheng", "DashengEncoder")
