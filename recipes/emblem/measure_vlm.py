"""Measure the embedded VLM by free greedy generation, and list what it gets wrong.

    python recipes/emblem/measure_vlm.py --out docs/explanation/results/emblem-vlm.json --wrong src/liveedit/data/emblem/assets/wrong.json

Every drawing of every entity is asked every relation that can be edited, in a wording drawn at
random from the seen ones (seed 0) and in one from the unseen ones; every text fact likewise. Exact
match after stripping blanks. The wrong (hand, entity, relation) triples, asked in seen wordings,
become the benchmark "emblem-corrections". About 12 minutes on two cores.
"""

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from liveedit.data.emblem.drawings import EDITED, UNSEEN_HANDS, Emblem
from liveedit.data.emblem.wordings import IMAGE_RELATIONS, Split, wordings
from liveedit.editable import load_vlm
from liveedit.models.vlm import VLM
from liveedit.types import Query

Asked = tuple[str, tuple[str, str, str], Query]
"""The row of the table it counts in, (hand, entity, relation), and the question with its right
answer.
"""


def about_drawings(emblem: Emblem, split: Split) -> Iterator[Asked]:
    """Every drawing, every relation, one wording each."""
    pick = random.Random(split)
    for entity in emblem.entities.values():
        for hand in entity.hands:
            image = emblem.drawing(hand, entity.id)
            for name in EDITED[entity.sort]:
                relation = IMAGE_RELATIONS[name]
                hands = "hand unseen" if hand == UNSEEN_HANDS[entity.sort] else "hand seen"
                query = Query(
                    pick.choice(wordings(relation, split)),
                    str(emblem.answer(relation, entity)),
                    image,
                )
                yield f"{name}, {hands}, wording {split}", (hand, entity.id, name), query


def about_text(emblem: Emblem, split: Split) -> Iterator[Asked]:
    """Every text fact, one wording each."""
    pick = random.Random(split)
    for entity in emblem.entities.values():
        for relation, subject, answer in emblem.text_facts(entity):
            query = Query(pick.choice(wordings(relation, split, subject=subject)), answer)
            yield f"text facts, wording {split}", ("", entity.id, relation.name), query


def measure(vlm: VLM, asked: list[Asked]) -> Iterator[tuple[Asked, bool]]:
    """Whether each question is answered right."""
    for start in track(range(0, len(asked), 64), description="asking"):
        part = asked[start : start + 64]
        for row, answer in zip(
            part, vlm.generate([query for _, _, query in part], batch_size=64), strict=True
        ):
            yield row, answer == row[2].target


def main() -> None:
    """Ask everything; write and print what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="emblem")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--wrong", type=Path)
    parser.add_argument("--share", type=int, default=1, help="ask only every SHARE-th question")
    args = parser.parse_args()
    emblem, vlm = Emblem(), load_vlm(args.model)
    asked = [
        row
        for split in ("seen", "unseen")
        for make in (about_drawings, about_text)
        for row in make(emblem, split)
    ]
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    wrong = []
    for (name, key, _), correct in measure(vlm, asked[:: args.share]):
        counts[name][0] += correct
        counts[name][1] += 1
        if not correct and key[0] and name.endswith("wording seen"):
            wrong.append(key)
    table = Table("asked", "exact match", "questions")
    for name, (right, total) in sorted(counts.items()):
        table.add_row(name, f"{right / total:.3f}", str(total))
    Console().print(table)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    found = {
        name: {"exact_match": right / total, "questions": total}
        for name, (right, total) in sorted(counts.items())
    }
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if args.wrong:
        args.wrong.write_text(
            json.dumps(sorted(wrong), separators=(",", ":")) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
