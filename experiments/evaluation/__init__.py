"""Evaluation of frozen embeddings."""
