"""Floor 3: model families. Each has a Config, a module, a training loss and, if it decodes, a cache."""
