"""Requests that do not arrive, and answers that outlast a server which stops."""

import json
import socket
from contextlib import contextmanager
from threading import Thread
from time import monotonic, sleep
from urllib.parse import urlsplit

import httpx
import pytest

from helpers.serving import FLAG, data_url, metric, question, running, until
from liveedit.editable import EditableVLM, embedded
from liveedit.editors import load_editor
from liveedit.serve.app import application
from liveedit.serve.arriving import RATE

HEAD = (
    "POST /v1/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n"
)
JSON, FILE = "application/json", "application/octet-stream"
RAMBLING = {"model": "emblem:base", "temperature": 2, "seed": 4, "max_tokens": 450}


@pytest.fixture
def app(embedded_vlm, tmp_path):
    """An application with a store of its own."""
    editor = load_editor(embedded_vlm, embedded("pinpoint"))
    return application(EditableVLM(embedded_vlm, editor, tmp_path / "edits.db"), "emblem")


@contextmanager
def connected(address):
    """A connection to a server, on which anything may be sent."""
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as made:
        yield made


def received(connection):
    """All that a server sends until it closes the connection."""
    found = b""
    while piece := connection.recv(1 << 16):
        found += piece
    return found.decode()


def error(answer, status):
    """The error in an answer of this status."""
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status}")
    return json.loads(body)["error"]


@pytest.mark.parametrize(
    "sent",
    [
        "POST /v1/edits HTTP/1.1\r\nHost: loc",
        HEAD.format(JSON, 100) + "{",
        HEAD.replace("edits", "edits/import").format(FILE, 100) + "{",
    ],
    ids=["headers", "body", "file"],
)
@pytest.mark.parametrize("second", [False, True])
def test_a_request_that_does_not_arrive_is_given_up(app, sent, second, caplog):
    with running(app, arrival=0.3) as address, connected(address) as slow:
        if second:
            slow.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while not slow.recv(1 << 16).endswith(b"}"):
                pass
        slow.sendall(sent.encode())
        begun = monotonic()
        found = error(received(slow), 408)
        assert monotonic() - begun < 3
        assert httpx.get(f"{address}/health").status_code == 200
    assert (found["code"], found["type"]) == ("request_timeout", "invalid_request_error")
    assert "0.3 seconds" in found["message"]
    assert caplog.records == []


def test_a_connection_without_a_request_is_closed(app):
    with running(app, arrival=0.3) as address, connected(address) as idle:
        assert received(idle) == ""


def test_a_slow_request_has_time_as_long_as_it_comes(app):
    with running(app, arrival=0.5) as address, connected(address) as slow:
        content = json.dumps({"prompt": "What is this?", "user": "x" * RATE * 2}).encode()
        head = HEAD.replace("edits", "completions").format(JSON, len(content))
        slow.sendall(head.encode())
        for start in range(0, len(content), RATE // 2):
            slow.sendall(content[start : start + RATE // 2])
            sleep(0.3)
        assert slow.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_a_request_that_has_not_arrived_does_not_hold_up_a_stop(app, caplog):
    with running(app, arrival=60) as address:
        slow = connected(address)
        connection = slow.__enter__()
        connection.sendall((HEAD.format(JSON, 100) + "{").encode())
        until(lambda: httpx.get(f"{address}/health").status_code == 200)
        begun = monotonic()
    assert monotonic() - begun < 3
    assert error(received(connection), 503)["code"] == "stopping"
    slow.__exit__(None, None, None)
    assert caplog.records == []


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_outlasts_the_grace_ends_with_an_error(app, flag, stream, caplog):
    answers = []

    def ask():
        body = {"messages": question(FLAG, data_url(flag)), "stream": stream, **RAMBLING}
        answers.append(httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60))

    with running(app, grace=0) as address:
        asking = Thread(target=ask)
        asking.start()
        until(lambda: metric(address, "liveedit_batch_size_count") == 1)
        sleep(0.3)
    asking.join()
    [answer] = answers
    text = answer.text.strip().splitlines()[-1].removeprefix("data: ")
    assert answer.status_code == (200 if stream else 503)
    assert json.loads(text)["error"]["code"] == "stopping"
    assert not any(record.exc_info for record in caplog.records)
