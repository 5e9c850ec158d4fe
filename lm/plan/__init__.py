"""Floor 7: search, compile, price; what fits, how fast, how long, at what price."""
