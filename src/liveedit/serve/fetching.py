"""Fetches pictures from other hosts, without letting a request reach what only the server can.

Only hosts that are listed; only http and https; no redirect is followed; the name is resolved once
and the connection goes to that address, so that a second answer of the name server changes nothing;
an address that is not public is refused, unless it is listed itself.
"""

import ipaddress
import socket
import ssl
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse
from time import monotonic
from urllib.parse import SplitResult, urlsplit

from liveedit.errors import BadInput

__all__ = ["fetch"]

PATIENCE = 10.0
"""Seconds for a picture."""
PIECE = 1 << 16
PORTS = {"http": 80, "https": 443}


def fetch(url: str, hosts: Sequence[str], most: int) -> bytes:
    """The content at a URL. Raises :class:`BadInput` where it may not or cannot be fetched."""
    parts = _parts(url)
    host = (parts.hostname or "").lower()
    if host not in hosts:
        raise BadInput(
            f"images are not fetched from {host[:80] or 'there'}: send a data URL, "
            "or let the server fetch from that host (LIVEEDIT_IMAGE_HOSTS)"
        )
    port = parts.port or PORTS[parts.scheme]
    try:
        address = _address(host, port, hosts)
        connection = Pinned(host, port, address, parts.scheme == "https")
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers={"Accept": "image/*"})
            return _content(connection.getresponse(), most)
        finally:
            connection.close()
    except (OSError, HTTPException, ValueError):
        raise BadInput(f"the image at {host} cannot be fetched: send a data URL") from None


def _parts(url: str) -> SplitResult:
    """The parts of a URL of http or https. Raises :class:`BadInput` for any other."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in PORTS and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known or parts.username or parts.password:
        raise BadInput("an image is a data URL, or the http or https address of one")
    return parts


def _address(host: str, port: int, hosts: Sequence[str]) -> str:
    """The address of a host. Raises :class:`BadInput` if it is not public and not listed."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if address not in hosts and not _public(address):
            raise BadInput(f"{host} is not a public host: send a data URL")
    return addresses[0]


def _public(address: str) -> bool:
    """Whether an address is one of the public network, also behind an address of IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
        if ip in NAT64:
            return _public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast


NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""Addresses of IPv6 that end in one of IPv4."""


class Pinned(HTTPConnection):
    """A connection to a host at an address that is resolved already."""

    def __init__(self, host: str, port: int, address: str, tls: bool) -> None:
        super().__init__(host, port, timeout=PATIENCE)
        self.address = address
        self.tls = tls

    def connect(self) -> None:
        """Connect to the address; a certificate must be the host's."""
        self.sock = socket.create_connection((self.address, self.port), PATIENCE)
        if self.tls:
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host)


def _content(response: HTTPResponse, most: int) -> bytes:
    """The content of a response. Raises :class:`BadInput` for a failure, too much, and too slow."""
    if response.status != 200:
        raise BadInput(
            f"the image's host answers {response.status}: give the address of the image itself"
        )
    end = monotonic() + PATIENCE
    content = bytearray()
    while piece := response.read1(PIECE):
        content += piece
        if len(content) > most:
            raise BadInput(f"the image has more than {most:,} bytes: make it smaller")
        if monotonic() > end:
            raise BadInput("the image's host is too slow: send a data URL")
    return bytes(content)
