"""Shelves: what a bank answers does not depend on where its factors are."""

import copy
import pickle
import threading

import pytest
import torch

from liveedit.editors.common.bank import Bank
from liveedit.editors.common.shelf import Shelf, ShelvedBank, shelved
from liveedit.errors import BadInput, Mismatch

ROW = 2 * 4 * 4
"""Bytes of the factors of one expert."""


def rows(*values: float) -> dict[str, torch.Tensor]:
    column = torch.tensor(values, dtype=torch.float32)
    return {
        "key": column[:, None].expand(-1, 3).clone(),
        "value": column[:, None, None].expand(-1, 2, 4).clone(),
    }


class Source:
    """Factors by number, and the numbers that were read, one list for each time."""

    def __init__(self) -> None:
        self.reads: list[list[int]] = []

    def __call__(self, numbers):
        self.reads.append(list(numbers))
        return {"value": rows(*numbers)["value"]}


@pytest.fixture
def source() -> Source:
    return Source()


def new_shelf(source, places=100):
    return Shelf({"value": torch.empty(0, 2, 4)}, source, room=places * ROW)


@pytest.fixture
def bank(source) -> ShelvedBank:
    """Experts of the values 0 to 4, all of them on a shelf."""
    return shelved(Bank(rows(0, 1, 2, 3, 4)), range(5), new_shelf(source))


def values(bank: Bank) -> list[float]:
    assert torch.equal(bank["key"][:, 0], bank["value"][:, 0, 0])
    return bank["key"][:, 0].tolist()


def test_rows_are_gathered_as_from_memory(bank):
    index = torch.tensor([[3, 1], [3, 0], [4, 4]])
    [wanted] = Bank(rows(0, 1, 2, 3, 4)).gather(["value"], index)
    [found] = bank.gather(["value"], index)
    assert torch.equal(found, wanted)
    assert found.shape == (3, 2, 2, 4)


def test_only_what_is_wanted_is_read_and_once(bank, source):
    for index in ([[3, 1], [3, 0]], [[3, 0], [2, 1]], [[2, 2], [1, 0]]):
        bank.gather(["value"], torch.tensor(index))
    assert [sorted(numbers) for numbers in source.reads] == [[0, 1, 3], [2]]


def test_those_used_last_stay(source):
    shelf = new_shelf(source, places=2)
    for number in (0, 1, 0, 2, 0, 1):
        shelf.rows([number])
    assert source.reads == [[0], [1], [2], [1]]
    assert len(shelf) == 2
    assert list(shelf.rows(range(5))) == [0, 1, 2, 3, 4]  # more than there is room for
    assert len(shelf) == 2


def test_what_is_read_does_not_keep_its_neighbours(source):
    shelf = new_shelf(source)
    row = shelf.rows([5, 6, 7])[6]["value"]
    assert row.untyped_storage().nbytes() == ROW


def test_appended_rows_are_there_at_once(bank, source):
    more = bank.append(rows(5)).append(rows(6, 7))
    [found] = more.gather(["value"], torch.tensor([7, 5]))
    assert found[:, 0, 0].tolist() == [7, 5]
    assert source.reads == []
    assert (values(bank), values(more)) == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6, 7])
    settled = shelved(more, range(8), bank.shelf)
    assert values(settled.append_shelved({"key": rows(8)["key"]}, [8])) == list(range(9))
    assert source.reads == [[0, 1, 2, 3, 4], [8]]  # the new ones are on the shelf already


def test_selecting_reads_nothing(bank, source):
    chosen = bank.append(rows(5)).select([5, 3, 1])
    assert source.reads == []
    assert values(chosen) == [5, 3, 1]
    assert values(bank.select(slice(1, 3))) == [1, 2]
    assert values(bank.select(torch.tensor([True, False, False, True, False]))) == [0, 3]
    assert values(bank.select([])) == []


def test_other_shapes_are_refused(bank):
    with pytest.raises(Mismatch, match="do not fit"):
        bank.append({"key": torch.zeros(1, 3)})
    with pytest.raises(Mismatch, match="do not fit"):
        bank.append({**rows(1), "value": torch.zeros(1, 4, 2)})


def test_bytes_are_those_of_memory(bank, source):
    assert bank.nbytes == Bank(rows(0, 1, 2, 3, 4)).nbytes
    assert source.reads == []


def test_copies_share_and_another_process_gets_all(bank, source):
    assert copy.deepcopy({"bank": bank})["bank"].keys is bank.keys
    assert source.reads == []
    loaded = pickle.loads(pickle.dumps(bank))
    assert type(loaded) is Bank
    assert values(loaded) == values(bank)


def test_a_trial_gives_its_room_back(bank):
    base = bank.with_room(2)
    where = base["key"].data_ptr()
    tried = base.append(rows(5))
    tried.give_back(len(base))
    assert base.append(rows(6))["key"].data_ptr() == where


def test_what_cannot_be_read_is_said_and_may_be_read_later(source):
    broken = True

    def read(numbers):
        if broken:
            raise BadInput("edit 7 is damaged")
        return source(numbers)

    bank = shelved(Bank(rows(0, 1)), [7, 8], new_shelf(read))
    with pytest.raises(BadInput, match="edit 7"):
        bank.gather(["value"], torch.tensor([0]))
    broken = False
    [found] = bank.gather(["value"], torch.tensor([0]))
    assert found[0, 0, 0] == 7


def test_memory_of_inference_mode_serves_training(source):
    shelf = new_shelf(source)
    with torch.inference_mode():
        shelf.rows([1])
    row = shelf.rows([1])[1]["value"]
    row.requires_grad_().sum().backward()
    assert torch.equal(row.grad, torch.ones(2, 4))


def test_threads_share_a_shelf(source):
    shelf = new_shelf(source, places=4)
    wrong = []

    def work(start: int) -> None:
        for step in range(300):
            numbers = [(start + step) % 16, (start * step) % 16]
            found = shelf.rows(numbers)
            wrong.extend(n for n in numbers if not bool((found[n]["value"] == n).all()))

    threads = [threading.Thread(target=work, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(shelf) == 4
