"""The notebooks' cells, run as they stand: commands by a shell, the rest as Python."""

import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent

# What a notebook has and Python has not: lines that begin with !, and pictures.
BEFORE = f"""
import string, subprocess
def shell(text):
    words = string.Template(text).substitute(globals())
    words = words.replace("launch/local.sh lm", {sys.executable!r} + " -m lm")
    done = subprocess.run(words, shell=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
"""


def cells(name):
    """The code of a notebook as Python."""
    book = json.loads((ROOT / "notebooks" / name).read_text())
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            text = re.sub(r"^!(.*)$", r"shell(r'''\1''')", "".join(cell["source"]), flags=re.M)
            yield text.replace("from IPython.display import HTML", "HTML = print")


def test_the_plan(tmp_path):
    env = dict(os.environ, LM_ROOT=str(ROOT), LM_OUT=str(tmp_path), JAX_PLATFORMS="cpu",
               PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "-c", "\n".join([BEFORE, *cells("plan.ipynb")])],
                          capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "the step waits for" in done.stdout
    assert "train.days = " in done.stdout
    assert "<svg" in done.stdout
    assert (tmp_path / "limits.json").exists()
