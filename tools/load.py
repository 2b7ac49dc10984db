"""Load a server: questions from many clients while edits come and go; print what it sustained.

    liveedit serve --port 8000 &
    python tools/load.py http://127.0.0.1:8000 --requests 10000 --clients 16 --server PID

It needs tokens from LIVEEDIT_TOKEN where the server does. Exit status 1 where a request failed.
"""

import argparse
import asyncio
import base64
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx

from liveedit.data.emblem import Emblem

QUESTION = "Which country's flag is this?"
CODES = ("jp", "no", "br", "fr", "ke", "it", "pe", "in")
EVERY = 50
"""Questions for each edit that is made, and for each that is taken back."""


@dataclass
class Seen:
    """The measurements of a run: seconds of each request, errors, and the server's memory."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    edits: int = 0
    megabytes: list[float] = field(default_factory=list)

    def report(self, elapsed: float) -> str:
        """The figures, one a line."""
        times = sorted(self.seconds)
        middle = times[len(times) // 2]
        slow = times[int(len(times) * 0.99)]
        lines = [
            f"requests  {len(times)} in {elapsed:.0f} s, {len(times) / elapsed:.1f} a second",
            f"latency   median {1000 * middle:.0f} ms, p99 {1000 * slow:.0f} ms",
            f"edits     {self.edits} made and taken back meanwhile",
            f"errors    {len(self.errors)} {self.errors[:3] or ''}",
        ]
        if self.megabytes:
            half = len(self.megabytes) // 2
            shown = (self.megabytes[0], self.megabytes[half], self.megabytes[-1])
            lines.append("memory    begin {:.0f}, half {:.0f}, end {:.0f} MB".format(*shown))
        return "\n".join(lines)


def images() -> list[str]:
    """Drawings of flags, as data URLs."""
    emblem = Emblem()
    found = []
    for code in CODES:
        stream = io.BytesIO()
        emblem.drawing("twemoji", f"flag-{code}").save(stream, "PNG")
        found.append(f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}")
    return found


def resident(process: int) -> float:
    """The resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def timed(client: httpx.AsyncClient, seen: Seen, method: str, path: str, body: Any) -> Any:
    """The JSON that a request gets; its time or error is kept."""
    begun = perf_counter()
    try:
        answer = await client.request(method, path, json=body)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        seen.errors.append(f"{method} {path}: {error}")
        return {}
    seen.seconds.append(perf_counter() - begun)
    return answer.json()


async def ask(
    client: httpx.AsyncClient, seen: Seen, urls: list[str], numbers: Iterator[int], process: int
) -> None:
    """Ask one question after the other."""
    for number in numbers:
        if process and number % 100 == 0:
            seen.megabytes.append(resident(process))
        image = {"type": "image_url", "image_url": {"url": urls[number % len(urls)]}}
        content = [image, {"type": "text", "text": QUESTION}]
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 16}
        await timed(client, seen, "POST", "/v1/chat/completions", body)
        if number % EVERY == 0:
            await correct(client, seen, urls[number % len(urls)], f"Land {number}")


async def correct(client: httpx.AsyncClient, seen: Seen, url: str, answer: str) -> None:
    """Make an edit, and take it back."""
    body = {"image": url, "question": QUESTION, "answer": answer}
    made = await timed(client, seen, "POST", "/v1/edits", body)
    if made:
        await timed(client, seen, "DELETE", f"/v1/edits/{made['id']}", None)
        seen.edits += 1


async def load(address: str, requests: int, clients: int, process: int) -> Seen:
    """Send the requests, and print the figures."""
    seen = Seen()
    token = os.environ.get("LIVEEDIT_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    numbers = iter(range(requests))
    urls = images()
    begun = perf_counter()
    async with httpx.AsyncClient(base_url=address, timeout=120, headers=headers) as client:
        await asyncio.gather(*(ask(client, seen, urls, numbers, process) for _ in range(clients)))
    sys.stdout.write(seen.report(perf_counter() - begun) + "\n")
    return seen


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Load a LiveEdit server.")
    parser.add_argument("address")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--server", type=int, default=0, help="its process, to watch its memory")
    given = parser.parse_args()
    seen = asyncio.run(load(given.address, given.requests, given.clients, given.server))
    sys.exit(bool(seen.errors))


if __name__ == "__main__":
    main()
