"""Weight files in and out: the parity report; the command is `experiments.convert_weights`."""
