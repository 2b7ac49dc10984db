"""Opens editors saved by versions in which `liveedit` named both the published method and pinpoint.

At that time a setting chose between the two. Such a folder opens under the method's current name.
"""

from collections.abc import Mapping
from typing import Any

from liveedit.errors import BadInput

__all__ = ["PINPOINT", "PUBLISHED", "SHIPPED", "renamed"]

PUBLISHED: dict[str, Any] = {
    "generator": "released",
    "features": "released",
    "negatives": "released",
    "written": None,
    "drop": 0.0,
}
PINPOINT: dict[str, Any] = {"generator": "aligned", "features": "metric", "negatives": "hard"}
"""The settings that distinguished the two methods; they are no longer settings."""

SHIPPED = {"78db50f8987b233e4a1b69123bed17d96c5b043f7a15ee9ca1e6e5d0daf5e133": "pinpoint-1"}
"""The folder, by its old fingerprint, of each editor that shipped with an earlier version.

The folders are now stored in half precision; with these fingerprints they still open old edits.
"""

NAMES = (("pinpoint", PINPOINT), ("liveedit", PUBLISHED | {"gate": "vision"}))


def renamed(info: Mapping[str, Any]) -> dict[str, Any]:
    """The content of an editor's ``config.json`` with current names of methods and settings.

    Raises :class:`BadInput` for a mixture of the published method and pinpoint.
    """
    settings = dict(info.get("config") or {})
    if info.get("editor") != "liveedit" or "generator" not in settings:
        return dict(info)
    for name, fixed in NAMES:
        if all(settings.get(key) == value for key, value in fixed.items()):
            kept = {key: value for key, value in settings.items() if key not in fixed}
            return {**info, "editor": name, "config": kept}
    raise BadInput(
        "this editor mixes LiveEdit and pinpoint, which no method does any more: train one of them"
    )
