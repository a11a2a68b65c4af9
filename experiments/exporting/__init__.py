"""Networks as files for phones and other runtimes: wave in, logits out (`experiments.export`)."""
