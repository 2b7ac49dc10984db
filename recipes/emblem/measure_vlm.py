r"""Measure the embedded VLM by free greedy generation, and list its wrong answers.

    python recipes/emblem/measure_vlm.py --out docs/explanation/results/emblem-vlm.json \
        --wrong src/liveedit/data/emblem/assets/wrong.json

Every drawing of every entity is asked for every relation that can be edited, in one random seen
wording and one random unseen one; every text fact likewise. The score is exact match after
stripping blanks. The wrong (artist, entity, relation) in seen wordings become the benchmark
"emblem-corrections".

Time: about 12 minutes on two cores.
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

from liveedit.data.emblem.drawings import EDITED, UNSEEN_ARTISTS, Emblem
from liveedit.data.emblem.wordings import IMAGE_RELATIONS, Split, wordings
from liveedit.editable import load_vlm
from liveedit.models.vlm import VLM
from liveedit.types import Query

SPLITS: tuple[Split, ...] = ("seen", "unseen")
Asked = tuple[str, tuple[str, str, str], Query]
"""Row of the table, (artist, entity, relation), and the question with its right answer."""


def drawing_questions(emblem: Emblem, split: Split) -> Iterator[Asked]:
    """Questions for every relation of every drawing, in one wording each."""
    pick = random.Random(split)
    for entity in emblem.entities.values():
        for artist in entity.artists:
            image = emblem.drawing(artist, entity.id)
            for name in EDITED[entity.sort]:
                relation = IMAGE_RELATIONS[name]
                unseen = artist == UNSEEN_ARTISTS[entity.sort]
                prompt = pick.choice(wordings(relation, split))
                query = Query(prompt, str(emblem.answer(relation, entity)), image)
                row = f"{name}, hand {'unseen' if unseen else 'seen'}, wording {split}"
                yield row, (artist, entity.id, name), query


def text_questions(emblem: Emblem, split: Split) -> Iterator[Asked]:
    """Questions for every text fact, in one wording each."""
    pick = random.Random(split)
    for entity in emblem.entities.values():
        for relation, subject, answer in emblem.text_facts(entity):
            query = Query(pick.choice(wordings(relation, split, subject=subject)), answer)
            yield f"text facts, wording {split}", ("", entity.id, relation.name), query


def measure(vlm: VLM, asked: list[Asked]) -> Iterator[tuple[Asked, bool]]:
    """Generate all answers; whether each is right."""
    for start in track(range(0, len(asked), 64), description="asking"):
        part = asked[start : start + 64]
        answers = vlm.generate([query for _, _, query in part], batch_size=64)
        for row, answer in zip(part, answers, strict=True):
            yield row, answer == row[2].target


def main() -> None:
    """Ask all questions; print and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="emblem")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--wrong", type=Path)
    parser.add_argument("--share", type=int, default=1, help="ask every SHARE-th question only")
    args = parser.parse_args()
    emblem = Emblem()
    vlm = load_vlm(args.model)
    asked: list[Asked] = []
    for split in SPLITS:
        asked += drawing_questions(emblem, split)
        asked += text_questions(emblem, split)
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
        listed = json.dumps(sorted(wrong), separators=(",", ":"))
        args.wrong.write_text(listed + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
