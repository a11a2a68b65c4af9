"""Scaling studies: a grid of pre-training runs, their loss on held-out audio, and a law of it."""
