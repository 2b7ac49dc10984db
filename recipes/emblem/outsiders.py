"""Ask edited models about drawings by artists whom neither the model nor an editor has seen.

    python recipes/emblem/outsiders.py direct pinpoint serac --sources DIR --fetch

The artists are those in ``OUTSIDERS``; Emblem does not contain them, so nothing was chosen by them
either. ``DIR`` holds their packages and Emblem's, which ``--fetch`` downloads. With ``EDITS`` edits
of Emblem's test on the embedded model, the edits' questions are asked about other drawings of the
same things. Written is ``docs/explanation/results/outsiders.json``: for each editor, artist and
sort the number of drawings, how many the unedited model recognises, of how many of these the answer
is the edited one, and of how many of all. ``results.py`` puts them into its page.
"""

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from build_data import ARTISTS, Artist, Sources, draw, emoji_icons, fetch, flag_icons
from PIL import Image

from liveedit import load
from liveedit.data import load_cases
from liveedit.data.emblem.drawings import UNSEEN_ARTISTS, Emblem, Entity
from liveedit.data.emblem.wordings import IMAGE_RELATIONS
from liveedit.models.vlm import VLM
from liveedit.types import Case, Query

OUTSIDERS = {
    "emojione-v1": Artist("emojione-v1", "1.2.3", "EmojiOne 1", "CC-BY-SA-4.0", "EmojiOne"),
    "openmoji": Artist("openmoji", "1.2.29", "OpenMoji", "CC-BY-SA-4.0", "OpenMoji"),
    "streamline": Artist(
        "streamline-emojis", "1.2.4", "Streamline Emojis", "CC-BY-4.0", "Streamline"
    ),
}
EDITS = 1000
CASES = 200
"""Cases whose things are asked about."""
SEEN = "seen artists"
"""Stands for the artists whose drawings the model has seen: one a case, not the edit's own."""
MISTAKEN = {("streamline", "emoji-1f983")}
"""Icons that show something else: the flag of Turkey, not the bird."""
OUT = Path(__file__).parents[2] / "docs" / "explanation" / "results" / "outsiders.json"


@dataclass(frozen=True)
class Asked:
    """A question about a drawing that the edited model should answer as the edit says.

    Arguments:
        artist: Who made the drawing.
        sort: Sort of the thing that it shows.
        truth: The answer of a model that recognises it.
        query: The question, with the edited answer.
    """

    artist: str
    sort: str
    truth: str
    query: Query


def icon_names(sources: Sources, entity: Entity) -> dict[str, list[str]]:
    """Candidate icon names by outsider: by code point, else by the names of other sets."""
    if entity.sort == "flag":
        names = flag_icons(sources, entity.facts["code"])
        return {"openmoji": names["twemoji"], "emojione-v1": names["emojione"]}
    code = entity.id.partition("-")[2]
    known = emoji_icons(sources, code)["emojione"]
    return {
        "openmoji": [sources.codes["openmoji"].get(code, ""), *known],
        "emojione-v1": known,
        "streamline": known,
    }


def drawn(sources: Sources, entity: Entity) -> Iterator[tuple[str, Image.Image]]:
    """An entity's drawings by the outsiders who drew it."""
    for artist, names in icon_names(sources, entity).items():
        svgs = [svg for name in names if name and (svg := sources.icon(artist, name))]
        if svgs and (artist, entity.id) not in MISTAKEN:
            yield artist, draw(svgs[0])


def asked_about(emblem: Emblem, sources: Sources, case: Case) -> Iterator[Asked]:
    """The edit's question about other drawings of the same entity."""
    [edit] = case.edits
    id, _, name = edit.fact.partition(":")
    entity = emblem.entities[id]
    truth = str(emblem.answer(IMAGE_RELATIONS[name], entity))
    own = case.id.rpartition(":")[2]
    others = [artist for artist in entity.seen_artists if artist != own]
    seen = random.Random(case.id).choice(others)
    held_out = UNSEEN_ARTISTS[entity.sort]
    known = [(SEEN, emblem.drawing(seen, id)), (held_out, emblem.drawing(held_out, id))]
    for artist, image in chain(known, drawn(sources, entity)):
        yield Asked(artist, entity.sort, truth, replace(edit, image=image))


def answers(vlm: VLM, asked: list[Asked]) -> list[str]:
    """The model's answers, without spaces around them."""
    return [answer.strip() for answer in vlm.generate([replace(a.query, target="") for a in asked])]


def counted(asked: list[Asked], before: list[str], after: list[str]) -> list[dict[str, object]]:
    """The counts by artist and sort."""
    rows = []
    for artist, sort in sorted({(a.artist, a.sort) for a in asked}):
        here = [i for i, a in enumerate(asked) if (a.artist, a.sort) == (artist, sort)]
        recognised = [i for i in here if before[i] == asked[i].truth]
        rows.append(
            {
                "artist": artist,
                "sort": sort,
                "drawings": len(here),
                "recognised": len(recognised),
                "edited_of_recognised": sum(after[i] == asked[i].query.target for i in recognised),
                "edited": sum(after[i] == asked[i].query.target for i in here),
            }
        )
    return rows


def measured(editors: list[str], sources: Sources) -> dict[str, list[dict[str, object]]]:
    """The counts by editor."""
    emblem = Emblem()
    cases = load_cases("emblem", "test", 0)[:EDITS]
    asked = list(chain.from_iterable(asked_about(emblem, sources, case) for case in cases[:CASES]))
    found = {}
    for name in editors:
        model = load(editor=name)
        before = answers(model.vlm, asked)
        with model.vlm.patched(model.editor.edit([case.edits[0] for case in cases])):
            found[name] = counted(asked, before, answers(model.vlm, asked))
        print(name, json.dumps(found[name], indent=1), flush=True)
    return found


def main() -> None:
    """Measure, print and write the counts; those of editors measured before stay."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("editors", nargs="+")
    parser.add_argument("--sources", type=Path, required=True)
    parser.add_argument("--fetch", action="store_true")
    args = parser.parse_args()
    artists = ARTISTS | OUTSIDERS
    if args.fetch:
        fetch(args.sources, artists)
    old = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    found = old | measured(args.editors, Sources(args.sources, artists))
    OUT.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
