"""Weights in and out: one name table per model, file formats, and the loader."""
