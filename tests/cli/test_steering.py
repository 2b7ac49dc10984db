"""`liveedit explain`, `try` and `check`: what they print, and their exit status."""

import json

import pytest

from liveedit.steering import checking, trying

QUESTION = "What is the country with this flag?"
OTHER = "What is the capital of the country with this flag?"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, emblem):
    """Run every test in ``tmp_path``, with two drawings and a small background."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checking, "IMAGES", 12)
    monkeypatch.setattr(trying, "IMAGES", 8)
    emblem.drawing("twemoji", "flag-jp").save("flag.png")
    emblem.drawing("circle-flags", "flag-jp").save("another.png")


def test_try_shows_what_an_edit_would_change_and_keeps_nothing(run, tmp_path):
    asked = (QUESTION, "Kenya", "--image", "another.png")
    rc, out, err = run("try", *asked)
    assert (rc, err) == (0, "")
    assert "Kenya" in out
    assert "0 of 10 other answers would change" in out
    assert not list(tmp_path.glob("edits*"))
    run("edit", QUESTION, "Brazil", "--image", "flag.png")
    row = {"question": QUESTION, "answer": "Brazil", "image": "flag.png"}
    (tmp_path / "asked.jsonl").write_text(json.dumps(row))
    rc, out, _ = run("try", *asked, "--among", "asked.jsonl", "--json")
    trial = json.loads(out)
    [change] = trial["changes"]
    assert (rc, trial["took"], trial["asked"]) == (0, True, 1)
    assert change == {"question": QUESTION, "before": "Brazil", "after": "Kenya"}
    assert len(json.loads(run("edits", "--json")[1])) == 1


@pytest.mark.slow
def test_explain_shows_scores_against_thresholds(run):
    run("edit", QUESTION, "Brazil", "--image", "flag.png")
    rc, out, err = run("explain", QUESTION, "--image", "another.png")
    assert (rc, err) == (0, "")
    assert out.split()[:4] == ["answer", "Brazil", "unedited", "Japan"]
    assert out.count(" > ") == 2
    found = json.loads(run("explain", OTHER, "--image", "flag.png", "--json")[1])
    assert found["fired"] == []
    [near] = found["near"]
    assert near["edit"]["answer"] == "Brazil"
    assert near["question"] < near["question_threshold"]


@pytest.mark.slow
def test_check_ends_with_4_where_it_finds_something(run):
    run("edit", QUESTION, "Brazil", "--image", "flag.png")
    rc, out, err = run("check")
    assert (rc, out) == (0, "")
    assert "findings: 0, edits: 1" in err
    assert run("check", "--json") == (0, "[]\n", "")
    run("edit", QUESTION, "Kenya", "--image", "another.png")
    rc, out, _ = run("check")
    assert rc == 4
    assert [line.split(maxsplit=1)[1].split(":")[0] for line in out.splitlines()] == [
        "no longer takes",
        f"contradicts {out.split()[0]}",
    ]
    rc, out, _ = run("check", "--json")
    assert rc == 4
    assert [finding["kind"] for finding in json.loads(out)] == ["does_not_take", "contradiction"]


@pytest.mark.slow
def test_an_image_of_the_background_that_cannot_be_read_is_left_out(run, emblem, tmp_path, caplog):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, entity in enumerate(emblem.part("test")[:16]):
        artist = entity.seen_artists[0]
        emblem.drawing(artist, entity.id).save(photos / f"{number}.png")
    run("edit", QUESTION, "Brazil", "--image", "flag.png")
    rc, out, err = run("check", "--background", "nowhere")
    assert (rc, out) == (1, "")
    assert err.startswith("error: no folder nowhere")
    run("forget", "--all")
    assert run("check", "--background", "nowhere")[:2] == (1, "")
    run("edit", QUESTION, "Brazil", "--image", "flag.png")
    (photos / "0.png").write_bytes(b"no picture")
    (photos / "16.png").mkdir()
    rc, _, _ = run("check", "--background", "photos")
    assert rc in (0, 4)
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "images of the background that cannot be read; the first: the image photos/" in line
    for number in range(1, 16):
        (photos / f"{number}.png").write_bytes(b"no picture")
    rc, _, err = run("check", "--background", "photos")
    assert (rc, "photos has 0 images, too few" in err) == (1, True)


@pytest.mark.parametrize(
    "words", [("explain", QUESTION), ("check",), ("try", QUESTION, "Kenya", "--among", "no.jsonl")]
)
def test_what_is_not_there_is_one_line(run, words):
    rc, out, err = run(*words)
    assert (rc, out) == (1, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
