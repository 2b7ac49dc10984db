"""Settings: frozen dataclasses, checked by the types of their fields and documented in one place.

    @dataclass(frozen=True)
    class Config:
        layer: Index = 21
        lr: Positive = 1e-4
        schedule: Literal["step", "cosine"] = "step"

:func:`read_settings` makes such an object from JSON. Types are strict: a bool is not a number, a
number not a text. Values are checked but never converted, so that they are stored and hashed as
they were given.

The docstring of a config lists its fields, one entry each, under a line ``Arguments:``.
:func:`describe` returns them for ``--help`` and ``liveedit editors NAME``, and
:func:`own_descriptions` those of one class for the reference.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from inspect import cleandoc
from pathlib import Path
from reprlib import repr as shown
from typing import Annotated, Any, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Interval, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from liveedit.errors import BadInput
from liveedit.registry import nearest
from liveedit.types import expanded

__all__ = [
    "Count",
    "Index",
    "NotNegative",
    "Positive",
    "Seed",
    "Setting",
    "Share",
    "check",
    "check_seed",
    "describe",
    "help_of",
    "own_descriptions",
    "read_json",
    "read_settings",
]

Count = Annotated[int, Interval(ge=1, le=10**9)]
"""A positive number. The upper bound keeps sizes within torch's int64; no run needs more."""
Index = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Seed = Annotated[int, Ge(0), Lt(2**32)]
"""A seed that the random generators of Python, numpy and torch all accept."""

Config = TypeVar("Config")

ENTRY = re.compile(
    r"^ {4}([a-z_0-9]+)(?: and ([a-z_0-9]+))?:((?:.*\n?)(?: {8}.*\n?|\n)*)", re.MULTILINE
)
"""One entry of a docstring's list of arguments: one or two names, and the description."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of a config: its type with the constraints, its default, and its description.

    ``default`` is ``dataclasses.MISSING`` where the field has none.
    """

    name: str
    type: Any
    default: Any
    description: str


def describe(config: type[Any]) -> tuple[Setting, ...]:
    """The fields of a config, those of its bases included, in their order.

    Descriptions come from the list ``Arguments:`` in the docstring of the class, or of the nearest
    base that describes the field. Raises ``ValueError`` for a field that none describes.
    """
    types = get_type_hints(config, include_extras=True)
    descriptions: dict[str, str] = {}
    for base in reversed(config.__mro__):
        descriptions |= own_descriptions(base)
    known = fields(config)
    if missing := [field.name for field in known if field.name not in descriptions]:
        raise ValueError(
            f"{config.__name__} has no description of {', '.join(missing)}: "
            'list the field under "Arguments:" in its docstring'
        )
    return tuple(
        Setting(field.name, types[field.name], _default(field), descriptions[field.name])
        for field in known
    )


def help_of(config: type[Any], name: str) -> str:
    """The description of one field of a config. Raises ``KeyError`` for a name that it lacks."""
    return {setting.name: setting.description for setting in describe(config)}[name]


def own_descriptions(config: type[Any]) -> dict[str, str]:
    """The descriptions in a class's own docstring, by the names of the fields."""
    own = vars(config).get("__doc__") or ""
    _, _, listed = cleandoc(own).partition("\nArguments:\n")
    found: dict[str, str] = {}
    for first, second, text in ENTRY.findall(listed):
        description = " ".join(text.split())
        for name in filter(None, (first, second)):
            found[name] = description
    return {name: description for name, description in found.items() if description}


def _default(field: Field[Any]) -> Any:
    """The default of a field, ``MISSING`` where there is none."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def check_seed(seed: int) -> None:
    """Raise :class:`BadInput` for a seed that is no :data:`Seed`."""
    if wrong := faults(TypeAdapter(Seed, config=ConfigDict(strict=True)), seed, "seed"):
        raise BadInput(wrong[0])


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises :class:`BadInput` where it cannot be read, is not JSON, or gives a name twice.
    """
    try:
        return json.loads(expanded(file).read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "nested too deep"
        closed = isinstance(error, PermissionError)
        advice = "check its permissions" if closed else "give a file of JSON"
        raise BadInput(f"cannot read the settings in {file} ({reason}): {advice}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ``ValueError`` for a name given twice, of which one would be lost."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:40]!r} is given more than once")
        found[name] = value
    return found


def read_settings(kind: type[Config], values: object, where: str) -> Config:
    """The dataclass ``kind`` with ``values`` read from JSON; lists become tuples.

    ``where`` is the prefix of names in messages, such as ``"config.json: editor."``. Raises
    :class:`BadInput`, one line with all faults, where ``values`` are not a mapping, for an unknown
    name and for a value that the field does not accept.
    """
    if not isinstance(values, Mapping):
        raise BadInput(
            f"{where.rstrip('.: ')} is {shown(values)}: give settings by name, as in {{…}}"
        )
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if unknown := [str(name) for name in values if name not in known]:
        lines = [f"{where}{name} is not a setting: {nearest(name, known)}" for name in unknown]
        raise BadInput("; ".join(lines))
    made = kind(**{name: _hashable(value) for name, value in values.items()})
    check(made, where)
    return made


def _hashable(value: Any) -> Any:
    """A list of JSON as a tuple, any other value unchanged."""
    return tuple(value) if isinstance(value, list) else value


def check(made: Any, where: str) -> None:
    """Raise :class:`BadInput`, in one line, if values of a dataclass do not fit their fields."""
    wrong: list[str] = []
    for name, kind in validators(type(made)).items():  # type: ignore[arg-type]  # a class can be hashed
        wrong += faults(kind, getattr(made, name), name)
    if wrong:
        raise BadInput("; ".join(where + line for line in wrong))


@cache
def validators(kind: type[Any]) -> dict[str, TypeAdapter[Any]]:
    """The validator of each field of a dataclass."""
    types = get_type_hints(kind, include_extras=True)
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    return {field.name: TypeAdapter(types[field.name], config=strict) for field in fields(kind)}


def faults(kind: TypeAdapter[Any], value: object, name: str) -> list[str]:
    """The faults of a value, one per line: ``lr is 'fast': it should be a valid number``."""
    try:
        kind.validate_python(value)
    except ValidationError as error:
        return [_line(name, fault) for fault in error.errors(include_url=False)]
    return []


def _line(name: str, fault: ErrorDetails) -> str:
    """One fault that pydantic found, in words for people who write JSON."""
    field = name + "".join(f"[{part}]" for part in fault["loc"])
    message = fault["msg"].replace("Input", "it", 1).replace("tuple", "list")
    return f"{field} is {shown(fault['input'])}: {message}"
