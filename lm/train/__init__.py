"""Floor 5: the training step, the loop around it, and what it reports."""
