"""Floor 1: text to batches of tokens. numpy only: nothing here imports jax."""
