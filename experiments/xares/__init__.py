"""Encoders for X-ARES: PyTorch modules from waves to embeddings over time, one file per family.

`python -m xares.run experiments/xares/mn.py TASK.py` takes the weights of XARES_WEIGHTS.
"""
