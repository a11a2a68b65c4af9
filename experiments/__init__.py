"""Runnable experiments: `python -m experiments.NAME --config CONFIG`; `--help` lists the configs and every field."""
