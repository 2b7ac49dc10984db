"""--verbose says what happens, on standard error; --quiet leaves answers and errors."""

import pytest

from liveedit.cli.verbose import set_verbose

QUESTION = "What is the country with this flag?"


@pytest.fixture(autouse=True)
def silent_afterwards():
    yield
    set_verbose(False)


@pytest.fixture
def picture(flag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flag.save(tmp_path / "flag.png")
    return tmp_path / "flag.png"


def test_verbose_says_what_is_loaded_chosen_and_timed(run, picture, tmp_path):
    store = tmp_path / "edits.db"
    asked = [QUESTION, "--image", picture, "--store", store]
    code, out, err = run("edit", *asked[:1], "Brazil", *asked[1:], "--verbose")
    assert code == 0
    for told in (
        "chose the model emblem and the editor pinpoint",
        "loaded LlavaForConditionalGeneration as Llava: 8 layers of width 192",
        f"store {store} at version 0",
        "made 1 edits in",
    ):
        assert told in err
    assert "loaded" not in out
    assert run("ask", *asked)[2] == ""


def test_verbose_may_stand_beside_quiet_and_json(run, picture, tmp_path):
    words = ["ask", QUESTION, "--image", picture, "--verbose", "--quiet"]
    code, out, err = run(*words)
    assert (code, out) == (0, "Japan\n")
    assert "loaded" in err


def test_quiet_commands_of_a_store_print_nothing(run, picture, tmp_path):
    store = tmp_path / "edits.db"
    words = [QUESTION, "Brazil", "--image", picture, "--store", store, "--quiet"]
    assert run("edit", *words) == (0, "", "")
    file = tmp_path / "edits.safetensors"
    assert run("store", "export", file, "--store", store, "--quiet") == (0, "", "")
    other = tmp_path / "other.db"
    assert run("store", "import", file, "--store", other, "--quiet") == (0, "", "")
    assert run("store", "merge", store, "--store", other, "--quiet") == (0, "", "")
    assert run("store", "compact", "--store", other, "--quiet") == (0, "", "")
    assert file.is_file()


@pytest.mark.slow
def test_a_quiet_evaluation_writes_its_report(run, tmp_path):
    out = tmp_path / "run"
    words = ["--editors", "pinpoint", "--edits", "1", "--max-cases", "1", "--ask", "1"]
    assert run("eval", "--out", out, *words, "--quiet") == (0, "", "")
    assert (out / "index.html").is_file()
