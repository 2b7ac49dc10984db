"""The nouns that every part shares: Query, Turn, Probe, Case, Record. Plain values, no torch.

A **Query** is a question to a VLM about the images that it contains (none, one or several), with
the answer wanted. A **Case** holds edits (queries) and **probes**, which test what must change and
what must not. Evaluation writes one **Record** per probe.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from liveedit.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "Case", "Firing", "Probe", "Query", "Record", "Role", "Turn", "Wanted",
    "check_image", "check_path", "check_text", "check_unicode", "checked", "expanded", "visible",
]  # fmt: skip

Wanted = Literal["target", "before"]
"""The answer that counts as right: the probe's target, or the unedited model's answer."""


Role = Literal["system", "user", "assistant"]
"""Who speaks in a turn of a chat."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of a chat before the question.

    Arguments:
        role: Who speaks.
        text: What is said.
        images: How many of the query's images the turn shows: the next ones in their order.
    """

    role: Role
    text: str
    images: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One question to a VLM.

    Arguments:
        prompt: Plain text without image placeholders or chat template; the model's family adds
            those.
        target: The answer wanted: an edit makes the model give it, a probe expects it. Empty for a
            question without a known answer.
        image: A picture, a path to one, or ``None`` for a text-only question. Also a sequence of
            pictures and paths, which stand before the prompt in this order. A sequence of one image
            becomes that image, an empty one ``None``.
        fact: The fact that is asked for, where a benchmark knows it ("flag-jp:capital"). Queries
            about one fact have the same answer, whatever their wordings and images.
        about: Index of the image that the question is about, counted as Python does: the last by
            default. ``None``: all of them, as for the frames of a video.
        earlier: The turns of the chat before this question. They show the first images; the rest
            stands before the prompt.
        wordings: The question in other words. An editor that fits each edit fits these, too; others
            make no use of them.

    Raises :class:`BadInput` for an index that no image has. The other values are checked when the
    query is used (:func:`checked`).
    """

    prompt: str
    target: str = ""
    image: "Image | str | Path | Sequence[Image | str | Path] | None" = None
    fact: str = ""
    about: int | None = -1
    earlier: tuple[Turn, ...] = ()
    wordings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if _several(self.image):
            object.__setattr__(self, "image", _unpacked(self.image))
        if self.about is None:
            return
        if not isinstance(self.about, Integral):
            kind = type(self.about).__name__
            raise BadInput(
                f"`about` is the index of an image, not {kind}: count from 0, or give None for all"
            )
        object.__setattr__(self, "about", int(self.about))  # JSON cannot store NumPy's integers
        count = len(self.images)
        if count and not -count <= self.about < count:
            raise BadInput(
                f"no image {self.about} among {count}: "
                "`about` counts them from 0, or is None for all"
            )

    @property
    def images(self) -> "tuple[Image | str | Path, ...]":
        """The images in their order; empty for a text-only question."""
        if self.image is None:
            return ()
        return self.image if isinstance(self.image, tuple) else (self.image,)  # type: ignore[return-value]

    @property
    def alone(self) -> "Query":
        """The question without the chat before it, about the images that it shows itself.

        If it shows none of those that it is about, it is about theirs.
        """
        if not self.earlier:
            return self
        shown = sum(turn.images for turn in self.earlier)
        own = self.images[shown:]
        if own and self.about in (-1, None):
            return replace(self, image=own, earlier=())
        about = None if self.about is None else -1
        return replace(self, image=self.asked, about=about, earlier=())

    @property
    def asked(self) -> "tuple[Image | str | Path, ...]":
        """The images that the question is about."""
        if self.about is None or not self.images:
            return self.images
        return (self.images[self.about],)


def _several(image: object) -> bool:
    """Whether a value is a sequence of images; text and bytes are not."""
    return isinstance(image, Sequence) and not isinstance(
        image, str | bytes | bytearray | memoryview
    )


def _unpacked(images: Any) -> Any:
    """A sequence of images as a tuple; a single image by itself, an empty one as ``None``."""
    if len(images) > 1:
        return tuple(images)
    return images[0] if images else None


def checked(queries: Query | Iterable[Query]) -> list[Query]:
    """Return one query or several as a list, after checking the types of all their values.

    Every function that takes queries begins with this. Images are not opened. Raises
    :class:`BadInput` for anything that is not a query, for texts or images of another type, and for
    questions that no file or database takes (:func:`check_text`). A target may be a model's own
    answer (:func:`check_said`).
    """
    if isinstance(queries, Query):
        queries = [queries]
    elif isinstance(queries, str) or not isinstance(queries, Iterable):
        raise _no_query(queries)
    found = list(queries)
    for query in found:
        if not isinstance(query, Query):
            raise _no_query(query)
        for part in ("prompt", "fact"):
            check_text(f"the {part} of a query", getattr(query, part))
        check_said("the target of a query", query.target)
        _check_wordings(query)
        for image in query.images:
            check_image(image)
        _check_turns(query)
    return found


