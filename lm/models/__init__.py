"""Floor 3: model families. Each has a Config, a module, a loss and, if it decodes, a cache."""
