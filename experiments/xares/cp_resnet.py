"""X-ARES encoder of CP-ResNet; see `experiments.xares.api` for its settings."""

from __future__ import annotations

from experiments.xares.api import encoder_class

CPResNetEncoder = encoder_class("cp_resnet", "CPResNetEncoder")
