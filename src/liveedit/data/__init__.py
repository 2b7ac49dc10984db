"""Benchmarks: named sets of cases for training and evaluation.

Adding a benchmark is one file with the function that makes its cases, and one entry in
:data:`BENCHMARKS`; one of your own corrections is a command, ``liveedit data add``. Importing this
package loads nothing heavy.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from liveedit.errors import BadInput, UnknownName
from liveedit.registry import nearest, resolve

if TYPE_CHECKING:
    from liveedit.types import Case

__all__ = ["BENCHMARKS", "Benchmark", "load_cases"]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Entry of a benchmark in :data:`BENCHMARKS`.

    Arguments:
        where: Function that makes the cases, ``"module:function"``. It takes (part, seed); that of
            a published benchmark takes (part, seed, split, prompts).
        title: One line about it, for ``liveedit data``.
        files: Name under which ``liveedit data add`` keeps the files of a published benchmark;
            ``None``: the benchmark ships with the package.
    """

    where: str
    title: str
    files: str | None = None


BENCHMARKS: dict[str, Benchmark] = {
    "emblem": Benchmark(
        "liveedit.data.emblem.cases:counterfactuals",
        "flags and emoji drawn by several artists; edits give answers of another entity",
    ),
    "emblem-corrections": Benchmark(
        "liveedit.data.emblem.cases:corrections",
        "the same drawings; edits correct the embedded model's wrong answers",
    ),
    "e-vqa": Benchmark(
        "liveedit.data.published.mmedit:e_vqa",
        "MMEdit: questions about COCO photos that BLIP-2 answered wrongly",
        files="e-vqa",
    ),
    "e-ic": Benchmark(
        "liveedit.data.published.mmedit:e_ic",
        "MMEdit: captions of COCO photos that BLIP-2 got wrong",
        files="e-ic",
    ),
    "vlkeb": Benchmark(
        "liveedit.data.published.vlkeb:vlkeb",
        "photos of entities; edits give answers of another entity",
        files="vlkeb",
    ),
    "vlkeb-multihop": Benchmark(
        "liveedit.data.published.vlkeb:multihop",
        "vlkeb, and what follows from the edit over 1 to 4 hops",
        files="vlkeb",
    ),
    "vlkeb-onehop": Benchmark(
        "liveedit.data.published.vlkeb:onehop",
        "vlkeb, and what follows over one hop",
        files="vlkeb",
    ),
    "vlkeb-onehop-edited": Benchmark(
        "liveedit.data.published.vlkeb:onehop_edited",
        "vlkeb-onehop, where the connecting fact is edited too",
        files="vlkeb",
    ),
    "mc-mke-ie": Benchmark(
        "liveedit.data.published.mcmke:ie",
        "MC-MKE: which entity a photo shows; then what follows from the new one",
        files="mc-mke",
    ),
    "mc-mke-iro": Benchmark(
        "liveedit.data.published.mcmke:iro",
        "MC-MKE: facts edited through photos; then the same in text",
        files="mc-mke",
    ),
    "mc-mke-sro": Benchmark(
        "liveedit.data.published.mcmke:sro",
        "MC-MKE: facts edited in text; then the same through photos",
        files="mc-mke",
    ),
    "mined": Benchmark(
        "liveedit.data.published.mined:mined",
        "MINED: photos of companies, countries …; edits give the answers of today",
        files="mined",
    ),
    "mined-succession": Benchmark(
        "liveedit.data.published.mined:succession",
        "mined, after an edit that gave the answer before: the newest must win",
        files="mined",
    ),
    "livevqa-news": Benchmark(
        "liveedit.data.published.livevqa:news",
        "LiveVQA: what pictures of the news show; then a fact behind it",
        files="livevqa-news",
    ),
    "livevqa-paper": Benchmark(
        "liveedit.data.published.livevqa:paper",
        "LiveVQA: the papers that figures are from; then what is in them",
        files="livevqa-paper",
    ),
    "livevqa-video": Benchmark(
        "liveedit.data.published.livevqa:video",
        "LiveVQA: what pictures of videos show; then a fact behind it",
        files="livevqa-video",
    ),
    "mmke-entity": Benchmark(
        "liveedit.data.published.mmke:entity",
        "MMKE-Bench: long texts about the entities in photos",
        files="mmke-entity",
    ),
    "mmke-visual": Benchmark(
        "liveedit.data.published.mmke:visual",
        "MMKE-Bench: long texts about what gestures and actions in photos mean",
        files="mmke-visual",
    ),
    "mmke-user": Benchmark(
        "liveedit.data.published.mmke:user",
        "MMKE-Bench: long texts about a user's own things in photos",
        files="mmke-user",
    ),
    "comprehendedit": Benchmark(
        "liveedit.data.published.comprehendedit:comprehendedit",
        "ComprehendEdit: photos with eight kinds of questions, from counting to reading",
        files="comprehendedit",
    ),
    "fgvedit": Benchmark(
        "liveedit.data.published.fgvedit:fgvedit",
        "FGVEdit: one thing in a photo of several; the others must stay",
        files="fgvedit",
    ),
    "cckeb": Benchmark(
        "liveedit.data.published.cckeb:cckeb",
        "photos as in vlkeb, each with an edit in text; and what follows from both",
        files="cckeb",
    ),
}


def load_cases(
    name: str,
    part: Literal["train", "val", "test"],
    seed: int = 0,
    *,
    split: str = "clean",
    prompts: str = "plain",
) -> "list[Case]":
    """The cases of one part of a benchmark, in an order given by ``seed``.

    Arguments:
        name: Name in :data:`BENCHMARKS`, or of a benchmark of one's own.
        part: Part of the benchmark; a published one has no ``"val"``.
        seed: Seed of the order and of all random choices. For a published benchmark, 0 is the
            order of its file.
        split: ``"clean"``: training without subjects of the test, and hard probes added;
            ``"paper"``: as published, for published benchmarks only.
        prompts: ``"plain"``: one template for all questions; ``"paper"``: the released templates,
            for published benchmarks only.

    Raises :class:`UnknownName` for another benchmark, :class:`BadInput` for another value of any
    other argument.
    """
    from liveedit.settings import check_seed  # imports pydantic

    published = name in BENCHMARKS and BENCHMARKS[name].files is not None
    make = _maker(name)
    check_seed(seed)
    if part not in ("train", "val", "test"):
        raise BadInput(f"no benchmark has a part '{part}': choose train, val or test")
    _check_choice("split", split, ("clean", "paper"))
    _check_choice("prompts", prompts, ("plain", "paper"))
    for option, value in (("split", split), ("prompts", prompts)):
        if value == "paper" and not published:
            raise BadInput(f"{name} has one split and one form of prompts: leave --{option} out")
    cases: list[Case] = make(part, seed, split, prompts) if published else make(part, seed)
    return cases


def _maker(name: str) -> Any:
    """The function that makes the cases of a benchmark, the package's or one's own.

    Raises :class:`UnknownName` for any other name.
    """
    if name in BENCHMARKS:
        return resolve("benchmark", name, BENCHMARKS)
    from liveedit.data.own.benchmarks import names

    own = names()
    if name not in own:
        raise UnknownName(f"unknown benchmark '{name}': {nearest(name, [*own, *BENCHMARKS])}")
    from liveedit.data.own.cases import own_cases

    return partial(own_cases, name)


def _check_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BadInput(f"there is no --{option} '{value}': choose {' or '.join(known)}")
