"""Model cards: what a repository on the Hub says about edits or an editor.

The metadata follow the Hub's conventions: ``library_name``, ``base_model``, ``tags``, and scores as
its model index.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypedDict

from liveedit.errors import BadInput, Mismatch
from liveedit.measures.metrics import AVERAGE
from liveedit.measures.scores import HEADLINES, score_heading
from liveedit.report import read_records, summary
from liveedit.report.scores import ScoreRow
from liveedit.types import expanded

__all__ = ["FILE", "LIBRARY", "About", "Subject", "card", "hub_id"]

FILE = "README.md"
LIBRARY = "liveedit"
TASK = "image-text-to-text"
TAGS = ("liveedit", "knowledge-editing", "model-editing", "vision-language-model")
CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/")
"""The folder that the Hub's client keeps a model in, by the model's id."""
ID = re.compile(r"[\w.-]+/[\w.-]+")
SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~$])")
"""Characters that Markdown or HTML would read as markup."""


class About(TypedDict, total=False):
    """Facts that the owner may add to a card.

    Arguments:
        base_model: Hugging Face id of the model, where it was loaded from elsewhere.
        license: The licence, by its Hugging Face name.
        records: Folder of `liveedit eval` with scores of this editor.
    """

    base_model: str
    license: str
    records: str | Path


@dataclass(frozen=True, slots=True)
class Subject:
    """The edits or the editor that a card is about.

    Arguments:
        repo: The name that the repository goes by.
        method: Name of the editing method.
        model: The model, by an id, a name or a folder.
        fingerprint: Fingerprint of the editor, which its records bear.
        model_fingerprint: Fingerprint of the model.
        opens_with: Known arguments of :func:`liveedit.load`, of which the card states some.
        false_firing: Rate at which edits are said to fire where they should not, if it is known.
        usage: Python code that loads it.
        edits: Questions and answers of edits; ``None`` where the card is not to list any.
        number: How many edits there are; ``None`` for an editor.
    """

    repo: str
    method: str
    model: str
    fingerprint: str
    model_fingerprint: str
    opens_with: Mapping[str, str]
    false_firing: float | None
    usage: str
    edits: Sequence[tuple[str, str]] | None = None
    number: int | None = None


def hub_id(model: str) -> str:
    """The Hugging Face id of a model, given by id or by its folder in the cache, else nothing."""
    if found := CACHED.search(f"{model}/"):
        return "/".join(found.groups())
    return model if ID.fullmatch(model) and not expanded(model).exists() else ""


def card(subject: Subject, about: About) -> str:
    """The card as the text of a README.

    Raises :class:`BadInput` for a ``base_model`` that is no id, :class:`Mismatch` for records of
    another editor.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    base = about.get("base_model", hub_id(subject.model))
    if base and not ID.fullmatch(base):
        raise BadInput(f"base_model '{base}' is no Hugging Face id: give one such as owner/name")
    rows = list(_scores(about["records"], subject.fingerprint)) if "records" in about else []
    results = [EvalResult(**_result(row)) for row in rows]
    data = ModelCardData(
        base_model=base or None,
        library_name=LIBRARY,
        pipeline_tag=TASK,
        tags=list(dict.fromkeys([*TAGS, subject.method])),
        license=about.get("license"),
        model_name=subject.repo,
        eval_results=results or None,
    )
    text = files("liveedit.hub").joinpath("card.md.j2").read_text(encoding="utf-8")
    values: dict[str, Any] = {"subject": subject, "base": base, "rows": rows, "plain": _plain}
    values["heading"] = score_heading
    return str(ModelCard.from_template(data, template_str=text, **values))


def _plain(text: str) -> str:
    """A text on one line whose characters mean themselves in Markdown."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _scores(records: str | Path, fingerprint: str) -> Iterator[ScoreRow]:
    """The average scores of the editor of this fingerprint, in and below a folder of records."""
    folders = [file.parent for file in sorted(expanded(records).rglob("run.json"))]
    own = [folder for folder in folders if _editor_of(folder) == fingerprint]
    if not own:
        raise Mismatch(
            f"no records of this editor in {records}: give the folder of its `liveedit eval`"
        )
    headlines = {score.name for score in HEADLINES}
    for folder in own:
        for row in summary(read_records(folder))["rows"]:
            if row["metric"] == AVERAGE and row["score"] in headlines:
                yield row


def _editor_of(folder: Path) -> str:
    """The fingerprint of the editor whose records are in a folder; empty where none is stated."""
    try:
        noted = json.loads((folder / "run.json").read_text(encoding="utf-8-sig"))
        return str(noted["editor_fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _result(row: ScoreRow) -> dict[str, Any]:
    """A score as an entry of the Hub's model index."""
    return {
        "task_type": TASK,
        "dataset_type": row["data"],
        "dataset_name": row["data"],
        "metric_type": row["score"],
        "metric_name": f"{score_heading(row['score'])} after {row['edits']:,} edits",
        "metric_value": round(100 * row["value"], 1),
    }
