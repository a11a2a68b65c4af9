"""What a training run is made of: command line, mesh, state, step, checkpoints, metrics, loop."""
