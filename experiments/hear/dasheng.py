"""HEAR 2021 module of Dasheng; see `experiments.hear.api` for its settings."""

from __future__ import annotations

from experiments.hear.api import dasheng_loader, get_scene_embeddings, get_timestamp_embeddings

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

load_model = dasheng_loader()
