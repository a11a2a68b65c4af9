"""X-ARES encoder of EfficientNet-B0; see `experiments.xares.api` for its settings."""

from __future__ import annotations

from experiments.xares.api import encoder_class

EfficientNetEncoder = encoder_class("efficientnet", "EfficientNetEncoder")
