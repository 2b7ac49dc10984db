"""Editors saved before `liveedit` was the published method alone and ours was called `pinpoint`.

Both were one method then, and settings told them apart. Such a folder opens under the name that it
has now.
"""

from collections.abc import Mapping
from typing import Any

from liveedit.errors import BadInput

__all__ = ["OURS", "PUBLISHED", "SHIPPED", "renamed"]

PUBLISHED: dict[str, Any] = {
    "generator": "released",
    "features": "released",
    "negatives": "released",
    "written": None,
    "drop": 0.0,
}
OURS: dict[str, Any] = {"generator": "aligned", "features": "metric", "negatives": "hard"}
"""The settings by which the two were told apart; no others are left to choose."""

SHIPPED = {"78db50f8987b233e4a1b69123bed17d96c5b043f7a15ee9ca1e6e5d0daf5e133": "pinpoint-1"}
"""Editors that shipped once, now in half precision: by fingerprint their folders. Their pools open
with them.
"""

NAMES = (("pinpoint", OURS), ("liveedit", PUBLISHED | {"gate": "vision"}))


def renamed(about: Mapping[str, Any]) -> dict[str, Any]:
    """What an editor's ``config.json`` says, in today's names.

    Raises :class:`BadInput` for a mixture of the published method and ours, and for what is no such
    file.
    """
    settings = dict(about.get("config") or {})
    if about.get("editor") != "liveedit" or "generator" not in settings:
        return dict(about)
    for name, fixed in NAMES:
        if all(settings.get(key) == value for key, value in fixed.items()):
            return {
                **about,
                "editor": name,
                "config": {k: v for k, v in settings.items() if k not in fixed},
            }
    raise BadInput(
        "this editor mixes LiveEdit and pinpoint, which no method does any more: train one of them"
    )
