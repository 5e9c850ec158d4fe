"""The rules of the house that a program can check: floors, sizes, configs, commands, paths."""

import ast
import dataclasses
import inspect
import pathlib
import re
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest

from lm.__main__ import main
from lm.base import options
from lm.base.errors import UserError
from lm.experiment import flags, parts, tiny, trial
from lm.mesh import devices
from lm.mesh.config import Config as Mesh
from lm.verbs import VERBS, listed, named

ROOT = pathlib.Path(__file__).parent.parent
CODE = sorted((ROOT / "lm").rglob("*.py"))

FLOORS = [
    {"base"}, {"mesh", "data", "load"}, {"nn"}, {"models"}, {"checkpoint", "cost", "law"},
    {"train", "infer", "compress"}, {"experiment"}, {"plan", "sweep", "serve"}, {"scaling"},
    {"verbs"}, {"__main__"}]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Packages that a function may import: optional ones, heavy ones that few runs need, and those of
# one platform.
INSIDE = {"sentencepiece", "tokenizers", "tensorflow_datasets", "zstandard", "fcntl",
          "llguidance", "jinja2",
          "jax.experimental.pallas"}


def tree(path):
    return ast.parse(path.read_text())


def imports(node):
    """Yields the dotted names that an import statement brings in."""
    if isinstance(node, ast.Import):
        yield from (a.name for a in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, "imports are absolute"
        yield from (f"{node.module}.{a.name}" for a in node.names)


def run(*argv):
    """Runs Python in the root of the repository."""
    return subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True)


def room(path):
    """The room of a file, of lm/__main__.py or of a dotted name; None for lm/__init__.py."""
    name = path.split(".")[1] if isinstance(path, str) else (
        path.relative_to(ROOT / "lm").parts[0].removesuffix(".py"))
    return None if name == "__init__" else name


def test_every_room_has_a_floor():
    assert {room(p) for p in CODE} - {None} <= FLOOR.keys()
    for path in CODE:
        assert ast.get_docstring(tree(path)), f"{path} does not say where it stands"


def test_imports_only_go_down():
    for path in CODE:
        for node in ast.walk(tree(path)):
            for name in imports(node):
                if name.startswith("lm.") and room(path) != room(name):
                    assert FLOOR[room(name)] < FLOOR[room(path)], (
                        f"{path.relative_to(ROOT)}:{node.lineno} imports {name}, which is not on "
                        "a lower floor")


def test_functions_import_only_what_is_optional():
    for path in CODE:
        for function in ast.walk(tree(path)):
            if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            for node in ast.walk(function):
                for name in imports(node):
                    assert any(name == ok or name.startswith(ok + ".") for ok in INSIDE), (
                        f"{path.relative_to(ROOT)}:{node.lineno} imports {name} inside "
                        f"{function.name}; import it at the top, or add it to INSIDE with a reason")


def test_files_functions_and_lines_are_short():
    for path in CODE:
        lines = path.read_text().splitlines()
        kernel = "pallas" in path.read_text()
        assert len(lines) <= (500 if kernel else 300), f"{path}: {len(lines)} lines"
        for number, line in enumerate(lines, 1):
            assert len(line) <= 100, f"{path}:{number} has {len(line)} columns"
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef):
                size = node.end_lineno - node.lineno + 1
                assert size <= 60, f"{path}:{node.lineno} {node.name} has {size} lines"


def test_ruff_has_nothing_to_say():
    ended = run("-m", "ruff", "check", "--output-format", "concise", "lm", "configs", "tests",
                "benchmarks")
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("modules", [
    ["lm.data.tasks", "lm.data.batches"], ["lm.experiment.flags", "lm.experiment.config"],
    sorted("lm." + ".".join(p.relative_to(ROOT / "lm").with_suffix("").parts)
           for p in CODE if p.name == "config.py")], ids=lambda names: names[0])
def test_what_needs_no_jax_does_not_load_it(modules):
    program = (f"import sys, {', '.join(modules)}\n"
               "assert not {'jax', 'flax', 'optax', 'orbax'} & set(sys.modules)")
    ended = run("-c", program)
    assert ended.returncode == 0, ended.stderr


