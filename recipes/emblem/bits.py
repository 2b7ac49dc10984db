"""Compare edits made on the full model and used on its quantised forms with edits made there.

    python recipes/emblem/bits.py [--editor pinpoint] [--cases 20]

Each case is edited alone and evaluated by free generation; the numbers are exact match in percent.
Time: under five minutes on one core.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import track
from rich.table import Table

from liveedit.data import load_cases
from liveedit.editable import EditableVLM, embedded, load_vlm
from liveedit.editors import load_editor
from liveedit.measures.scores import normalise
from liveedit.types import Case, Query

METRICS = ("reliability", "text_generality", "image_generality")
BITS = ("8bit", "4bit")


def asked(case: Case) -> dict[str, Query]:
    """The first question of the case for each of ``METRICS``."""
    found = {"reliability": case.edits[0]}
    for probe in case.probes:
        found.setdefault(probe.metric, probe.query)
    return {metric: found[metric] for metric in METRICS}


def right(model: EditableVLM, queries: dict[str, Query]) -> list[bool]:
    """Whether each question is answered with its target."""
    answers = model.generate(list(queries.values()))
    pairs = zip(answers, queries.values(), strict=True)
    return [normalise(answer) == normalise(query.target) for answer, query in pairs]


def made(model: EditableVLM, cases: Sequence[Case], pools: Path) -> Iterator[list[bool]]:
    """Results of each case's edit on the model that it is made on; edits are saved in ``pools``."""
    for case in track(cases, "made"):
        [edit] = model.edit(case.edits)
        model.save(pools / case.id.replace("/", "-"))
        yield right(model, asked(case))
        model.forget(edit.id)


def opened(model: EditableVLM, cases: Sequence[Case], pools: Path) -> Iterator[list[bool]]:
    """Results of each case's edit as loaded from ``pools``."""
    for case in track(cases, "opened"):
        model.load(pools / case.id.replace("/", "-"))
        yield right(model, asked(case))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--editor", default="pinpoint")
    parser.add_argument("--cases", type=int, default=20)
    args = parser.parse_args()
    cases = load_cases("emblem", "test", 0)[: args.cases]
    table = Table("edits", *METRICS)

    def row(name: str, results: Iterator[list[bool]]) -> None:
        columns = zip(*results, strict=True)
        table.add_row(name, *(f"{100 * sum(column) / len(cases):.0f}" for column in columns))

    with TemporaryDirectory() as folder:
        for bits in (None, *BITS):
            vlm = load_vlm(quantize=bits)
            editor = load_editor(vlm, embedded(args.editor))
            name = bits or "full"
            pools = Path(folder)
            if bits:
                row(
                    f"made in full, asked in {name}",
                    opened(EditableVLM(vlm, editor), cases, pools / "full"),
                )
            row(f"made and asked in {name}", made(EditableVLM(vlm, editor), cases, pools / name))
    Console().print(table)


if __name__ == "__main__":
    main()
