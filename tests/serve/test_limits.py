"""Limits of requests: bytes, pixels, images, and how many wait."""

import base64
import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import httpx
import pytest
from PIL import Image

from helpers.serving import FLAG, data_url, question, serving
from liveedit.serve.settings import Limits
from liveedit.store.store import Store


@pytest.fixture(scope="module")
def narrow(embedded_vlm, tmp_path_factory):
    """A server with small limits."""
    limits = Limits(body=100_000, pixels=250_000, images=2, prompt=100, queue=3, batch=1, tokens=5)
    store = Store(tmp_path_factory.mktemp("narrow") / "edits.db")
    with (
        serving(embedded_vlm, store, limits=limits) as (address, _),
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        yield client


def ask(client, messages, **options):
    return client.post("/v1/chat/completions", json={"messages": messages} | options)


def refused(answer, status, message):
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


def bomb(width, height):
    """A PNG whose header promises more pixels than it holds."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in parts:
        checked = kind + body
        content += struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def test_a_long_body_is_refused(narrow):
    refused(ask(narrow, question("x" * 100_000)), 413, "")
    chunks = (b" " * 1000 for _ in range(200))
    json = {"Content-Type": "application/json"}
    refused(narrow.post("/v1/chat/completions", content=chunks, headers=json), 413, "")


@pytest.mark.parametrize("size", [(501, 500), (20_000, 20_000), (1, 2_000_000_000)])
def test_an_image_of_too_many_pixels_is_not_decoded(narrow, size):
    refused(ask(narrow, question(FLAG, bomb(*size))), 400, "250,000 pixels")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:image/png;base64,abcde", "base64 of an image is broken"),
        ("data:image/png;base64,ab*d", "base64 of an image is broken"),
        ("data:image/png,abc", "base64"),
        ("data:image/png;base64,AAAA", "cannot be read"),
        (bomb(100, 100), "broken"),
        ("", "data URL"),
        ("/etc/passwd", "data URL"),
        ("file:///etc/passwd", "data URL"),
    ],
)
def test_what_is_no_image_is_refused(narrow, url, message):
    refused(ask(narrow, question(FLAG, url)), 400, message)


def test_base64_may_have_line_ends_and_lack_its_padding(narrow, flag):
    head, _, content = data_url(flag).partition(",")
    lines = "\r\n".join(content[start : start + 76] for start in range(0, len(content), 76))
    forms = [f"{lines}\n", content.rstrip("="), f" {content}", quote(content, safe="")]
    for form in forms:
        answer = ask(narrow, question(FLAG, f"{head},{form}"))
        assert answer.json()["choices"][0]["message"]["content"] == "Japan"


def test_a_program_is_no_image(narrow):
    stream = io.BytesIO()
    Image.new("RGB", (9, 9)).save(stream, "EPS")
    url = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    refused(ask(narrow, question(FLAG, url)), 400, "cannot be read")


def test_too_many_images_are_refused(narrow, flag):
    refused(ask(narrow, question(FLAG, *[data_url(flag)] * 3)), 400, "2 images")


@pytest.mark.parametrize(
    ("text", "message"),
    [("word " * 120, "100 tokens, not 1"), ("x" * 1601, "1,600 characters, not 1,6")],
)
def test_a_long_question_is_refused_before_it_is_answered(narrow, text, message):
    refused(ask(narrow, question(text)), 400, message)
    refused(narrow.post("/v1/completions", json={"prompt": text}), 400, message)
    earlier = [*question(text), {"role": "assistant", "content": "Yes."}]
    refused(ask(narrow, [*earlier, *question(FLAG)], stream=True), 400, message)


def test_an_answer_is_no_longer_than_allowed(narrow, flag):
    long = {"temperature": 2, "seed": 1, "max_tokens": 1000}
    answer = ask(narrow, question(FLAG, data_url(flag)), **long).json()
    assert answer["usage"]["completion_tokens"] <= 5


def test_more_requests_than_may_wait_are_turned_away(narrow, flag):
    messages = question(FLAG, data_url(flag))
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: ask(narrow, messages), range(16)))
    codes = {answer.status_code for answer in answers}
    assert codes == {200, 503}
    turned = next(answer for answer in answers if answer.status_code == 503)
    assert turned.headers["retry-after"] == "1"
    assert turned.json()["error"]["type"] == "server_error"
