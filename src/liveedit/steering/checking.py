"""Checks a pool: edits that do not take, that contradict each other, or fire where none should.

Each edit in force whose images are kept is asked again. Images of a background, which no edit is
about, are asked what they show and, each, the question of an edit drawn at random; the latter is
what a method's stated rate of false firing is about (:attr:`Editor.false_firing`). Where one is
stated, firing is a finding only if it is more frequent than that and chance explain.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import comb
from typing import Literal

from liveedit.data.background import ASKED_ONCE, background_queries, check_background
from liveedit.editors.base import Editor
from liveedit.models.vlm import Reply
from liveedit.store.conflicts import PatchedModel, compete, is_target
from liveedit.store.edit import Edit
from liveedit.store.pool import Pool
from liveedit.types import Query

__all__ = ["ASKING", "BACKGROUND", "Finding", "Kind", "Progress", "findings"]

Kind = Literal["does_not_take", "contradiction", "fires_on_background"]
Progress = Callable[[str, int, int], None]
"""Called with a stage, :data:`ASKING` or :data:`BACKGROUND`, the questions asked and their number.
"""
ASKING = "edits"
BACKGROUND = "background"

BATCH = 32
"""Questions that are asked together."""
TOKENS = 16
"""Tokens of an answer that is compared with the unedited model's."""
IMAGES = 128
"""Images of the background."""
SIGNIFICANT = 0.05
"""Probability below which a share of firings is not explained by the stated rate and chance."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a pool that a person should look at.

    Arguments:
        kind: ``"does_not_take"``, ``"contradiction"`` or ``"fires_on_background"``.
        text: The finding in one line.
        edits: The edits that it is about; none where a method cannot tell them apart.
        share: Share of the background's questions on which they fire.
        stated: The rate of false firing that the method states.
    """

    kind: Kind
    text: str
    edits: tuple[Edit, ...] = ()
    share: float | None = None
    stated: float | None = None


def findings(
    pool: Pool, kept: Iterable[tuple[Edit, Query]], folder: str, progress: Progress
) -> Iterator[Finding]:
    """The findings about a pool, in the order in which they are found.

    ``kept`` are edits in force with their queries, ``folder`` is that of the background's images.
    The model is not patched. Raises :class:`BadInput` for a folder that cannot be used, also where
    there are no edits.
    """
    check_background(folder)
    if pool.in_force:
        yield from _asked_again(pool, iter(kept), progress)
        yield from _on_background(pool, folder, progress)


def _asked_again(
    pool: Pool, kept: Iterator[tuple[Edit, Query]], progress: Progress
) -> Iterator[Finding]:
    """Edits that do not take and contradictions; those are on record, or seen on asking again."""
    force = pool.in_force
    place = {edit.id: index for index, edit in enumerate(force)}
    pairs = set(_on_record(force, place))
    in_patch = [edit for edit in pool.history if edit.held]
    model = PatchedModel(pool.vlm, pool.editor)
    done = 0
    progress(ASKING, 0, len(force))
    while some := list(islice(kept, BATCH)):
        asked = [query for _, query in some]
        replies = model.answers(pool.patch, asked, [edit.target for edit, _ in some])
        for (edit, _), reply in zip(some, replies, strict=True):
            if not is_target(reply.text, edit.target):
                yield Finding("does_not_take", _untaken(edit, reply), (edit,))
            for index, _ in reply.fired:
                other = in_patch[index]
                if other.id in place and compete(edit, other):
                    pair = place[edit.id], place[other.id]
                    pairs.add((max(pair), min(pair)))
        done += len(some)
        progress(ASKING, done, len(force))
    for later, earlier in sorted(pairs):
        yield _contradiction(force[later], force[earlier])


