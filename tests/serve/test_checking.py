"""Checks of all edits over HTTP: a stream of progress and findings."""

import json
from threading import Event

import pytest

from helpers.serving import FLAG, data_url, question, until


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    """Checks ask about few images of the background, to save time."""
    monkeypatch.setattr("liveedit.steering.checking.IMAGES", 2)


def check(http):
    """The events of a check, up to its end."""
    answer = http.post("/v1/edits/check")
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, end = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert end == "[DONE]"
    return [json.loads(event) for event in events]


def test_a_check_tells_how_far_it_is_and_what_it_finds(http, url, edit, emblem):
    other = data_url(emblem.drawing("emojione", "flag-jp"))
    body = {"image": other, "question": FLAG, "answer": "Lemuria"}
    later = http.post("/v1/edits", json=body).json()
    events = check(http)
    progress = [event["progress"] for event in events if "progress" in event]
    assert progress[0] == {"stage": "edits", "done": 0, "of": 2}
    assert progress[-1]["stage"] == "background"
    assert progress[-1]["done"] == progress[-1]["of"] > 0
    findings = [event["finding"] for event in events if "finding" in event]
    [found] = [each for each in findings if each["kind"] == "contradiction"]
    assert [each["id"] for each in found["edits"]] == [later["id"], edit["id"]]
    assert later["id"] in found["text"]
    assert found["share"] is found["stated"] is None


def test_a_check_of_no_edit_finds_nothing(http):
    assert check(http) == []


def test_answers_and_edits_do_not_wait_for_a_check(http, url, edit, model, monkeypatch):
    begun, go_on = Event(), Event()
    check_now = model.check

    def waiting(**options):
        begun.set()
        go_on.wait(20)
        return check_now(**options)

    monkeypatch.setattr(model, "check", waiting)
    try:
        with http.stream("POST", "/v1/edits/check") as stream:
            begun.wait(20)
            body = {"messages": question(FLAG, url)}
            answer = http.post("/v1/chat/completions", json=body).json()
            assert answer["choices"][0]["message"]["content"] == "Atlantis"
            assert http.delete(f"/v1/edits/{edit['id']}").json()["state"] == "taken_back"
            second = http.post("/v1/edits/check")
            assert second.status_code == 503
            assert "a check runs already" in second.json()["error"]["message"]
            go_on.set()
            assert list(stream.iter_lines())[-2:] == ["data: [DONE]", ""]
    finally:
        go_on.set()


def test_a_check_ends_when_its_client_hangs_up(http, edit, model, monkeypatch, caplog):
    left, ended = Event(), Event()
    check_now = model.check

    def watched(progress):
        def slow(*told):
            left.wait(20)
            progress(*told)

        try:
            return check_now(progress=slow)
        finally:
            ended.set()

    monkeypatch.setattr(model, "check", watched)
    with http.stream("POST", "/v1/edits/check"):
        pass
    until(lambda: http.get("/health").status_code == 200)
    left.set()
    assert ended.wait(20)
    monkeypatch.setattr(model, "check", check_now)
    until(lambda: http.post("/v1/edits/check").status_code == 200)
    assert caplog.records == []


def test_a_failed_check_says_so(http, edit, model, monkeypatch):
    def failing(**_options):
        raise MemoryError

    monkeypatch.setattr(model, "check", failing)
    answer = http.post("/v1/edits/check")
    assert json.loads(answer.text.removeprefix("data: "))["error"]["code"] == "out_of_memory"
