"""One server of the embedded model for all tests of a process, and its official client."""

import httpx
import openai
import pytest

from helpers.databases import postgresql
from helpers.serving import FLAG, data_url, serving
from liveedit.store.store import Store

__all__ = ["postgresql"]


@pytest.fixture(scope="session")
def served(embedded_vlm, tmp_path_factory):
    """The address and the model of a server."""
    store = Store(tmp_path_factory.mktemp("served") / "edits.db")
    with serving(embedded_vlm, store) as both:
        yield both


@pytest.fixture
def model(served):
    """The model of the server."""
    return served[1]


@pytest.fixture
def http(served):
    """A client of the server; at the end of the test all edits are taken back."""
    with httpx.Client(base_url=served[0], timeout=60) as client:
        yield client
        served[1].forget([edit.id for edit in served[1].history])


@pytest.fixture
def client(http):
    """OpenAI's client of the server."""
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def url(flag):
    """A drawing of Japan's flag, as a data URL."""
    return data_url(flag)


@pytest.fixture
def edit(http, url):
    """An edit: Japan's flag is that of Atlantis."""
    body = {"image": url, "question": FLAG, "answer": "Atlantis", "who": "me", "why": "test"}
    answer = http.post("/v1/edits", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()
