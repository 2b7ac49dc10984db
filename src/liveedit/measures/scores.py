"""Scores: numbers between 0 and 1, computed for one probe; each score is declared once.

A score has one of two formulas. Most are computed from the record alone. Those that compare the
models at all positions of a prompt need the logits, and are computed during the evaluation, for
probes that must stay as before. To add a score, write its formula and declare it in
:data:`SCORES`: it is then written into the records and shown by the report.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from liveedit.types import Record

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "EXACT_MATCH",
    "HEADLINES",
    "LOGITS_SCORES",
    "SCORES",
    "TEN_BEST_KEPT",
    "TOKEN_ACCURACY",
    "TOP1_KEPT",
    "UNEDITED_MATCH",
    "LogitsFormula",
    "Score",
    "contains",
    "exact_match",
    "normalise",
    "score_heading",
    "score_order",
    "scores_of",
    "share_kept",
    "shown_scores",
    "ten_best",
    "ten_best_kept",
    "token_accuracy",
    "top1_kept",
    "unedited_match",
]


@dataclass(frozen=True)
class LogitsFormula:
    """Formula over the logits of the unedited and of the edited model.

    Arguments:
        reduce: Maps the logits (n, vocabulary) at the n positions of a prompt, padding excluded,
            to the small CPU tensor that is kept of them.
        compare: The score, from the reduced logits before and after the edits.
    """

    reduce: Callable[["Tensor"], "Tensor"]
    compare: Callable[["Tensor", "Tensor"], float]


@dataclass(frozen=True)
class Score:
    """A score of a probe.

    Arguments:
        name: Name in records, summaries and file names.
        heading: Heading of its tables.
        meaning: One sentence that says what is counted.
        of_record: Formula over a record; the result is ``None`` where the score is not defined.
        of_logits: Formula over the logits of a probe that must stay as before.
        short: Name in running text; empty for scores that are not headlines.
        locality: What locality means in this score; empty for scores that are not headlines.
        shown: Whether it has tables of its own.
    """

    name: str
    heading: str
    meaning: str
    of_record: Callable[[Record], float | None] | None = None
    of_logits: LogitsFormula | None = None
    short: str = ""
    locality: str = ""
    shown: bool = True

    @property
    def headline(self) -> bool:
        """Whether it is a score of the papers, with curves and the papers' tables."""
        return bool(self.short)


# Formulas over a record


def token_accuracy(record: Record) -> float | None:
    """(1/n) Σ_t [argmax f(x, o_<t) = o_t], with the wanted tokens o and the edited model f."""
    wanted = record.tokens_wanted
    if not wanted:
        return None
    pairs = zip(record.tokens_after, wanted, strict=False)
    return sum(after == token for after, token in pairs) / len(wanted)


def exact_match(record: Record) -> float:
    """[answer = target or an alias], normalised; [answer = answer before], letter by letter."""
    if record.wanted == "before":
        return float(record.answer_after == record.answer_before)
    return float(normalise(record.answer_after) in _right(record))


def contains(record: Record) -> float | None:
    """[target or an alias is a part of the answer], normalised."""
    if record.wanted == "before":
        return None
    answer = normalise(record.answer_after)
    return float(any(text in answer for text in _right(record)))


def unedited_match(record: Record) -> float | None:
    """[answer before = target or an alias], normalised."""
    if record.wanted == "before":
        return None
    return float(normalise(record.answer_before) in _right(record))


def _right(record: Record) -> list[str]:
    """The right answers, normalised: the target, and its aliases that are more than a full stop."""
    aliases = (normalise(alias) for alias in record.aliases)
    return [normalise(record.target), *(alias for alias in aliases if alias)]


def normalise(answer: str) -> str:
    """``answer`` without outer spaces, repeated spaces, case and a final full stop.

    An edit is checked by :func:`liveedit.store.conflicts.is_target`, which also lets sentences
    follow the target.
    """
    return " ".join(answer.split()).casefold().removesuffix(".").rstrip()


# Formulas over logits

RANKS = 10
"""Number of the most likely tokens that VLKEB's locality compares."""


