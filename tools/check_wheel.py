"""Check an installed package from outside its repository: ``make test-wheel``.

Runs ``liveedit --version``, ``doctor`` and ``demo`` in an empty folder, then asks a server that
``liveedit serve`` starts there. Ends with a non-zero status where one of them fails.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import Request, urlopen

__all__ = ["main"]

COMMANDS = (["--version"], ["doctor"], ["demo", "--cases", "1", "--out", "demo"])
QUESTION = "What is the capital of Japan?"
ANSWER = "Tokyo"


def main() -> None:
    """Run the commands, then the server."""
    liveedit = str(Path(sys.executable).with_name("liveedit"))
    with TemporaryDirectory() as folder:
        for words in COMMANDS:
            subprocess.run([liveedit, *words], cwd=folder, check=True)
        command = [liveedit, "serve", "--port", "0"]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                address = server.stdout.readline().rpartition(" ")[2].strip()
                check(address)
            finally:
                server.terminate()


def check(address: str) -> None:
    """Fetch the page, and ask the model."""
    with urlopen(address) as page:
        assert b"<html" in page.read()
    messages = [{"role": "user", "content": QUESTION}]
    body = json.dumps({"model": "emblem", "messages": messages}).encode()
    headers = {"content-type": "application/json"}
    with urlopen(Request(f"{address}/v1/chat/completions", body, headers)) as reply:
        answer = json.load(reply)["choices"][0]["message"]["content"]
    assert answer == ANSWER, answer
    print(f"{QUESTION} {answer}")


if __name__ == "__main__":
    main()