def test_configs_do_not_load_jax():
    program = """
import pathlib, runpy, sys
for path in sorted(pathlib.Path("configs").glob("*.py")):
    runpy.run_path(str(path))["get_config"]()
    assert "jax" not in sys.modules, path
"""
    ended = run("-c", program)
    assert ended.returncode == 0, ended.stderr


# Commands in prose.

def commands_of(text):
    """The commands of a text: indented or fenced lines, and `quoted` ones, that call lm."""
    text = re.sub(r"\\\n\s*", " ", text)
    lines = re.findall(r"^(?: {4,}|> *)?((?:launch/\w+\.sh )?lm .*)$", text, re.M)
    lines += [" ".join(quoted.split()) for quoted in re.findall(r"`((?:[^`\n]|\n(?!\n))*)`", text)
              if re.match(r"(launch/\w+\.sh )?lm\s", quoted)]
    found = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] if words[0].startswith("launch/") else words for words in found]


def parse(command):
    """Reads a command as lm does; FILE, DIR, VERB and TEXT stand for any."""
    stand = dict(FILE="configs/quickstart.py", TEXT="x", VERB="train")
    words = [re.sub(r"\b(FILE|TEXT|VERB)\b", lambda m: stand[m[0]], word) for word in command[1:]]
    name, words = named(words)
    if "--help" in words or not words:  # or a verb by its name alone
        assert name in VERBS or name == "--help" or listed(name), command
        return None
    assert name in VERBS, f"{command}: lm has no verb {name}"
    verb = VERBS[name]
    made = ("--run=",) if verb.from_run else ("--plan=",)   # what a reader has made
    if any(w.startswith(made) for w in words):
        words = [w for w in words if not w.startswith(made)]
        words.append("--config=configs/quickstart.py")
    return flags.parse(words, verb)


# Configs. Each file is called with the arguments that its header names as ` :arg`.

FILES = sorted(p.relative_to(ROOT) for p in (ROOT / "configs").glob("*.py"))
ENTRIES = ("what", "hardware", "time", "loss")


def header(file):
    return ast.get_docstring(tree(ROOT / file)) or ""


def arguments(file):
    """The ` :arg`s of a header; '' alone where there are none."""
    entries = header(file).split("\nwhat", 1)[-1]
    return sorted(set(re.findall(r"(?:^|[\s(])(:[a-z0-9][\w.]*)", entries))) or [""]


CONFIGS = [f"{file}{arg}" for file in FILES for arg in arguments(file)]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_the_header_is_a_contract(file):
    text = header(file)
    first = text.splitlines()[0]
    assert first.endswith("."), "one sentence says what it is"
    for entry in ENTRIES:
        assert re.search(rf"^{entry} +\S", text, re.M), (
            f"{file}: the header has no line '{entry}  ...'; it has to have: {', '.join(ENTRIES)}")
    commands = commands_of(text)
    assert commands, f"{file}: the header has no indented line 'lm train --config={file}...'"
    assert str(file) in " ".join(commands[0])
    for command in commands:
        parse(command)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_the_header_names_every_argument(file):
    takes = "get_config(arg" in (ROOT / file).read_text()
    assert takes == (arguments(file) != [""])
    if takes:
        with pytest.raises(UserError) as error:
            parse(["lm", "train", f"--config={file}:no_such_argument"])
        listed = re.search(r"one of: (.*)", str(error.value))[1].split(", ")
        assert sorted(":" + name for name in listed) == arguments(file)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_config_builds_a_model(config):
    e = parse(["lm", "train", f"--config={config}"]).experiment
    m = parts.model(e, max(e.model.V, 256))
    assert m.declaration.count > 0
    assert e.data.B % e.train.accumulate == 0


def shrunk(config):
    """The flags that make a config's tiny form, for two steps on a text of bytes and 8 devices."""
    e = parse(["lm", "train", f"--config={config}"]).experiment
    whole, small = (options.flatten(dataclasses.asdict(x)) for x in (e, tiny.tiny(e)))
    changed = {name: value for name, value in small.items() if value != whole[name]}
    changed |= {"model.V": -1, "data.tokenizer": "bytes", "data.B": 8 * e.train.accumulate,
                "data.split": "tail", "data.validation": 0.1, "train.length": 2,
                "infer.max_tokens": 2, "data.limit": 0, "train.tensorboard": False,
                "train.log_every": 1}
    return [f"--config.{name}={value}" for name, value in changed.items()]


