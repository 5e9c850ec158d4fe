"""Tables that change only when someone means it. To accept: `python tests/golden/make.py`."""

import difflib
import pathlib
import re
import runpy

import pytest

HERE = pathlib.Path(__file__).parent
ACCEPT = "if this is meant, accept it: python tests/golden/make.py, and commit the diff"
TABLES = runpy.run_path(str(HERE / "make.py"))["TABLES"]


def same(kept: str, made: str) -> bool:
    """Whether two tables say the same; losses to a ten-thousandth, which compilers differ by."""
    number = re.compile(r"\d+\.\d{6}\b")
    if number.sub("", kept) != number.sub("", made):
        return False
    return [float(n) for n in number.findall(made)] == pytest.approx(
        [float(n) for n in number.findall(kept)], rel=1e-4)


@pytest.mark.parametrize("file", TABLES)
def test_table(file):
    kept, made = (HERE / file).read_text(), TABLES[file]()
    if not same(kept, made):
        change = "\n".join(difflib.unified_diff(kept.splitlines(), made.splitlines(), "kept", "now",
                                                lineterm="", n=1))
        pytest.fail(f"{file} has changed:\n{change}\n{ACCEPT}", pytrace=False)


def test_there_is_no_table_that_nothing_makes():
    assert {p.name for p in HERE.glob("*.txt")} == set(TABLES)
