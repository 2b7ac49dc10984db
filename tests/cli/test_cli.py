"""The command line, run as a user runs it."""

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

QUESTION = "What is the country with this flag?"


@pytest.fixture(scope="module")
def flag(tmp_path_factory):
    from liveedit.data.emblem import Emblem

    path = tmp_path_factory.mktemp("images") / "flag.png"
    Emblem().drawing("twemoji", "flag-jp").save(path)
    return path


def test_help_lists_every_command_and_imports_no_torch():
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        "from liveedit.cli import main\nmain()"
    )
    command = [sys.executable, "-c", code, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.endswith("False\n")
    for command in (
        "demo",
        "edit",
        "ask",
        "edits",
        "forget",
        "train",
        "eval",
        "report",
        "models",
        "editors",
        "data",
    ):
        assert command in done.stdout


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "liveedit", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "eval" in done.stdout


def test_ctrl_c_while_the_commands_are_imported(tmp_path):
    (tmp_path / "typer.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(60)", encoding="utf-8"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    entry = tomllib.loads(
        (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    )["project"]["scripts"]
    module, _, name = entry["liveedit"].partition(":")
    for start in (["-m", "liveedit"], ["-c", f"from {module} import {name}; {name}()"]):
        with subprocess.Popen(
            [sys.executable, *start, "edits"], env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as shell:  # fmt: skip
            assert shell.stdout.readline() == "importing\n"
            shell.send_signal(signal.SIGINT)
            assert shell.communicate(timeout=30) == ("", "")
        assert shell.returncode == 130


@pytest.mark.slow
@pytest.mark.parametrize(
    "slow",
    [
        "import typer.main\ntyper.main.get_params_from_function = wait",
        "import atexit\natexit.register(wait)",
    ],
    ids=["while the commands are made", "after the last"],
)
def test_ctrl_c_where_no_command_runs(slow):
    wait = "import time\ndef wait(*_):\n    print('waiting', flush=True)\n    time.sleep(60)"
    code = "\n".join([wait, slow, "from liveedit.__main__ import main", "main()"])
    with subprocess.Popen(
        [sys.executable, "-c", code, "editors"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as shell:
        said = list(iter(shell.stdout.readline, "waiting\n"))
        shell.send_signal(signal.SIGINT)
        assert shell.communicate(timeout=30) == ("", "")
    assert shell.returncode == 130
    assert bool(said) == ("atexit" in slow)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("command", "shows"), [("models", "llava"), ("editors", "liveedit"), ("data", "emblem")]
)
def test_lists(run_apart, command, shows):
    done = run_apart(command)
    assert done.returncode == 0
    assert shows in done.stdout


@pytest.mark.slow
def test_edit_ask_list_forget(run_apart, run_here, flag, tmp_path):
    done = run_apart("edit", QUESTION, "Brazil", "--image", str(flag), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Brazil" in done.stdout
    assert run_here("ask", QUESTION, "--image", str(flag), cwd=tmp_path).stdout.startswith("Brazil")
    Image.new("RGB", (32, 32)).save(tmp_path / "other.png")
    shown = ("--image", "other.png", "--image", str(flag), "--store", "several")
    several = run_here("edit", QUESTION, "Brazil", *shown, cwd=tmp_path)
    assert several.returncode == 0, several.stderr
    assert several.stdout.count("Brazil") == 2  # wanted and answered
    beyond = run_here("ask", QUESTION, *shown, "--about", "2", cwd=tmp_path)
    assert beyond.returncode == 1
    assert "no image 2 among 2" in beyond.stderr
    listed = run_here("edits", cwd=tmp_path).stdout
    assert "Brazil" in listed
    id = next(
        word
        for word in listed.split()
        if len(word) == 12 and all(c in "0123456789abcdef" for c in word)
    )
    assert run_here("forget", id, cwd=tmp_path).returncode == 0
    assert run_here("ask", QUESTION, "--image", str(flag), cwd=tmp_path).stdout.startswith("Japan")


@pytest.mark.slow
def test_a_model_in_8_bits_is_edited_and_asked(run_here, flag, tmp_path):
    pytest.importorskip("bitsandbytes")
    done = run_here(
        "edit", QUESTION, "Brazil", "--image", str(flag), "--quantize", "8bit", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "Brazil" in done.stdout
    assert run_here("ask", QUESTION, "--image", str(flag), cwd=tmp_path).stdout.startswith(
        "Brazil"
    )  # in full, the same edit
    done = run_here(
        "edit",
        QUESTION,
        "Peru",
        "--image",
        str(flag),
        "--quantize",
        "8bit",
        "--editor",
        "ft-l",
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "is quantised or off-loaded" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["edit", QUESTION, "Brazil", "--image", "missing.png"], "no image at missing.png"),
        (["edit", QUESTION, "", "--image", "FLAG"], "target"),
        (
            ["edit", QUESTION, "Brazil", "--image", "FLAG", "--model", "./nowhere"],
            "no model folder",
        ),
        (
            ["edit", QUESTION, "Brazil", "--image", "FLAG", "--editor", "livedit"],
            "did you mean liveedit",
        ),
        (["edits", "--store", "nothing"], "no edits in nothing"),
        (["forget", "abc", "--store", "nothing"], "no edits in nothing"),
        (["report", "nothing"], "no records"),
        (["eval", "--out", "x", "--edits", "one"], "--edits takes numbers"),
        (["eval", "--out", "x", "--gaps", "10,0"], "--gaps takes numbers"),
        (["eval", "--out", "x", "--protocol", "gaps"], "choose windows, stream or gap"),
        (["eval", "--out", "x", "--prompt-format", "plain"], "choose raw, chat, vlkeb"),
        (["eval", "--out", "x", "--quantize", "3bit"], "choose 8bit, 4bit"),
        (["ask", QUESTION, "--device-map", "everywhere"], "choose auto, balanced"),
        (["train", "x", "--dtype", "half"], "choose bfloat16"),
        (["eval", "--out", "x", "--editors", "a/b=ft-l"], "--editors takes NAME"),
        (["eval", "--out", "x", "--data", "emblen"], "did you mean emblem"),
        (["train", "x", "--config", "missing.json"], "missing.json"),
    ],
)
def test_a_mistake_is_one_line_and_a_failure(run_here, words, names, flag, tmp_path):
    done = run_here(*[str(flag) if word == "FLAG" else word for word in words], cwd=tmp_path)
    assert done.returncode == 1
    assert names in done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.strip()]) == 1
