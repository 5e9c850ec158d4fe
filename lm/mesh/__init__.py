"""Floor 1: the devices as a mesh with named axes, and how named array axes lie on it."""
