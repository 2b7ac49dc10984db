"""Conflicts: the earlier edits that a new one is at odds with, and whether an answer is the one
that an edit asks for.

An edit is in conflict with each earlier one that gives the same question about another image, or
about another of the same images, another answer, its rival, and that acts on what the new edit is
about as long as the new one is not there. Of the edits of a pool the rivals are asked alone, one
after the other, each time without those found before, so that it does not matter which of them or
of the others they would have given way to. Where weights hold all edits, those in force count, and
rivals in one batch are made one after another for it.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from liveedit.editors.base import Editor
from liveedit.editors.common.bank_editor import BankEditor
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM, Reply
from liveedit.question import question
from liveedit.store.listing import Edit
from liveedit.types import Query

__all__ = ["Asking", "conflicts", "said"]

ENDED = re.compile(r"[\W_]{0,3}|[.!?…。！？]\s.*\w.*")
"""What may follow an answer that is the target: some punctuation, or the end of a sentence and
others.
"""
MORE = 3
"""Tokens behind the longest target, which tell whether an answer goes on."""


def said(answer: str, target: str) -> bool:
    """Whether an answer is the target; case, the length of white space, and sentences behind it do
    not matter.
    """
    found, wanted = question(answer), question(target)
    return found.startswith(wanted) and ENDED.fullmatch(found.removeprefix(wanted)) is not None


@dataclass(frozen=True, slots=True)
class Asking:
    """What a model answers under patches, with room for targets."""

    vlm: VLM
    editor: Editor

    def replies(
        self, patch: Patch, queries: Sequence[Query], targets: Iterable[str]
    ) -> list[Reply]:
        """The answers under a patch, each with room for all targets."""
        if not queries:
            return []
        ids = self.vlm.tokenizer([f" {target}" for target in targets], add_special_tokens=False)[
            "input_ids"
        ]
        with self.vlm.patched(patch):
            return self.vlm.answers(queries, max_new_tokens=MORE + max(map(len, ids)))

    def fired(self, patch: Patch, query: Query) -> list[int]:
        """The edits of a patch that take part in an answer."""
        with self.vlm.patched(patch):
            [reply] = self.vlm.answers([query], max_new_tokens=1)
        return [expert for expert, _ in reply.fired]

    def turned(
        self, patch: Patch, query: Query, targets: Mapping[int, str]
    ) -> tuple[list[int], set[int]]:
        """The edits that take part in an answer; if no method tells, those of ``targets`` that it
        has become.
        """
        [reply] = self.replies(patch, [query], targets.values())
        if reply.fired:
            return [expert for expert, _ in reply.fired], set()
        [plain] = self.replies(self.editor.empty(), [query], targets.values())
        return [], {
            at
            for at, target in targets.items()
            if said(reply.text, target) and not said(plain.text, target)
        }


def conflicts(
    asking: Asking, before: Patch, after: Patch, edits: Sequence[Edit], queries: Sequence[Query]
) -> list[list[int]]:
    """For each of ``queries`` the places of the edits that it is in conflict with.

    ``edits`` are all, the new ones last, one a query; the patch ``before`` holds the old ones that
    are held, the patch ``after`` all of a pool.
    """
    first = len(edits) - len(queries)
    if isinstance(asking.editor, BankEditor):
        alike = rivals(edits, first)
        return [
            _in_pool(asking, asking.editor, after, query, places)
            for query, places in zip(queries, alike, strict=True)
        ]
    return _in_weights(asking, before, edits, queries)


def rivals(edits: Sequence[Edit], first: int) -> list[set[int]]:
    """For each edit from the place ``first`` on, the places of its rivals before it, those
    superseded too.
    """
    answers: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    found = []
    for place, edit in enumerate(edits):
        alike, answer = answers[question(edit.prompt)], question(edit.target)
        if place >= first:
            others = ((at, number, other) for at, number, other in alike if edit.image)
            found.append(
                {at for at, number, other in others if number != edit.number and other != answer}
            )
        if edit.image:
            alike.append((place, edit.number, answer))
    return found


def _in_pool(
    asking: Asking, editor: BankEditor, after: Patch, query: Query, places: set[int]
) -> list[int]:
    """Those of the rivals ``places`` that act on a new edit."""
    found: set[int] = set()
    while held := sorted(places - found):
        acting = {held[expert] for expert in asking.fired(editor.select(after, held), query)}
        if not acting:
            break
        found |= acting
    return sorted(found)


def _in_weights(
    asking: Asking, before: Patch, edits: Sequence[Edit], queries: Sequence[Query]
) -> list[list[int]]:
    """The same of a method whose weights hold all edits, asked for those in force."""
    first = len(edits) - len(queries)
    alike = [
        places & force
        for places, force in zip(rivals(edits, first), _in_force(edits, first), strict=True)
    ]
    given_way: dict[int, set[int]] = defaultdict(set)
    places = {edit.id: place for place, edit in enumerate(edits)}
    for edit in edits[:first]:
        given_way[edit.number] = {places[id] for id in edit.conflicts if id in places}
    found = []
    for new, query, patch, held, against in _stages(asking.editor, before, edits, queries, alike):
        fired, turned = (
            asking.turned(patch, query, {at: edits[at].target for at in against})
            if against
            else ([], set())
        )
        acting = {held[expert] for expert in fired} | turned | given_way[new.number]
        found.append(sorted(against & acting))
        given_way[new.number] = given_way[new.number] | set(found[-1])
    return found


def _in_force(edits: Sequence[Edit], first: int) -> Iterator[set[int]]:
    """For each edit from the place ``first`` on the places of those before it that were not
    superseded until then.
    """
    last: dict[int, int] = {}
    for place, edit in enumerate(edits):
        if place >= first:
            yield set(last.values())
        last[edit.number] = place


def _stages(
    editor: Editor,
    before: Patch,
    edits: Sequence[Edit],
    queries: Sequence[Query],
    alike: Sequence[set[int]],
) -> Iterator[tuple[Edit, Query, Patch, Sequence[int], set[int]]]:
    """Each new edit with its query, a patch as if those before it were made one by one, its places,
    and its rivals.

    Of the new edits those alone are made that are rivals of another.
    """
    first, patch, needed = len(edits) - len(queries), before, set().union(*alike)
    held = [place for place, edit in enumerate(edits[:first]) if edit.held]
    for place, (query, against) in enumerate(zip(queries, alike, strict=True), first):
        yield edits[place], query, patch, held, against
        if place in needed:
            patch = editor.edit([query], patch)
            held = [*held, place]
