"""A store against a dictionary, through any sequence of changes."""

import tempfile
from contextlib import suppress
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from liveedit.store.store import Store
from store.conftest import MAKER, content, new_edit

QUESTIONS = st.integers(0, 5)


class Changes(RuleBasedStateMachine):
    """Edits, edits taken back, reopened stores, failed changes and past states."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.file = Path(self.folder.name) / "edits.db"
        self.store = Store(self.file)
        self.other = Store(self.file)
        self.model = {}
        self.states = [()]

    def teardown(self):
        self.store.close()
        self.other.close()
        self.folder.cleanup()

    def add(self, numbers):
        with self.store.change("edit") as change:
            maker = change.maker(MAKER).number
            made = [(new_edit(n), n) for n in numbers]
            for edit, n in made:
                change.add(edit, maker, **content(n))
        return made

    @rule(numbers=st.lists(QUESTIONS, min_size=1, max_size=3))
    def edit(self, numbers):
        for edit, number in self.add(numbers):
            self.model[edit.id] = number
        self.states.append(tuple(self.model))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def forget(self, data):
        id = data.draw(st.sampled_from(sorted(self.model)))
        with self.other.change("forget") as change:
            change.forget([self.other.find(id).number])
        del self.model[id]
        self.states.append(tuple(self.model))

    @rule(number=QUESTIONS)
    def fail(self, number):
        with suppress(ZeroDivisionError), self.store.change("edit") as change:
            change.add(new_edit(number), change.maker(MAKER).number, **content(number))
            number / 0

    @rule()
    def reopen(self):
        self.store.close()
        self.store = Store(self.file)

    @rule(data=st.data())
    def look_back(self, data):
        version = data.draw(st.integers(0, len(self.states) - 1))
        rows = self.other.kept(version)
        assert tuple(row.edit.id for row in rows) == self.states[version]

    @invariant()
    def agrees(self):
        for store in (self.store, self.other):
            rows = store.kept()
            assert [row.edit.id for row in rows] == list(self.model)
            assert store.version == len(self.states) - 1
        last = {number: id for id, number in self.model.items()}
        in_force = [edit.id for edit in self.store.edits() if not edit.superseded_by]
        assert in_force == [id for id, number in self.model.items() if last[number] == id]


Changes.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestChanges = pytest.mark.slow(Changes.TestCase)
