"""Planning a training run for accelerators that are not at hand: memory, work, traffic and time."""
