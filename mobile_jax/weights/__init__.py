"""Weight files of the audio CNNs: name tables, reading, writing, `load_model`."""