def ten_best(logits: "Tensor") -> "Tensor":
    """The :data:`RANKS` most likely tokens at each position, best first: (n, ranks), on the CPU.

    ``logits`` (n, vocabulary) are those of one row.
    """
    return logits.topk(min(RANKS, logits.shape[-1])).indices.int().cpu()


def share_kept(before: "Tensor", after: "Tensor", ranks: int) -> float:
    """Share of (position, rank) slots with the same token in two results of :func:`ten_best`.

    Only the first ``ranks`` of each position count. Where an editor has put text before the prompt,
    ``after`` has more positions, and the last ones are compared.
    """
    return float((before == after[-len(before) :])[:, :ranks].double().mean())


def top1_kept(before: "Tensor", after: "Tensor") -> float:
    """Text locality in the released code of VLKEB and EasyEdit."""
    return share_kept(before, after, 1)


def ten_best_kept(before: "Tensor", after: "Tensor") -> float:
    """Image locality in the released code of VLKEB and EasyEdit."""
    return share_kept(before, after, RANKS)


# Declarations

TOKEN_ACCURACY = Score(
    name="token_accuracy",
    heading="Token accuracy (teacher-forced)",
    short="token accuracy",
    meaning="The share of the wanted answer's tokens that are the most likely ones, each after the "
    "wanted tokens before it.",
    locality="the best token at the answer's positions",
    of_record=token_accuracy,
)
EXACT_MATCH = Score(
    name="exact_match",
    heading="Exact match (free generation)",
    short="exact match",
    meaning="Whether the model, generating freely, writes the wanted answer or another of its "
    "names; case, spaces and a final full stop do not count.",
    locality="the free answer is the unedited model's",
    of_record=exact_match,
)
CONTAINS = Score(
    name="contains",
    heading="Target contained (free generation)",
    meaning="Whether the freely generated answer contains the target or another of its names.",
    of_record=contains,
)
TOP1_KEPT = Score(
    name="top1_kept",
    heading="Best token kept, at all positions",
    meaning="The share of all positions at which the most likely token is the same as before.",
    of_logits=LogitsFormula(ten_best, top1_kept),
)
TEN_BEST_KEPT = Score(
    name="top10_rank",
    heading="Ten best tokens kept, by rank, at all positions",
    meaning="The share of ranks, of the ten most likely tokens at all positions, that have the "
    "same token as before.",
    of_logits=LogitsFormula(ten_best, ten_best_kept),
)
UNEDITED_MATCH = Score(
    name="unedited_match",
    heading="Exact match of the unedited model",
    meaning="Whether the unedited model writes the target.",
    of_record=unedited_match,
    shown=False,
)

SCORES = (TOKEN_ACCURACY, EXACT_MATCH, CONTAINS, TOP1_KEPT, TEN_BEST_KEPT, UNEDITED_MATCH)
"""All scores, in the order of the tables. A new one is one more entry."""

HEADLINES = tuple(score for score in SCORES if score.headline)
"""The scores of the papers."""
LOGITS_SCORES = {score.name: score.of_logits for score in SCORES if score.of_logits is not None}
"""Formulas of the scores that need logits, by name."""

_BY_NAME = {score.name: score for score in SCORES}


def scores_of(record: Record) -> dict[str, float]:
    """Scores of a record by name: those written into it, and those that follow from the rest."""
    found = dict(record.scores)
    for score in SCORES:
        if score.of_record is None or score.name in found:
            continue
        value = score.of_record(record)
        if value is not None:
            found[score.name] = value
    return found


def score_order(name: str) -> tuple[int, str]:
    """Sort key: the declared scores in their order, then those of other versions by name."""
    return list(_BY_NAME).index(name) if name in _BY_NAME else len(_BY_NAME), name


def score_heading(name: str) -> str:
    """Heading of a score; of one that this version does not declare, its name."""
    return _BY_NAME[name].heading if name in _BY_NAME else name


def shown_scores(names: Iterable[str]) -> list[str]:
    """Those of some scores that have tables of their own, in the order of the tables."""
    hidden = {score.name for score in SCORES if not score.shown}
    return sorted(set(names) - hidden, key=score_order)
