"""Servers in processes of their own: started by the command, stopped by SIGTERM, two on a store."""

import signal
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import httpx
import pytest

from helpers.databases import new_database
from helpers.serving import FLAG, data_url, metric, process, question, until
from liveedit.store.browsing import page
from liveedit.store.store import Store

RAMBLING = {"model": "emblem:base", "temperature": 2, "seed": 4, "max_tokens": 450}


def ask(address, messages, **options):
    body = {"messages": messages, "max_tokens": 16} | options
    answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
    return answer.json()["choices"][0]["message"]["content"]


@pytest.mark.slow
def test_on_sigterm_running_answers_end_and_nothing_is_lost(flag, tmp_path):
    url = data_url(flag)
    own = process(tmp_path, "--max-batch", "1", OMP_NUM_THREADS="1")
    with own as (address, server), ThreadPoolExecutor(1) as threads:
        body = {"image": url, "question": FLAG, "answer": "Atlantis"}
        made = httpx.post(f"{address}/v1/edits", json=body, timeout=60).json()
        assert ask(address, question(FLAG, url)) == "Atlantis"
        asked = {"messages": question(FLAG, url), "stream": True, **RAMBLING}
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=asked) as stream:
            lines = stream.iter_lines()
            next(lines)
            waiting = threads.submit(ask, address, question(FLAG, url))
            until(lambda: metric(address, "liveedit_queue") == 1)
            server.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert waiting.result() == "Atlantis"
        assert "data: [DONE]" in rest
        assert sum(line.startswith("data: {") for line in rest) > 100
        assert server.wait(30) in (0, -signal.SIGTERM)
        assert server.stdout.read() == ""
    store = Store(tmp_path / "edits.db")
    [row], _ = page(store)
    assert row.kept.edit.id == made["id"]
    assert row.hits == 2
    store.close()


@pytest.mark.slow
def test_two_servers_on_one_postgresql_store(postgresql, flag, tmp_path):
    where = new_database(postgresql)
    url = data_url(flag)
    known = {"OMP_NUM_THREADS": "1", "LIVEEDIT_STORE": where}
    with (
        process(tmp_path, **known) as (first, _),
        process(tmp_path, **known) as (other, _),
    ):
        edits = [("Atlantis", first, other), ("Lemuria", other, first)]
        for answer, here, there in edits * 2:
            body = {"image": url, "question": FLAG, "answer": answer}
            assert httpx.post(f"{here}/v1/edits", json=body, timeout=60).status_code == 201
            assert ask(there, question(FLAG, url)) == answer

        def many(address, name):
            for number in range(10):
                body = {"image": url, "question": f"{name} {number}?", "answer": f"{number}"}
                httpx.post(f"{address}/v1/edits", json=body, timeout=60).raise_for_status()

        both = [Thread(target=many, args=pair) for pair in ((first, "One"), (other, "Other"))]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        for address in (first, other):
            assert httpx.get(f"{address}/v1/edits").json()["total"] == 21


@pytest.mark.slow
def test_settings_come_from_the_environment(flag, tmp_path):
    known = {"LIVEEDIT_EDIT_TOKENS": "secret, other", "LIVEEDIT_STORE": str(tmp_path / "here.db")}
    known |= {"LIVEEDIT_MODEL": "emblem", "LIVEEDIT_NAME": "mine", "LIVEEDIT_MAX_TOKENS": "2"}
    with process(tmp_path, OMP_NUM_THREADS="1", **known) as (address, _):
        assert httpx.get(f"{address}/v1/models").status_code == 401
        bearer = {"Authorization": "Bearer secret"}
        models = httpx.get(f"{address}/v1/models", headers=bearer).json()
        assert models["data"][0]["id"] == "mine"
        body = {"prompt": "What is the capital of Japan?", "max_tokens": 9}
        answer = httpx.post(f"{address}/v1/completions", json=body, headers=bearer).json()
        assert answer["usage"]["completion_tokens"] == 2
        edit = {"question": body["prompt"], "answer": "Oslo", "image": data_url(flag)}
        httpx.post(f"{address}/v1/edits", json=edit, headers=bearer, timeout=60)
        assert (tmp_path / "here.db").exists()
