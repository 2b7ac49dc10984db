"""Rights: tokens, other hosts, other web pages, and what reaches a browser."""

import asyncio

import httpx
import pytest
from starlette.routing import Router

from helpers.serving import FLAG, serving
from liveedit.errors import BadInput
from liveedit.serve.gate import Gate
from liveedit.serve.metrics import Metrics
from liveedit.serve.settings import Rights, check_host
from liveedit.store.store import Store

ASK, EDIT = "ask-token", "edit-token"
RIGHTS = Rights.of([ASK], [EDIT, "other"])


@pytest.fixture(scope="module")
def guarded(embedded_vlm, tmp_path_factory):
    """A server with tokens."""
    store = Store(tmp_path_factory.mktemp("guarded") / "edits.db")
    with (
        serving(embedded_vlm, store, rights=RIGHTS) as (address, _),
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        yield client


def status(client, method, path, token=None, **more):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return client.request(method, path, headers=headers, **more).status_code


@pytest.mark.parametrize(
    ("method", "path", "body", "ask", "edit"),
    [
        ("GET", "/v1/models", None, 200, 200),
        ("POST", "/v1/completions", {"prompt": "Hello"}, 200, 200),
        ("GET", "/metrics", None, 200, 200),
        ("GET", "/v1/edits", None, 403, 200),
        ("GET", "/v1/edits/", None, 403, 200),
        ("POST", "/v1/edits", {"question": FLAG, "answer": "", "image": None}, 403, 400),
        ("POST", "/v1/edits/explain", {"question": FLAG, "image": 3}, 403, 400),
        ("DELETE", "/v1/edits/zz", None, 403, 404),
        ("GET", "/v1/edits/zz/thumbnail", None, 403, 404),
    ],
)
def test_each_route_needs_its_token(guarded, method, path, body, ask, edit):
    assert status(guarded, method, path, json=body) == 401
    assert status(guarded, method, path, "unknown", json=body) == 401
    assert status(guarded, method, path, ASK, json=body) == ask
    assert status(guarded, method, path, EDIT, json=body) == edit


def test_health_the_page_and_the_reference_are_open(guarded):
    for path in ("/health", "/docs", "/openapi.json"):
        assert guarded.get(path).status_code == 200


def test_a_refusal_says_what_to_do(guarded):
    refused = guarded.get("/v1/models", headers={"Authorization": "Basic x"})
    assert refused.headers["www-authenticate"] == "Bearer"
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert "Bearer TOKEN" in error["message"]


@pytest.mark.parametrize(("scheme", "code"), [("bearer", 200), ("BEARER", 200), ("Basic", 401)])
def test_a_token_comes_as_a_bearer_s(guarded, scheme, code):
    answer = guarded.get("/v1/models", headers={"Authorization": f"{scheme} {ASK}"})
    assert answer.status_code == code


def test_a_token_of_either_kind_closes_the_server():
    assert Rights().open
    assert not Rights.of([ASK], []).open
    assert not Rights.of([], [EDIT]).open


@pytest.mark.parametrize("token", ["é", "a b", "a\n", "", "\x7f", "日本"])
def test_a_token_that_no_header_can_hold_is_refused(token):
    for ask, edit in ([token], []), ([ASK], [token]):
        with pytest.raises(BadInput, match="cannot be sent in a header") as caught:
            Rights.of(ask, edit)
        assert not token or token not in str(caught.value)


def test_tokens_are_not_kept():
    assert ASK not in repr(RIGHTS)
    assert ASK.encode() not in b"".join((*RIGHTS.ask, *RIGHTS.edit))


def test_without_tokens_only_this_machine_is_served():
    for host in ("127.0.0.1", "::1", "[::1]", "localhost", "Localhost", "127.8.8.8"):
        check_host(host, Rights(), without_tokens=False)
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.com", ""):
        with pytest.raises(BadInput, match="LIVEEDIT_EDIT_TOKENS"):
            check_host(host, Rights(), without_tokens=False)
        check_host(host, Rights(), without_tokens=True)
        check_host(host, RIGHTS, without_tokens=False)


def test_without_tokens_other_pages_and_names_are_refused(http):
    assert http.get("/health", headers={"Host": "evil.example"}).status_code == 403
    assert http.get("/health", headers={"Host": "localhost:80"}).status_code == 200
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        other = http.post("/v1/completions", json={"prompt": "Hi"}, headers={"Origin": origin})
        assert other.status_code == 403
    assert http.get("/health", headers={"Origin": "https://evil.example"}).status_code == 200
    own = {"Origin": str(http.base_url)}
    assert http.post("/v1/completions", json={"prompt": "Hi"}, headers=own).status_code == 200
    text = {"Content-Type": "text/plain"}
    assert http.post("/v1/completions", content='{"prompt": "Hi"}', headers=text).is_error


@pytest.mark.parametrize(("local", "code"), [(True, 403), (False, 404)])
def test_a_server_for_others_is_reached_by_any_name(local, code):
    gate = Gate(Router(), Rights(), Metrics(), most=100, local=local)
    transport = httpx.ASGITransport(gate)

    async def ask():
        async with httpx.AsyncClient(transport=transport, base_url="http://other.example") as one:
            return (await one.get("/")).status_code

    assert asyncio.run(ask()) == code


def test_nothing_under_v1_is_cached(http):
    assert http.get("/v1/edits").headers["cache-control"] == "no-store"
    assert "cache-control" not in http.get("/health").headers


def test_a_browser_is_told_to_run_nothing_else(http):
    for path in ("/health", "/docs", "/v1/edits", "/nothing"):
        headers = http.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; ")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_the_reference_shows_every_route_and_no_outside_resource(http):
    page = http.get("/docs").text
    for path in http.get("/openapi.json").json()["paths"]:
        assert f" {path}</code>" in page
    assert "//" not in page.replace("<!doctype html>", "")
    assert "<script" not in page
