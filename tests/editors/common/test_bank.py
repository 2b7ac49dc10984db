import threading

import pytest
import torch

from liveedit.editors.common.bank import Bank
from liveedit.errors import BadInput, Mismatch, StorageError


def rows(*values: float) -> dict[str, torch.Tensor]:
    column = torch.tensor(values, dtype=torch.float32)
    return {
        "key": column[:, None].expand(-1, 3).clone(),
        "value": column[:, None, None].expand(-1, 2, 4).clone(),
    }


def values(bank: Bank) -> list[float]:
    assert torch.equal(bank["key"][:, 0], bank["value"][:, 0, 0])
    return bank["key"][:, 0].tolist()


def test_append_adds_behind_and_leaves_the_old_bank():
    first = Bank(rows(1, 2))
    second = first.append(rows(3)).append(rows(4, 5))
    assert (values(first), values(second), len(second)) == ([1, 2], [1, 2, 3, 4, 5], 5)


def test_two_futures_of_one_bank_do_not_meet():
    base = Bank(rows(0)).append(rows(1))
    left, right = base.append(rows(2)), base.append(rows(3))
    left = left.append(rows(4))
    right = right.append(rows(5))
    assert (values(base), values(left), values(right)) == ([0, 1], [0, 1, 2, 4], [0, 1, 3, 5])


def test_appending_shares_storage():
    bank = Bank(rows(0))
    moves = 0
    where = bank["value"].data_ptr()
    for value in range(1, 1000):
        bank = bank.append(rows(value))
        moves = moves + (bank["value"].data_ptr() != where)
        where = bank["value"].data_ptr()
    assert values(bank) == list(range(1000))
    assert moves <= 10  # doublings


def test_rows_that_are_given_back_are_used_again():
    base = Bank(rows(0)).append(rows(1)).append(rows(2))  # room for one more
    tried = base.append(rows(3))
    where = tried["value"].data_ptr()
    tried.give_back(len(base))
    kept = base.append(rows(4))
    assert kept["value"].data_ptr() == where
    base.give_back(2)  # too late: the row after it is in use
    assert base["value"].data_ptr() == where
    other = base.select(range(2)).append(rows(5))
    assert (values(kept), values(other)) == ([0, 1, 2, 4], [0, 1, 5])


def test_threads_that_append_to_one_bank_get_their_own():
    base = Bank(rows(0)).append(rows(1)).append(rows(2))  # room for one more
    futures: list[Bank | None] = [None] * 16

    def work(i: int) -> None:
        futures[i] = base.append(rows(10 + i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(futures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [values(bank) for bank in futures] == [[0, 1, 2, 10 + i] for i in range(len(futures))]


def test_select_is_a_copy_in_the_order_asked():
    bank = Bank(rows(0, 1, 2, 3))
    assert values(bank.select([3, 1])) == [3, 1]
    assert values(bank.select(slice(1, 3))) == [1, 2]
    assert values(bank.select(torch.tensor([True, False, False, True]))) == [0, 3]
    assert values(bank.select([])) == []
    bank.select([1]).tensors()["key"].fill_(9)
    assert values(bank)[1] == 1
    assert values(bank.select([]).append(rows(7))) == [7]


def test_an_empty_bank_grows():
    empty = Bank({name: tensor[:0] for name, tensor in rows(1).items()})
    assert len(empty) == 0
    assert values(empty.append(rows(1)).append(rows(2))) == [1, 2]


def test_other_shapes_are_refused():
    bank = Bank(rows(0))
    with pytest.raises(Mismatch, match="do not fit"):
        bank.append({"key": torch.zeros(1, 3)})
    with pytest.raises(Mismatch, match="do not fit"):
        bank.append({**rows(1), "key": torch.zeros(1, 2)})
    with pytest.raises(Mismatch, match="do not fit"):
        bank.append({**rows(1), "key": torch.zeros(2, 3)})
    with pytest.raises(Mismatch, match="differ in length"):
        Bank({"key": torch.zeros(1), "value": torch.zeros(2)})


def test_bytes_counts_what_is_used():
    assert Bank(rows(0)).append(rows(1)).append(rows(2)).nbytes == 3 * (3 + 8) * 4


def test_save_and_load(tmp_path):
    bank = Bank(rows(0)).append(rows(1)).append(rows(2))
    bank.save(tmp_path / "new" / "bank.safetensors", {"editor": "x"})
    loaded, about = Bank.load(tmp_path / "new" / "bank.safetensors")
    assert values(loaded) == [0, 1, 2]
    assert about == {"editor": "x"}
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["bank.safetensors"]


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path):
    file = tmp_path / "bank.safetensors"
    with pytest.raises(BadInput, match="there is no bank"):
        Bank.load(file)
    Bank(rows(0, 1)).save(file, {})
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(BadInput, match="truncated"):
        Bank.load(file)


def test_what_cannot_be_written_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        Bank(rows(0)).save(tmp_path / "file" / "bank.safetensors", {})