# What no program depends on, or what every tiny form is given alike.
NO_PROGRAM = ("run", "data.corpus", "mesh.target", "infer.prompt")


def choices(config):
    """What decides the program of a config's tiny form: no size, but whether there is one."""
    e = parse(["lm", "train", f"--config={config}", *shrunk(config)]).experiment
    found = {("grouped", e.model.K < e.model.N)}
    for name, value in options.flatten(dataclasses.asdict(e)).items():
        if isinstance(value, (int, float)):
            value = (value > 0) - (value < 0)
        elif isinstance(value, tuple) or str(value)[:1].isdigit():  # a duration
            value = bool(value)
        found |= {(name, value)} if name not in NO_PROGRAM else set()
    return found


def spanning():
    """As few configs as make, between them, each choice that one of all of them makes."""
    rest = {config: choices(config) for config in CONFIGS}
    wanted = set().union(*rest.values())
    while wanted:
        config = max(reversed(rest), key=lambda config: len(rest[config] & wanted))
        wanted -= rest.pop(config)
        yield config


def trains(config, folder, capfd, prompt=""):
    """Asserts that a config's tiny form trains two steps, and samples if there is a prompt."""
    folder.mkdir()
    (folder / "text.txt").write_text("one token then the next, one after another; " * 99)
    code = main(["train", f"--config={config}", f"--run={folder / 'run'}", *shrunk(config),
                 f"--config.data.corpus={folder / 'text.txt'}", f"--config.infer.prompt={prompt}"])
    out, err = capfd.readouterr()
    assert code == 0, err
    assert not err
    assert re.search(r"^step 2/2  loss \d", out, re.M)


def test_tiny_forms_train_two_steps(tmp_path, capfd, monkeypatch):
    """On one device: the first by `lm train`, of the others the program alone."""
    own = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: own)
    first, *others = spanning()
    trains(first, tmp_path / "0", capfd)
    for config in others:
        e = parse(["lm", "train", f"--config={config}"]).experiment
        with devices.use(devices.make(Mesh())) as mesh:
            seen = trial.run(tiny.tiny(e), mesh, 2)
        assert np.isfinite(seen.losses).all() and seen.last.step == 2, config
        assert any(np.any(g) for g in jax.tree.leaves(seen.gradients[1])), config


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_every_tiny_form_trains_two_steps(config, tmp_path, capfd):
    trains(config, tmp_path / "0", capfd, prompt="a")


def test_every_command_of_the_readme_parses():
    text = (ROOT / "README.md").read_text()
    found = commands_of(text)
    assert len(found) >= 5, found
    for command in found:
        parse(command)
    for word in re.findall(r"[\w/.]+\.(?:py|sh|ipynb|toml)\b", text):
        if "/" in word:
            assert (ROOT / word).exists(), f"README.md names {word}, which is not there"
    for config in re.findall(r"configs/\w+\.py(?::[\w.]+)?", text):
        parse(["lm", "train", f"--config={config}"])


def test_the_readme_names_every_verb_and_config():
    text = (ROOT / "README.md").read_text()
    for name in VERBS:
        assert f"lm {name}" in text
    for file in FILES:
        assert str(file) in text


# What is in the repository.

def tracked():
    ended = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True,
                           capture_output=True)
    if ended.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in ended.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_paths_of_one_machine_and_no_index_host():
    # In pieces, so that this file is none that it finds.
    own = re.compile("|".join(f"/{name}/" for name in ("wor" "k", "roo" "t", "hom" "e", "User" "s"))
                     + "|" + "|".join(("pypi" r"\.org", "files" r"\.pythonhosted", "index" "-url")))
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            assert not own.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_no_todo_without_a_reason():
    for path in CODE:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not re.search(r"\b(TODO|FIXME|XXX)\b(?!.*:)", line), f"{path}:{number}"


def test_public_names_say_what_they_are():
    for path in CODE:
        for node in tree(path).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name}"


def test_defaults_of_configs_live_in_dataclasses_only():
    """`.get(key, default)` on a config is forbidden."""
    for path in CODE:
        assert not re.search(r"\b(config|c|e|experiment)\.get\(", path.read_text()), path
    assert inspect.getdoc(flags)
