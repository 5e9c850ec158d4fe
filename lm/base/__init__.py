"""Floor 0: small things everyone needs. Nothing here imports jax."""