def _on_record(force: Sequence[Edit], place: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    """The places of each edit and those that it is in conflict with."""
    for edit in force:
        for other in edit.conflicts:
            yield place[edit.id], place[other]


def _untaken(edit: Edit, reply: Reply) -> str:
    """The text about an edit that does not take."""
    verb = "no longer takes" if edit.took else "does not take"
    return f"{edit.id} {verb}: {edit.prompt!r} is answered {reply.text!r}, not {edit.target!r}"


def _contradiction(later: Edit, earlier: Edit) -> Finding:
    """The finding that two edits contradict each other."""
    text = (
        f"{later.id} contradicts {earlier.id}: {later.prompt!r} is answered {later.target!r} and "
        f"{earlier.target!r}, about images that are near each other"
    )
    return Finding("contradiction", text, (later, earlier))


def _on_background(pool: Pool, folder: str, progress: Progress) -> Iterator[Finding]:
    """Edits that fire on the background."""
    own, drawn = _background(pool.in_force, folder)
    asked = [*drawn, *own]
    replies = _replies(pool, asked, progress)
    if not pool.has_bank and not any(reply.fired for reply in replies):
        yield from _changed(pool, asked, replies)
        return
    in_patch = [edit for edit in pool.history if edit.held]
    unstated = _beyond_what_is_stated(pool, replies[: len(drawn)])
    counts = Counter(index for index, _ in chain.from_iterable(reply.fired for reply in replies))
    for index, count in counts.most_common():
        editor = pool.editor.editor_of(pool.patch, index)
        if editor in unstated:
            yield _false_firing(in_patch[index], count, len(asked), editor.false_firing)


def _beyond_what_is_stated(pool: Pool, replies: Sequence[Reply]) -> list[Editor]:
    """The editors whose edits fire more often than their stated rates and chance explain.

    Those that state none are among them.
    """
    fired = Counter[Editor]()
    for reply in replies:
        fired.update({pool.editor.editor_of(pool.patch, index) for index, _ in reply.fired})
    found = []
    for editor in pool.editor.editors:
        stated = editor.false_firing
        if stated is None or chance_of(fired[editor], len(replies), stated) <= SIGNIFICANT:
            found.append(editor)
    return found


def _background(force: Sequence[Edit], folder: str) -> tuple[list[Query], list[Query]]:
    """Questions of the background's own, and its images with the question of an edit each."""
    sets = background_queries(folder, IMAGES, "test")
    shown = [edit for edit in force if edit.image] or force
    chance = random.Random(0)
    drawn = [
        Query(chance.choice(shown).prompt, image=query.image)
        for query in (*sets["common"], *sets["apart"])
    ]
    return [*chain.from_iterable(sets[name] for name in ASKED_ONCE)], drawn


def _replies(pool: Pool, asked: Sequence[Query], progress: Progress) -> list[Reply]:
    """The replies of a pool, as long as needed to see which edits fire, or what they change."""
    tokens = 1 if pool.has_bank else TOKENS
    replies: list[Reply] = []
    for start in range(0, len(asked), BATCH):
        progress(BACKGROUND, start, len(asked))
        with pool.vlm.patched(pool.patch):
            replies += pool.vlm.answers(asked[start : start + BATCH], max_new_tokens=tokens)
    progress(BACKGROUND, len(asked), len(asked))
    return replies


def _changed(pool: Pool, asked: Sequence[Query], replies: Sequence[Reply]) -> Iterator[Finding]:
    """The finding about edits that a method's weights hold together."""
    unedited = pool.vlm.generate(asked, max_new_tokens=TOKENS)
    pairs = zip(unedited, replies, strict=True)
    changed = sum(before != reply.text for before, reply in pairs)
    if changed:
        share = changed / len(asked)
        text = f"the edits change {changed} of {len(asked)} answers on the background ({share:.1%})"
        yield Finding("fires_on_background", text, share=share)


def chance_of(count: int, of: int, rate: float) -> float:
    """The probability of at least ``count`` events among ``of`` that each have this rate."""
    fewer = (comb(of, k) * rate**k * (1 - rate) ** (of - k) for k in range(count))
    return 1 - sum(fewer)


def _false_firing(edit: Edit, count: int, of: int, stated: float | None) -> Finding:
    """The finding that an edit fires on the background."""
    share = count / of
    known = "" if stated is None else f"; stated for all edits together: {stated:.1%}"
    text = f"{edit.id} fires on {count} of {of} questions of the background ({share:.1%}{known})"
    return Finding("fires_on_background", text, (edit,), share, stated)
