"""The notebooks' cells, run as they stand: commands by `main`, the rest as Python."""

import json
import pathlib
import re
import shlex
import string

from lm.__main__ import main

ROOT = pathlib.Path(__file__).parent.parent


def cells(name):
    """The code of a notebook as Python: lines that begin with ! call `shell`, HTML is `print`."""
    book = json.loads((ROOT / "notebooks" / name).read_text())
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            text = re.sub(r"^!(.*)$", r"shell(r'''\1''')", "".join(cell["source"]), flags=re.M)
            yield text.replace("from IPython.display import HTML", "HTML = print")


def test_the_plan(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("LM_ROOT", str(ROOT))
    monkeypatch.setenv("LM_OUT", str(tmp_path))

    def shell(text):
        words = shlex.split(string.Template(text).substitute(names))
        assert words[:2] == ["launch/local.sh", "lm"]
        assert main(words[2:]) == 0
    names = dict(shell=shell)
    exec("\n".join(cells("plan.ipynb")), names)
    said = capsys.readouterr().out
    assert "the step waits for" in said
    assert "train.days = " in said
    assert "<svg" in said
    assert (tmp_path / "limits.json").exists()
