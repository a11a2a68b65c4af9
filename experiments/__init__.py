"""Runnable experiments: `python -m experiments.NAME --config CONFIG`.

`--help` lists the named configs of that experiment and every field that can be set after them.
"""
