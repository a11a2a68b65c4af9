"""What a training run is made of: command line, mesh, state, step, optimiser, checkpoints, metrics and loop."""