def _check_wordings(query: Query) -> None:
    """Raise :class:`BadInput` for wordings that are no sequence of texts."""
    given: object = query.wordings
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise BadInput(f"the wordings of a query are texts in a list, not {_kind(given)}")
    for wording in given:
        check_text("the wording of a query", wording)


def _check_turns(query: Query) -> None:
    """Raise :class:`BadInput` for earlier turns of another form, or with more images than given."""
    for turn in query.earlier:
        if not isinstance(turn, Turn) or turn.role not in get_args(Role):
            raise BadInput(
                f"an earlier turn is a Turn of {', '.join(get_args(Role))}, not {turn!r:.80}"
            )
        check_said("the earlier turn of a query", turn.text)
    if sum(turn.images for turn in query.earlier) > len(query.images):
        raise BadInput("the earlier turns show more images than the query has: give all of them")


def _no_query(value: object) -> BadInput:
    return BadInput(
        f"a question is a Query, not {_kind(value)}: write Query(prompt, target, image)"
    )


def check_text(title: str, value: object) -> None:
    """Raise :class:`BadInput` for anything but text, for lone surrogates and null characters.

    PostgreSQL takes no null characters. ``title`` is the name of the text in the message.
    """
    if "\0" in check_said(title, value):
        raise BadInput(f"{title} holds null characters: take them out")


def check_said(title: str, value: object) -> str:
    """Return a text that a model may have written, which may hold null characters.

    Raises :class:`BadInput` for anything but text, and for lone surrogates. ``title`` is the name
    of the text in the message.
    """
    if not isinstance(value, str):
        raise BadInput(f"{title} is text, not {_kind(value)}: put it in quotes")
    check_unicode(title, value)
    return value


def check_unicode(title: str, text: str) -> None:
    """Raise :class:`BadInput` for a text with lone surrogates, which tokenizers and files refuse.

    ``title`` is the name of the text in the message.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput(f"{title} holds characters that are not Unicode: read it as UTF-8") from None


INVISIBLE = re.compile(
    r"[\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    r"\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    r"\U000e0000-\U000e0fff]*"
)
"""White space, control characters, and Unicode's Default_Ignorable_Code_Point."""


def visible(text: str) -> bool:
    """Whether a text has a character that a reader can see; one without counts as empty."""
    return INVISIBLE.fullmatch(text) is None


def check_image(image: object) -> None:
    """Raise :class:`BadInput` for anything but a picture or a path."""
    from PIL.Image import Image  # imported already wherever there is a picture

    path = os.fspath(image) if isinstance(image, os.PathLike) else image
    if not isinstance(path, Image | str):
        raise BadInput(
            f"an image is a PIL image or a path, not {_kind(image)}: open files and bytes with "
            "PIL.Image.open, turn arrays into one with PIL.Image.fromarray"
        )


def check_path(path: object) -> None:
    """Raise :class:`BadInput` for anything but a name or a path, and for an empty name."""
    if not isinstance(os.fspath(path) if isinstance(path, os.PathLike) else path, str):
        raise BadInput(f"a name or folder is text or a Path, not {_kind(path)}: put it in quotes")
    if path == "":
        raise BadInput("a name or folder is empty: say which one is meant, or leave it out")


