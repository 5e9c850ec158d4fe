"""Language models: plan, train, scale, compress, serve; every prediction checked by measuring."""
