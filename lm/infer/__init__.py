"""Floor 5: from parameters and a prompt to text."""