def expanded(path: str | Path) -> Path:
    """A path with the home folder in place of a leading ``~``.

    Raises :class:`BadInput` as :func:`check_path` does, and for the home folder of an unknown user.
    """
    check_path(path)
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise BadInput(
            f"the path {str(path)[:80]!r} leads nowhere ({error}): give another"
        ) from None


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A query together with the metric it belongs to and the answer that counts as right.

    Arguments:
        metric: Name that the report uses: ``reliability``, ``text_generality``,
            ``image_generality``, ``text_locality``, ``image_locality``, ``portability_1hop`` …
        query: The question. If the answer must stay, its target only determines the tokens to
            compare.
        wanted: ``"target"``: the query's target is right. ``"before"``: the answer must stay that
            of the unedited model.
        note: Free text that is written into the record.
        aliases: Other names of the target; an answer by any of them is right, too.
    """

    metric: str
    query: Query
    wanted: Wanted = "target"
    note: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """The queries that are edited together and the probes that are evaluated afterwards.

    ``id`` is unique and stable within a benchmark.
    """

    id: str
    edits: tuple[Query, ...]
    probes: tuple[Probe, ...]

    @property
    def queries(self) -> "tuple[Query, ...]":
        """All queries: those of the edits, then those of the probes."""
        return (*self.edits, *(probe.query for probe in self.probes))


@dataclass(frozen=True, slots=True)
class Firing:
    """One expert that fired while the model answered a probe.

    Arguments:
        expert: Index of its edit among those that the model holds, counted from 0.
        weight: Its fusion weight.
        own: Whether its edit belongs to the case of the probe.
    """

    expert: int
    weight: float
    own: bool


@dataclass(frozen=True, slots=True)
class Record:
    """Everything that was measured for one probe, so that a report needs no model.

    Arguments:
        editor: Label of the editor.
        data: Name of the benchmark.
        edits: N, the number of edits that the protocol names; where cases have several, the model
            may hold a few more.
        window: Index of the window of edits, counted from 0.
        seed: Seed of the order of the cases and of all random choices in them.
        case: Id of the case.
        probe: Index of the probe in its case, counted from 0.
        metric: Metric of the probe, such as ``reliability``.
        wanted: Whether the target is wanted or the answer of the unedited model.
        prompt: The question.
        target: The target answer.
        image: Name of the image that the question is about.
        note: Remark of the benchmark on the probe.
        answer_before: Greedy generation of the unedited model.
        answer_after: Greedy generation of the edited model.
        tokens_wanted: Ids of the target tokens; where the answer must stay as before, the tokens
            that the unedited model predicts in their places.
        tokens_after: Ids that the edited model predicts there under teacher forcing.
        fired: The experts with the largest weights of those that fired.
        experts_fired: Number of all experts that fired.
        protocol: Name of the protocol (:mod:`liveedit.measures.protocols`).
        later: Number of edits made after those of the case.
        scores: Scores between 0 and 1, by name (:mod:`liveedit.measures.scores`).
        costs: Costs as measured in this run, by name (:mod:`liveedit.measures.costs`).
        aliases: Other names of the target that count as right; left out of the file where there
            are none.
        version: Version of the format.
    """

    editor: str
    data: str
    edits: int
    window: int
    seed: int
    case: str
    probe: int
    metric: str
    wanted: Wanted
    prompt: str
    target: str
    image: str
    note: str
    answer_before: str
    answer_after: str
    tokens_wanted: tuple[int, ...]
    tokens_after: tuple[int, ...]
    fired: tuple[Firing, ...] = ()
    experts_fired: int = 0
    protocol: str = "windows"
    later: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    version: int = 2

    def to_json(self) -> str:
        """One line of JSON, without the newline."""
        row = asdict(self)
        if not self.aliases:
            del row["aliases"]
        return json.dumps(row, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> "Record":
        """Read a record of this version or of version 1.

        Raises ``KeyError``, ``TypeError`` or ``ValueError`` for any other text.
        """
        row = json.loads(line)
        if not isinstance(row, dict):
            raise TypeError(f"a record is an object, not {_kind(row)}")
        if row.get("version", 1) == 1:
            row = _from_version_1(row)
        row["fired"] = tuple(Firing(**firing) for firing in row["fired"])
        row["tokens_wanted"] = tuple(row["tokens_wanted"])
        row["tokens_after"] = tuple(row["tokens_after"])
        row["aliases"] = tuple(row.get("aliases", ()))
        record = cls(**row)
        _check_record(record)
        return record


SCORES_OF_VERSION_1 = {"top1_kept": "top1_kept", "top10_kept": "top10_rank"}
"""Fields of a record of version 1, and the names of the scores that they hold."""
COSTS_OF_VERSION_1 = ("edit_seconds", "edit_bytes", "query_seconds", "peak_bytes")
"""Fields of a record of version 1 that are costs."""


def _from_version_1(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record of version 1 in the form of version 2."""
    fields = dict(row)
    scores = {new: fields.pop(old, None) for old, new in SCORES_OF_VERSION_1.items()}
    fields["scores"] = {name: value for name, value in scores.items() if value is not None}
    fields["costs"] = {name: fields.pop(name) for name in COSTS_OF_VERSION_1 if name in fields}
    fields["version"] = 2
    return fields


def _check_record(record: Record) -> None:
    """Raise ``TypeError`` or ``ValueError`` where a field holds another type than it declares."""
    for firing in record.fired:
        if not isinstance(firing.expert, int) or not isinstance(firing.weight, int | float):
            raise TypeError(firing)
    for name, kind in KINDS.items():
        _check_field(name, getattr(record, name), kind)
    for alias in record.aliases:
        _check_field("an alias", alias, str)
    for name, value in (*_items(record.scores), *_items(record.costs)):
        if not name:
            raise ValueError("a score or cost has no name")
        _check_field(name, value, int | float)


def _items(numbers: object) -> Iterable[tuple[str, object]]:
    """Names and values of the scores or costs of a record. Raises ``TypeError`` without names."""
    if not isinstance(numbers, dict):
        raise TypeError(f"scores and costs are objects, not {_kind(numbers)}")
    return numbers.items()


def _check_field(name: str, value: object, kind: Any) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {value!r}")
    if isinstance(value, int) and value.bit_length() > WIDEST:
        raise ValueError(f"{name} has more than {WIDEST} bits")
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{name} is {value}")


WIDEST = 63
"""Largest number of bits of an integer in a record, without the sign."""
KINDS = {
    name: int if kind is int else str
    for name, kind in get_type_hints(Record).items()
    if kind in (str, Wanted, int)
}
"""Types of the plain fields of a record, by name."""
