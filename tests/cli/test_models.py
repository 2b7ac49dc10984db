"""`liveedit models`, its `check` and its `convert`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from liveedit.cli import app
from liveedit.errors import BadInput, LiveEditError, UnsupportedModel
from liveedit.models.conformance.contract import CHECKS
from liveedit.models.tiny import tiny

PARITY = Path(__file__).parents[1] / "assets" / "parity"


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llava_next")
    vlm = tiny("llava_next")
    vlm.model.save_pretrained(path)
    vlm.processor.save_pretrained(path)
    return path


def test_models_lists_families_and_what_was_checked():
    done = run("models")
    assert done.exit_code == 0
    assert "llava_next" in done.stdout
    assert f"{len(CHECKS)} checks" in " ".join(done.stdout.split())


def test_models_as_json():
    rows = {row["model_type"]: row for row in json.loads(run("models", "--json").stdout)}
    assert rows["llava_next"] == {
        "model_type": "llava_next",
        "family": "Generic",
        "checks": len(CHECKS),
        "reason": None,
    }
    assert rows["florence2"]["family"] is None
    assert "encoder" in rows["florence2"]["reason"]


@pytest.mark.slow
def test_check_reports_every_check(folder):
    done = run("models", "check", str(folder))
    assert done.exit_code == 0, done.output
    assert done.stdout.count("holds  ") == len(CHECKS)
    assert "Generic, layers at model.language_model.layers" in done.stdout


@pytest.mark.slow
def test_check_says_what_fails(folder, monkeypatch):
    def broken(vlm):
        """Nothing holds."""
        raise RuntimeError("so it is")

    monkeypatch.setitem(CHECKS, "the_image_matters", broken)
    done = run("models", "check", str(folder))
    assert isinstance(done.exception, UnsupportedModel)
    assert "fails  the_image_matters: RuntimeError: so it is" in done.stdout


def test_check_of_no_folder_is_one_line(tmp_path):
    done = run("models", "check", str(tmp_path / "nothing"))
    assert isinstance(done.exception, BadInput)
    assert "no model folder" in str(done.exception)


@pytest.mark.parametrize("name", ["mplug_owl2", "qwen_vl"])
@pytest.mark.slow
def test_convert_makes_a_checkpoint_of_the_authors_files(name, tmp_path):
    done = run("models", "convert", name, str(PARITY / name), str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    done = run("models", "check", str(tmp_path / "out"))
    assert "every check holds" in done.output


def test_convert_of_what_is_not_there(tmp_path):
    for name, message in (("minigpt4", "put the folder of Vicuna v0 there"), ("bert", "'bert'")):
        done = run("models", "convert", name, str(tmp_path), str(tmp_path / "out"))
        assert isinstance(done.exception, LiveEditError)
        assert message in str(done.exception)
        assert not (tmp_path / "out").exists()
