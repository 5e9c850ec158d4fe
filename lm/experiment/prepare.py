"""`lm prepare`: everything about the data that can be done before a chip is rented."""

from lm.data import tasks
from lm.experiment import flags


def run(parsed: flags.Parsed) -> int:
    """Reads, cleans, tokenises; prints what came out."""
    print(flags.describe(parsed))
    task = tasks.prepare(parsed.experiment.data)
    bits = tasks.xz_bits_per_byte(task)
    print(f"xz -9 needs {bits:.3f} bits/byte for the validation text")
    return 0
