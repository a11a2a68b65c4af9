"""X-ARES encoder of MobileNetV2; see `experiments.xares.api` for its settings."""

from __future__ import annotations

from experiments.xares.api import encoder_class

MobileNetV2Encoder = encoder_class("mobilenet_v2", "MobileNetV2Encoder")
