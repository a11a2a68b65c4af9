"""HEAR 2021 module of DyMN; see `experiments.hear.api` for its settings."""

from __future__ import annotations

from experiments.hear.api import get_scene_embeddings, get_timestamp_embeddings, mobile_loader

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

load_model = mobile_loader("dymn")
