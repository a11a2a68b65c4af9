"""Training of taggers and scene models on labelled sets: fine-tuning and distillation."""
