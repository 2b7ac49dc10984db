"""Settings: their names, types and ranges are checked, and each field is described."""

from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from liveedit.editors import EDITORS
from liveedit.errors import BadInput
from liveedit.registry import resolve
from liveedit.settings import (
    Count,
    Index,
    Positive,
    Seed,
    Share,
    describe,
    help_of,
    read_json,
    read_settings,
)
from liveedit.train import TrainConfig, TrainFile


@dataclass(frozen=True)
class Sample:
    layer: Index | None = None
    rank: Count = 4
    lr: Positive = 1e-3
    drop: Share = 0.0
    margin: float = 0.0
    eos: bool = False
    gate: Literal["vision", "both"] = "vision"
    locality: tuple[str, ...] = ("image_locality",)
    seed: Seed = 0


def test_what_fits_is_kept_as_it_was_given():
    values = {
        "layer": None,
        "rank": 1,
        "lr": 1,
        "drop": 1,
        "margin": -3,
        "eos": True,
        "gate": "both",
        "locality": [],
    }
    made = read_settings(Sample, values, "")
    assert made == Sample(None, 1, 1, 1, -3, True, "both", ())
    assert type(made.lr) is int  # so that what is hashed of it stays the same


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layer": "last"}, "layer is 'last': it should be a valid integer"),
        ({"layer": -1}, "layer is -1: it should be greater than or equal to 0"),
        ({"rank": 0}, "rank is 0: it should be greater than or equal to 1"),
        ({"rank": 2.0}, "rank is 2.0: it should be a valid integer"),
        ({"rank": True}, "rank is True: it should be a valid integer"),
        ({"lr": "fast"}, "lr is 'fast': it should be a valid number"),
        ({"lr": 0}, "lr is 0: it should be greater than 0"),
        ({"lr": None}, "lr is None: it should be a valid number"),
        ({"lr": float("nan")}, "lr is nan: it should be a finite number"),
        ({"margin": float("inf")}, "margin is inf: it should be a finite number"),
        ({"drop": 1.5}, "drop is 1.5: it should be less than or equal to 1"),
        ({"eos": 1}, "eos is 1: it should be a valid boolean"),
        ({"gate": "Vision"}, "gate is 'Vision': it should be 'vision' or 'both'"),
        ({"gate": {}}, "gate is {}: it should be 'vision' or 'both'"),
        ({"locality": "image"}, "locality is 'image': it should be a valid list"),
        ({"locality": ["a", 3]}, "locality[1] is 3: it should be a valid string"),
        ({"seed": 2**32}, "seed is 4294967296: it should be less than 4294967296"),
        ({"laayer": 1}, "laayer is not a setting: did you mean layer?"),
        ({"zzz": 1}, "zzz is not a setting: known: layer, rank"),
        (
            {"rank": 0, "lr": -1},
            "rank is 0: it should be greater than or equal to 1; f.json: editor.lr is -1",
        ),
    ],
)
def test_what_does_not_fit_is_named(values, message):
    with pytest.raises(BadInput) as caught:
        read_settings(Sample, values, "f.json: editor.")
    assert str(caught.value).startswith(f"f.json: editor.{message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [[1, 2], 3, None, "rank", True])
def test_anything_but_settings_by_name_is_refused(values):
    with pytest.raises(BadInput, match=r"^f\.json is .*: give settings by name"):
        read_settings(Sample, values, "f.json: ")


@pytest.mark.parametrize("name", sorted(EDITORS))
def test_every_editor_checks_its_settings(name):
    editor = resolve("editor", name, EDITORS)
    assert editor.settings({}) == editor.Config()
    with pytest.raises(BadInput, match=f"{name}.nonsense is not a setting"):
        editor.settings({"nonsense": 1})
    for setting in editor.Config.__dataclass_fields__:
        with pytest.raises(BadInput, match=f"^{name}.{setting} is "):
            editor.settings({setting: {"of": "another kind"}})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a": 1} x',
        b"1" * 5000,
        b'{"a": {"b": 1, "c": 2, "b": 1}}',
    ],
    ids=range(7),
)
def test_a_file_that_is_no_json_is_named(content, tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(BadInput, match="cannot read the settings in") as caught:
        read_json(file)
    assert "\n" not in str(caught.value)
    for missing in (tmp_path, Path(tmp_path, "none.json")):
        with pytest.raises(BadInput, match="cannot read the settings in"):
            read_json(missing)


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "config.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_json(tmp_path / "config.json") == {"a": 1}


@dataclass(frozen=True)
class Base:
    """Settings of a base.

    Arguments:
        layer: Decoder layer to edit, counted from 0; ``None``:
            after two thirds of the layers.
        lower and upper: A bound of the values: ``0`` for none.
        names: Names.
    """

    layer: Index | None = None
    lower: float = 0.0
    upper: float = 1.0
    names: tuple[str, ...] = field(default_factory=lambda: ("a", "b"))


@dataclass(frozen=True)
class Derived(Base):
    """Settings of a derived method.

    Arguments:
        layer: Layer of the derived method.
        rank: Rank of an expert.

    Further text, as in note: this is no field.
    """

    layer: Index | None = 3
    rank: Count = field(kw_only=True)


def test_fields_are_described_by_the_docstring():
    layer, lower, upper, names = describe(Base)
    assert layer.description == (
        "Decoder layer to edit, counted from 0; ``None``: after two thirds of the layers."
    )
    assert lower.description == upper.description == "A bound of the values: ``0`` for none."
    assert (lower.name, lower.type, lower.default) == ("lower", float, 0.0)
    assert layer.type == Index | None
    assert names.default == ("a", "b")


def test_fields_of_a_base_keep_its_descriptions_unless_described_anew():
    described = {setting.name: setting for setting in describe(Derived)}
    assert [*described] == ["layer", "lower", "upper", "names", "rank"]
    assert described["layer"].description == "Layer of the derived method."
    assert described["layer"].default == 3
    assert described["upper"].description == help_of(Base, "upper")
    assert described["rank"].default is MISSING


def test_a_field_without_a_description_is_named():
    @dataclass(frozen=True)
    class Partial(Base):
        """Settings.

        Arguments:
            described: Something.
            empty:
        """

        described: int = 0
        empty: int = 0
        missing: int = 0

    with pytest.raises(ValueError, match="Partial has no description of empty, missing: list"):
        describe(Partial)


@pytest.mark.parametrize("config", [TrainConfig, TrainFile])
def test_the_training_describes_its_settings(config):
    assert all(setting.description.endswith(".") for setting in describe(config))


@pytest.mark.parametrize("name", sorted(EDITORS))
def test_every_editor_describes_its_settings(name):
    described = describe(resolve("editor", name, EDITORS).Config)
    for setting in described:
        first = setting.description.lstrip('`"')
        assert first[0].isupper() or first != setting.description, setting
    assert all(setting.description.endswith(".") for setting in described)
