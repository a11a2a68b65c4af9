"""Efficient audio CNNs in JAX: taggers, scene models, their teachers and their embeddings.

Everything here is a Flax Linen module over a plain parameter tree, or a pure function. The package
imports jax, flax, numpy and `pipelines.mel` and nothing heavier: no TensorFlow, PyTorch or librosa
(`tests/test_imports.py` holds it to that).
"""
