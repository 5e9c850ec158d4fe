"""Floor 6: every room's Config in one typed tree, and the verbs that run it."""
