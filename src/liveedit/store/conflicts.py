"""Finds conflicts between edits, and checks whether an answer is an edit's target.

Two edits *compete* if they give different answers to the same question about different images (or
about different images of the same list). A new edit is in *conflict* with each earlier one that
competes with it and that would fire on its query if the new edit did not exist.

Of methods with a bank of edits, some have scores that tell of each edit alone whether it fires:
those on the new edit's query say it. With other banks the model is queried with a patch of the
competitors only, then again without those that fired, until none fires. So the result does not
depend on which edit overrules which. For methods that hold all edits in their weights, the model is
queried with its current patch. Competitors are then the edits in force; competing edits of one
batch are made one after another for this check.
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
from liveedit.store.edit import Edit
from liveedit.store.roll import Roll
from liveedit.types import Query

__all__ = ["PatchedModel", "compete", "competitors", "conflicts", "is_target"]

END = re.compile(r"[\W_]{0,3}|[.!?…。！？]\s.*\w.*")
"""Text that may follow the target in an answer: some punctuation, or further sentences."""
MORE_TOKENS = 3
"""Tokens generated beyond the longest target, to see whether an answer continues."""


def is_target(answer: str, target: str) -> bool:
    """Whether an answer is the target, up to case, white space and further sentences.

    Scores are stricter: :func:`liveedit.measures.scores.normalise`.
    """
    found = question(answer)
    wanted = question(target)
    return found.startswith(wanted) and END.fullmatch(found.removeprefix(wanted)) is not None


@dataclass(frozen=True, slots=True)
class PatchedModel:
    """A model and the editor of its patches, to be queried under one patch or another."""

    vlm: VLM
    editor: Editor

    def answers(
        self, patch: Patch, queries: Sequence[Query], targets: Iterable[str]
    ) -> list[Reply]:
        """The answers under a patch, each long enough for any of the targets."""
        if not queries:
            return []
        texts = [f" {target}" for target in targets]
        ids = self.vlm.tokenizer(texts, add_special_tokens=False)["input_ids"]
        with self.vlm.patched(patch):
            return self.vlm.answers(queries, max_new_tokens=MORE_TOKENS + max(map(len, ids)))

    def fired(self, patch: Patch, query: Query) -> list[int]:
        """The edits of a patch, by their index, that fire on a query."""
        with self.vlm.patched(patch):
            [reply] = self.vlm.answers([query], max_new_tokens=1)
        return [expert for expert, _ in reply.fired]

    def firing(self, patch: Patch, query: Query) -> list[int]:
        """The edits of a patch, by their index, that would fire on a query if others did not."""
        with self.vlm.patched(patch):
            [reply] = self.vlm.answers([query], max_new_tokens=1, scores=True)
        if reply.scores is None:
            return []
        return sorted(reply.scores.edits[reply.scores.above > 0].tolist())

    def fired_or_answered(
        self, patch: Patch, query: Query, targets: Mapping[int, str]
    ) -> tuple[list[int], set[int]]:
        """The edits of a patch that fire on a query, and keys of ``targets`` that are its answer.

        The keys are for methods that do not report which edits fired: those whose target is the
        answer under the patch, but not the answer of the unedited model. One of the two results is
        empty.
        """
        [edited] = self.answers(patch, [query], targets.values())
        if edited.fired:
            return [expert for expert, _ in edited.fired], set()
        [unedited] = self.answers(self.editor.empty(), [query], targets.values())
        answered = {
            key
            for key, target in targets.items()
            if is_target(edited.text, target) and not is_target(unedited.text, target)
        }
        return [], answered


def conflicts(
    model: PatchedModel, before: Patch, after: Patch, roll: Roll, queries: Sequence[Query]
) -> list[list[int]]:
    """For each new edit the indices of the earlier ones that it is in conflict with.

    ``roll`` holds all edits, the new ones last, and ``queries`` are those of the new ones. The
    patch ``before`` holds the earlier edits whose ``held`` is true; ``after``, for methods with a
    bank, holds all edits.
    """
    if not isinstance(model.editor, BankEditor):
        return _in_weights(model, before, roll.all(), queries)
    first = len(roll) - len(queries)
    if model.editor.scored:
        return [
            _by_scores(model, after, roll, query, index)
            for index, query in enumerate(queries, first)
        ]
    competing = competitors(roll.all(), first)
    return [
        _in_bank(model, model.editor, after, query, indices)
        for query, indices in zip(queries, competing, strict=True)
    ]


def compete(one: Edit, other: Edit) -> bool:
    """Whether two edits give different answers to the same question about different images."""
    if not one.image or not other.image or one.question != other.question:
        return False
    return one.number != other.number and question(one.target) != question(other.target)


def competitors(edits: Sequence[Edit], first: int) -> list[set[int]]:
    """For each edit from index ``first`` on, the indices of the earlier edits that compete.

    Superseded edits are included. Edits without an image compete with none.
    """
    asked = {edit.question for edit in edits[first:]}
    earlier: dict[str, list[_Answer]] = defaultdict(list)
    found: list[set[int]] = []
    for index, edit in enumerate(edits):
        if edit.question not in asked:
            continue
        same_question = earlier[edit.question]
        this = _Answer(index, edit.number, question(edit.target))
        if index >= first:
            others = same_question if edit.image else ()
            found.append({other.index for other in others if this.competes(other)})
        if edit.image:
            same_question.append(this)
    return found


@dataclass(frozen=True, slots=True)
class _Answer:
    """The answer of an edit: the index of the edit, and the number of its question."""

    index: int
    number: int
    text: str

    def competes(self, other: "_Answer") -> bool:
        """Whether the other gives another answer about other images."""
        return other.number != self.number and other.text != self.text


def _by_scores(
    model: PatchedModel, after: Patch, roll: Roll, query: Query, index: int
) -> list[int]:
    """The competitors of the edit at ``index`` that fire on its query, by their scores alone."""
    firing = [other for other in model.firing(after, query) if other < index]
    this, *others = roll.at([index, *firing])
    return [at for at, other in zip(firing, others, strict=True) if compete(this, other)]


def _in_bank(
    model: PatchedModel, editor: BankEditor, after: Patch, query: Query, competing: set[int]
) -> list[int]:
    """The competitors that fire on the query of a new edit."""
    found: set[int] = set()
    while left := sorted(competing - found):
        fired = {left[expert] for expert in model.fired(editor.select(after, left), query)}
        if not fired:
            break
        found |= fired
    return sorted(found)


def _in_weights(
    model: PatchedModel, before: Patch, edits: Sequence[Edit], queries: Sequence[Query]
) -> list[list[int]]:
    """The conflicts of a method whose weights hold all edits, with those in force."""
    first = len(edits) - len(queries)
    competing = [
        indices & force
        for indices, force in zip(competitors(edits, first), _in_force(edits, first), strict=True)
    ]
    overruled = _overruled(edits, first)
    found: list[list[int]] = []
    for state in _one_by_one(model.editor, before, edits, queries, competing):
        acting = set(overruled[state.edit.number])
        if state.competing:
            targets = {index: edits[index].target for index in state.competing}
            fired, answered = model.fired_or_answered(state.patch, state.query, targets)
            acting |= answered | {state.in_patch[expert] for expert in fired}
        found.append(sorted(state.competing & acting))
        overruled[state.edit.number].update(found[-1])
    return found


def _overruled(edits: Sequence[Edit], first: int) -> dict[int, set[int]]:
    """By question number, the indices of the edits that the last earlier edit of it overrules."""
    indices = {edit.id: index for index, edit in enumerate(edits)}
    found: dict[int, set[int]] = defaultdict(set)
    for edit in edits[:first]:
        found[edit.number] = {indices[id] for id in edit.conflicts if id in indices}
    return found


def _in_force(edits: Sequence[Edit], first: int) -> Iterator[set[int]]:
    """For each edit from index ``first`` on, the indices of the earlier ones then in force."""
    last: dict[int, int] = {}
    for index, edit in enumerate(edits):
        if index >= first:
            yield set(last.values())
        last[edit.number] = index


@dataclass(frozen=True, slots=True)
class _State:
    """The state of the model just before a new edit.

    Arguments:
        edit: The new edit.
        query: Its query.
        patch: A patch with the earlier edits.
        in_patch: The indices of the edits in the patch.
        competing: The indices of the competitors in force.
    """

    edit: Edit
    query: Query
    patch: Patch
    in_patch: Sequence[int]
    competing: set[int]


def _one_by_one(
    editor: Editor,
    before: Patch,
    edits: Sequence[Edit],
    queries: Sequence[Query],
    competing: Sequence[set[int]],
) -> Iterator[_State]:
    """The states before each new edit, as if they were made one by one.

    New edits that compete with no later one are not made.
    """
    first = len(edits) - len(queries)
    needed: set[int] = set().union(*competing)
    patch = before
    in_patch = [index for index, edit in enumerate(edits[:first]) if edit.held]
    for index, (query, indices) in enumerate(zip(queries, competing, strict=True), first):
        yield _State(edits[index], query, patch, in_patch, indices)
        if index in needed:
            patch = editor.edit([query], patch)
            in_patch = [*in_patch, index]
