"""`liveedit serve` refuses what cannot be, in one line, before it loads a model."""

import socket

import pytest

from liveedit.errors import BadInput
from liveedit.serve.server import run as serve


@pytest.fixture(autouse=True)
def no_tokens(monkeypatch):
    for name in ("LIVEEDIT_ASK_TOKENS", "LIVEEDIT_EDIT_TOKENS"):
        monkeypatch.delenv(name, raising=False)


def test_without_tokens_another_host_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("serve", "--host", "0.0.0.0")
    assert (status, out) == (1, "")
    assert err.startswith("error: anyone who reaches 0.0.0.0 could edit the model: set LIVEEDIT_")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_options_come_from_the_environment(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIVEEDIT_HOST", "192.0.2.1")
    assert "reaches 192.0.2.1" in run("serve")[2]
    monkeypatch.setenv("LIVEEDIT_PORT", "many")
    status, _, err = run("serve")
    assert status == 2
    assert "--port" in err
    assert "integer" in err


def test_an_address_that_is_taken_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"port {port} .*give another --host or --port"):
            serve(None, "127.0.0.1", port, 1, print)


def test_a_store_of_another_kind_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "a store cannot be in mysql" in run("serve", "--store", "mysql://a/b")[2]
