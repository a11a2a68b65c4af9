"""Embeddings of recordings on disk: families of models, the loop, and what it writes."""
