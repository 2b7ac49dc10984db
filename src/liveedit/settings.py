"""Settings: frozen dataclasses whose fields say what they take, read from JSON and checked whole.

    @dataclass(frozen=True)
    class Config:
        layer: Index = 21
        lr: Positive = 1e-4
        schedule: Literal["step", "cosine"] = "step"

Types are strict: a bool is no number, a number no text. Values are checked, never converted, so
that what is stored and hashed of them stays as it was given.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from reprlib import repr as shown
from typing import Annotated, Any, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Interval, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from liveedit.errors import BadInput
from liveedit.registry import nearest
from liveedit.types import expanded

__all__ = [
    "Count",
    "Index",
    "NotNegative",
    "Positive",
    "Seed",
    "Share",
    "check",
    "check_seed",
    "read_json",
    "read_settings",
]

Count = Annotated[int, Interval(ge=1, le=10**9)]
"""How many of something: with more than a billion no run would ever end, and torch counts to 2⁶³.
"""
Index = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Seed = Annotated[int, Ge(0), Lt(2**32)]
"""What every generator of random numbers takes."""

Config = TypeVar("Config")


def check_seed(seed: int) -> None:
    """Raise :class:`BadInput` for a seed that is no :data:`Seed`."""
    if wrong := faults(TypeAdapter(Seed, config=ConfigDict(strict=True)), seed, "seed"):
        raise BadInput(wrong[0])


def read_json(file: Path) -> Any:
    """What a JSON file holds. Raises :class:`BadInput` where it cannot be read as one, or names
    anything twice.
    """
    try:
        return json.loads(expanded(file).read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "nested too deep"
        advice = (
            "check its permissions" if isinstance(error, PermissionError) else "give a file of JSON"
        )
        raise BadInput(f"cannot read the settings in {file} ({reason}): {advice}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ``ValueError`` for a name that is there twice, of which one would be
    passed over.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"{next(name for name in names if names.count(name) > 1)[:40]!r} is there more than once"
        )
    return found


def read_settings(kind: type[Config], values: object, where: str) -> Config:
    """The dataclass ``kind`` with ``values``, read from JSON; lists become tuples. ``where`` stands
    before a name.

    Raises :class:`BadInput`, in one line about all that is wrong, for anything but settings by
    name, for a name that does not exist and for a value that the field does not take.
    """
    if not isinstance(values, Mapping):
        raise BadInput(
            f"{where.rstrip('.: ')} is {shown(values)}: give settings by name, as in {{…}}"
        )
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if unknown := [str(name) for name in values if name not in known]:
        raise BadInput(
            "; ".join(f"{where}{name} is no setting: {nearest(name, known)}" for name in unknown)
        )
    made = kind(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
    )
    check(made, where)
    return made


def check(made: Any, where: str) -> None:
    """Raise :class:`BadInput`, in one line, if fields of a dataclass hold what they do not take."""
    kinds = hints(type(made))  # type: ignore[arg-type]  # a class can be hashed
    wrong = [
        line for name, kind in kinds.items() for line in faults(kind, getattr(made, name), name)
    ]
    if wrong:
        raise BadInput("; ".join(where + line for line in wrong))


@cache
def hints(kind: type[Any]) -> dict[str, TypeAdapter[Any]]:
    """What checks each field of a dataclass."""
    types = get_type_hints(kind, include_extras=True)
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    return {field.name: TypeAdapter(types[field.name], config=strict) for field in fields(kind)}


def faults(kind: TypeAdapter[Any], value: object, name: str) -> list[str]:
    """What is wrong with a value, by the place in it, as in ``lr is 'fast': it should be a valid
    number``.
    """
    try:
        kind.validate_python(value)
    except ValidationError as error:
        return [
            f"{name}{''.join(f'[{part}]' for part in fault['loc'])} is {shown(fault['input'])}: "
            f"{fault['msg'].replace('Input', 'it', 1).replace('tuple', 'list')}"
            for fault in error.errors(include_url=False)
        ]
    return []
