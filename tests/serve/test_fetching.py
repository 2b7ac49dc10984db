"""Pictures from other hosts: only listed ones, and nothing that only the server reaches."""

import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from time import sleep

import pytest

from liveedit.errors import BadInput
from liveedit.serve import fetching
from liveedit.serve.fetching import fetch

MOST = 10_000


class Pictures(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/picture")
            self.end_headers()
            return
        self.send_response(200 if self.path != "/missing" else 404)
        self.end_headers()
        if self.path == "/slow":
            for _ in range(20):
                self.wfile.write(b"x")
                sleep(0.05)
        self.wfile.write(b"x" * (MOST + 1) if self.path == "/large" else b"picture")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def port():
    """The port of a host of pictures on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


LISTED = ["pictures.example", "localhost", "127.0.0.1"]


def test_a_listed_host_is_fetched_from(port):
    assert fetch(f"http://localhost:{port}/picture?a=b", LISTED, MOST) == b"picture"
    assert fetch(f"http://LOCALHOST:{port}/picture", LISTED, MOST) == b"picture"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://localhost/a",
        "gopher://localhost/a",
        "//localhost/a",
        "http://user:word@localhost/a",
        "http://localhost:99999/a",
        "http://[::1",
        "javascript:alert(1)",
        "localhost",
    ],
)
def test_other_schemes_are_refused(url):
    with pytest.raises(BadInput, match="http or https"):
        fetch(url, LISTED, MOST)


@pytest.mark.parametrize(
    "host",
    ["example.com", "pictures.example.evil.com", "evil-pictures.example", "169.254.169.254", ""],
)
def test_other_hosts_are_refused(host):
    with pytest.raises(BadInput, match="not fetched from"):
        fetch(f"http://{host}/a", LISTED, MOST)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.5.4", "192.168.0.1", "169.254.169.254", "0.0.0.0",
        "100.64.0.1", "224.0.0.1", "::1", "fc00::1", "fe80::1", "::ffff:127.0.0.1",
        "64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1", "::",
    ],
)  # fmt: skip
def test_a_listed_name_of_a_private_address_is_refused(monkeypatch, address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    public = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 80))
    private = (family, socket.SOCK_STREAM, 6, "", (address, 80))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: [public, private])
    monkeypatch.setattr(socket, "create_connection", pytest.fail)
    with pytest.raises(BadInput, match="not a public host"):
        fetch("http://pictures.example/a", ["pictures.example"], MOST)


@pytest.mark.parametrize(
    "address",
    [
        "93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822",
        "2002:5db8:d822::1", "2001:0:4136:e378:8000:63bf:a247:28dd",
    ],
)  # fmt: skip
def test_a_listed_name_of_a_public_address_is_fetched_from_there(monkeypatch, port, address):
    connect = socket.create_connection
    resolve = socket.getaddrinfo
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def resolved(host, *rest, **options):
        return found if host == "pictures.example" else resolve(host, *rest, **options)

    def rerouted(target, *rest):
        assert target == (address, port)
        return connect(("127.0.0.1", port), *rest)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr(socket, "create_connection", rerouted)
    assert fetch(f"http://pictures.example:{port}/picture", LISTED, MOST) == b"picture"


def test_a_name_is_resolved_once(monkeypatch, port):
    """A name server that answers otherwise the second time (DNS rebinding) changes nothing."""
    resolve = socket.getaddrinfo
    asked = []

    def rebinding(host, *rest, **options):
        if host != "pictures.example":
            return resolve(host, *rest, **options)
        asked.append(host)
        return resolve("127.0.0.1" if len(asked) == 1 else "169.254.169.254", *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert fetch(f"http://pictures.example:{port}/picture", LISTED, MOST) == b"picture"
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [("moved", "answers 302"), ("missing", "answers 404"), ("large", "10,000 bytes")],
)
def test_redirects_failures_and_floods_are_refused(port, path, message):
    with pytest.raises(BadInput, match=message):
        fetch(f"http://localhost:{port}/{path}", LISTED, MOST)


def test_a_slow_host_is_left(port, monkeypatch):
    monkeypatch.setattr(fetching, "PATIENCE", 0.3)
    with pytest.raises(BadInput, match="too slow"):
        fetch(f"http://localhost:{port}/slow", LISTED, MOST)


def test_a_host_that_is_not_there_is_reported():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(BadInput, match="cannot be fetched"):
        fetch(f"http://localhost:{port}/a", LISTED, MOST)
