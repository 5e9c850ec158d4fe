"""Floor 4: the state of a run on disk, whole or not at all, readable on any mesh."""
