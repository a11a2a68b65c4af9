"""Efficient audio CNNs in JAX: taggers, scene models, their teachers and their embeddings.

Home of MobileNet-style audio taggers, dynamic convolutions, scene classifiers and the distillation losses that train
them. Everything here is a Flax Linen module over a plain parameter tree or a pure function.

The package imports jax, flax, numpy and `pipelines.mel` and nothing else: no TensorFlow, PyTorch or librosa
(`tests/test_imports.py` holds it to that).
"""
