"""Floor 4: what chips can do, what a program asks of them, and the ratio of the two."""
