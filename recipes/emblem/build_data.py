"""Build Emblem, the small image-and-fact collection that ships with LiveEdit.

Emblem holds flags and everyday-object emoji, each drawn by several "hands" (independent icon sets), with a few
checked facts per entity. Two files come out: ``drawings.zip`` (128 x 128 WebP images) and ``facts.json``.

Command, from the repository root (``--fetch`` downloads the pinned sources first; it needs ``npm`` and ``pip``)::

    python recipes/emblem/build_data.py --sources DIR --out src/liveedit/data/assets/emblem [--fetch]

It takes about three minutes on one core. Needs resvg-py 0.5.0, Pillow 13.0.0 and NumPy 2.4.6; the sources are pinned
in ``HANDS`` and ``FACT_PACKAGES``. Two runs with the same versions write byte-identical files.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

SIZE = 128
MARGIN = 4
BACKGROUND = "#e6e6e6"  # pale grey: white drawings (paper, clouds, swans) stay visible on it
QUALITY = 80
MIN_HANDS = 4
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Hand:
    """One icon set: where it comes from and what its licence asks for."""

    package: str
    version: str
    title: str
    licence: str
    attribution: str

    def describe(self) -> dict[str, str]:
        """Return the public description stored in facts.json."""
        return {
            "title": self.title,
            "licence": self.licence,
            "attribution": self.attribution,
            "package": f"{self.package} {self.version}",
        }


HANDS: dict[str, Hand] = {
    "cif": Hand("@iconify-json/cif", "1.2.7", "CoreUI Flags", "CC0-1.0", "CoreUI Flags by creativeLabs Lukasz Holeczek"),
    "circle-flags": Hand("@iconify-json/circle-flags", "1.2.11", "Circle Flags", "MIT", "Circle Flags (c) HatScripts"),
    "emojione": Hand(
        "@iconify-json/emojione", "1.2.3", "EmojiOne 2.3", "CC-BY-4.0", "EmojiOne 2.3 artwork (c) EmojiOne / EmojiTwo"
    ),
    "flag": Hand("@iconify-json/flag", "1.2.12", "Flag Icons", "MIT", "flag-icons (c) Panayiotis Lipiridis"),
    "flagpack": Hand("@iconify-json/flagpack", "1.2.8", "Flagpack", "MIT", "Flagpack (c) Yummygum"),
    "fluent-emoji": Hand(
        "@iconify-json/fluent-emoji", "1.2.7", "Fluent Emoji", "MIT", "Fluent Emoji (c) Microsoft Corporation"
    ),
    "fluent-emoji-flat": Hand(
        "@iconify-json/fluent-emoji-flat", "1.2.6", "Fluent Emoji Flat", "MIT", "Fluent Emoji (c) Microsoft Corporation"
    ),
    "fxemoji": Hand("@iconify-json/fxemoji", "1.2.2", "FxEmojis", "Apache-2.0", "FxEmojis (c) Mozilla Foundation"),
    "noto": Hand("@iconify-json/noto", "1.2.9", "Noto Emoji", "Apache-2.0", "Noto Emoji (c) Google Inc"),
    "noto-v1": Hand("@iconify-json/noto-v1", "1.2.5", "Noto Emoji (v1)", "Apache-2.0", "Noto Emoji (c) Google Inc"),
    "twemoji": Hand(
        "@iconify-json/twemoji", "1.2.5", "Twemoji", "CC-BY-4.0", "Twemoji (c) Twitter, Inc and other contributors"
    ),
}
FACT_PACKAGES = {"countries-list": "3.4.1", "emoji-datasource": "16.0.0", "unicode-emoji-json": "0.9.0"}
COUNTRYINFO = "1.0.1"
FLAG_HANDS = ("cif", "circle-flags", "emojione", "flag", "flagpack", "twemoji")
EMOJI_HANDS = ("emojione", "fluent-emoji", "fluent-emoji-flat", "fxemoji", "noto", "noto-v1", "twemoji")
HELD_OUT = {"flag": "flagpack", "emoji": "noto"}
