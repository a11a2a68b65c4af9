"""Named experiments, one small file per family."""
