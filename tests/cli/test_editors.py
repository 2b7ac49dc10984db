"""`liveedit editors`: the methods, and the settings of one."""

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import pytest
from rich.cells import cell_len

from liveedit.cli.editors import type_name
from liveedit.editors import EDITORS, editor_class, training_command
from liveedit.editors.base import TrainableEditor
from liveedit.settings import Count, Index, Positive, Seed, Share


@dataclass(frozen=True)
class ExampleConfig:
    """Settings of an example.

    Arguments:
        layer: Decoder layer to edit, counted from 0; ``None``: after two thirds of the layers.
        gate: Images that pass, which is a long sentence, so that its lines have to be wrapped.
        eos: Whether every target ends with the end-of-text token.
    """

    layer: Index | None = None
    gate: Literal["vision", "both"] = "vision"
    eos: bool = False


def test_all_methods_are_listed(run):
    status, out, _ = run("editors")
    assert status == 0
    assert all(f"│ {name} " in out for name in EDITORS)


@pytest.mark.parametrize("name", sorted(EDITORS))
def test_the_registry_says_which_methods_are_trained(name):
    assert EDITORS[name].trained == issubclass(editor_class(name), TrainableEditor)


def test_the_list_says_what_each_is_ready_for(run, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "editor.safetensors").touch()
    status, out, _ = run("editors", "--json", "--trained", tmp_path)
    assert status == 0
    ready = {row["name"]: row["ready_for"] for row in json.loads(out)}
    assert ready["direct"] == ready["ft-l"] == ["any model"]
    assert ready["pinpoint"] == ready["mend"] == ["emblem"]


def test_a_command_that_trains_names_all_that_the_model_was_loaded_with(embedded_vlm):
    command = training_command(embedded_vlm, "mend", "my editors/x", "emblem")
    dtype = str(embedded_vlm.dtype).removeprefix("torch.")
    assert command == (
        "liveedit train 'my editors/x' --editor mend --model emblem "
        f"--dtype {dtype} --prompt-format {embedded_vlm.prompt_format}"
    )


def test_the_settings_of_a_method_fit_80_columns(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    example = SimpleNamespace(Config=ExampleConfig)
    monkeypatch.setattr("liveedit.cli.editors.resolve", lambda *_: example)
    status, out, err = run("editors", "wise")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("wise: ")
    assert max(map(cell_len, lines)) <= 80
    words = " ".join(out.split())
    assert "setting type default description" in words
    assert "layer int ≥ 0 or null null Decoder layer" in words
    assert "null: after two thirds" in words
    assert 'gate "vision" or "vision" Images that' in words
    assert "eos bool false Whether" in words


@pytest.mark.parametrize("name", sorted(EDITORS))
def test_the_settings_of_every_method_are_listed(run, name):
    status, out, err = run("editors", name)
    assert (status, err) == (0, "")
    assert "description" in out


def test_a_method_that_does_not_exist_is_one_line(run):
    status, out, err = run("editors", "wize")
    assert (status, out) == (1, "")
    assert err == "error: unknown editor 'wize': did you mean wise?\n"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Count, "int ≥ 1"),
        (Seed, "int ≥ 0"),
        (Share, "float ≥ 0, ≤ 1"),
        (Positive | None, "float > 0 or null"),
        (tuple[str, ...], "list of str"),
        (Literal["a", None], '"a" or null'),
    ],
)
def test_types_are_named_as_in_json(kind, name):
    assert type_name(kind) == name
