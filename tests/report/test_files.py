"""Reading records that a run left behind, and writing without leaving halves."""

import pytest

from liveedit.errors import BadInput, StorageError
from liveedit.report.files import read_records


def test_reads_one_file_or_all_below_a_folder(tmp_path, record, save):
    first = save(tmp_path / "records-0.jsonl", [record(case="a")])
    save(tmp_path / "ft" / "records-1.jsonl", [record(case="b")])
    save(tmp_path / "other.jsonl", [record(case="c")])
    assert [r.case for r in read_records(first).records] == ["a"]
    assert sorted(r.case for r in read_records(tmp_path).records) == ["a", "b"]


def test_records_come_back_as_they_were_written(tmp_path, run, save):
    records = run()
    assert read_records(save(tmp_path / "records-0.jsonl", records)).records == records


@pytest.mark.parametrize("keep", [1, 40, -1], ids=["one byte", "half", "all but the brace"])
def test_half_written_last_line_is_counted_and_left_out(tmp_path, record, save, keep):
    path = save(tmp_path / "records-0.jsonl", [record(case="a")])
    with path.open("ab") as file:
        file.write(record(case="b").to_json().encode()[:keep])
    reading = read_records(path)
    assert [r.case for r in reading] == ["a"]
    assert [r.case for r in reading] == ["a"]  # a second pass is like the first
    assert reading.half_lines == 1


def test_a_character_cut_in_two_is_a_half_line(tmp_path, record, save):
    path = save(tmp_path / "records-0.jsonl", [record(case="a")])
    with path.open("ab") as file:
        file.write('{"editor":"é'.encode()[:-1])
    reading = read_records(path)
    assert len(reading.records) == 1
    assert reading.half_lines == 1


def test_last_line_without_newline_counts_if_it_is_whole(tmp_path, record, save):
    path = save(tmp_path / "records-0.jsonl", [record(case="a"), record(case="b")])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    reading = read_records(path)
    assert (len(reading.records), reading.half_lines) == (2, 0)


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "[]",
        "3",
        "{}",
        '{"editor": "x", "fired": [], "tokens_wanted": [], "tokens_after": []}',
        "\xff",
    ],
)
def test_corrupt_line_names_file_and_line(tmp_path, record, bad):
    path = tmp_path / "records-7.jsonl"
    path.write_bytes(
        b"\n".join(
            [record().to_json().encode(), bad.encode("latin-1"), record().to_json().encode(), b""]
        )
    )
    with pytest.raises(BadInput, match=r"records-7\.jsonl, line 2 ") as caught:
        list(read_records(path))
    assert "\n" not in str(caught.value)


def test_of_repeated_records_the_last_counts(tmp_path, record, save):
    path = save(
        tmp_path / "records-0.jsonl", [record(answer_after="first"), record(answer_after="second")]
    )
    assert [r.answer_after for r in read_records(path).records] == ["second"]


def test_picks_records_by_their_place_over_all_files(tmp_path, record, save):
    for name in "ab":
        save(tmp_path / f"records-{name}.jsonl", [record(case=f"é{name}{i}") for i in range(3)])
    reading = read_records(tmp_path)
    assert [r.case for r in reading] == ["éa0", "éa1", "éa2", "éb0", "éb1", "éb2"]
    assert [(n, r.case) for n, r in reading.pick([5, 0, 3])] == [(0, "éa0"), (3, "éb0"), (5, "éb2")]


def test_a_file_that_changes_between_passes_is_bad_input(tmp_path, record, save):
    path = save(tmp_path / "records-0.jsonl", [record(case="a"), record(case="b")])
    reading = read_records(path)
    assert len(list(reading)) == 2
    path.write_text("shorter\n")
    with pytest.raises(BadInput, match="has changed"):
        list(reading.pick([1]))


def test_a_file_that_cannot_be_read_is_a_storage_error(tmp_path, record, save):
    save(tmp_path / "records-0.jsonl", [record()])
    reading = read_records(tmp_path)
    (tmp_path / "records-0.jsonl").unlink()
    with pytest.raises(StorageError, match="cannot read"):
        list(reading)


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_no_records_is_bad_input(tmp_path, name):
    with pytest.raises(BadInput, match="no records"):
        read_records(tmp_path / name)


def test_blank_lines_between_records_are_passed_over(tmp_path, record, save):
    path = save(tmp_path / "records-0.jsonl", [record(case="a"), record(case="b")])
    path.write_bytes(b"\n" + path.read_bytes().replace(b"\n", b"\n\n  \n"))
    reading = read_records(path)
    assert [r.case for r in reading] == ["a", "b"]
    assert [(number, r.case) for number, r in reading.pick([0, 1])] == [(0, "a"), (1, "b")]
