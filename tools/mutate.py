"""Change the code in one small place at a time, and say which of the changes no test notices.

``mutations.toml`` lists them: for each file below ``src/liveedit`` the tests nearest to it and what
*was* and *became*. Each change is made alone in a copy of the tree, where its tests run until one
of them fails. What was found is kept in ``runs/mutations.json``, so that a run that was stopped
goes on: what was noticed is not tried again as long as the file stays as it is, what was not as
long as its tests do, too. Delete it to begin anew. A line is printed for each change:

    noticed    a test failed
    UNNOTICED  all tests passed: one is missing
    slow       the tests did not end within the time limit, which counts as noticed
    equal      the change alters nothing that can be seen, as the list says why; it is not run and does not count
    STALE      the list does not fit the code: the text is no longer there, or there more than once, so mend the list
    BROKEN     the tests fail as they are, so that they can notice nothing

and last the share of those noticed. The exit status is 1 where it is below the goal or a line is
stale or broken.

    python tools/mutate.py                                  # all
    python tools/mutate.py --file report/ --file data/      # in files whose paths hold one of these
    python tools/mutate.py --only "radii[near]"             # whose text, before or after, holds this
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tools" / "mutations.toml"
KNOWN = ROOT / "runs" / "mutations.json"
PACKAGE = Path("src") / "liveedit"
FOLDERS = ("src", "tests", "docs", "recipes", "tools")
FILES = (
    "pyproject.toml", "constraints.txt", "README.md", "CONTRIBUTING.md", "NOTICE", "Makefile",
    "mkdocs.yml",
)  # fmt: skip
LOADED = ["torch", "transformers", "accelerate", "matplotlib", "pytest"]
"""Imported once for all the test runs, which are forked from there."""
GOAL = 0.95
PYTEST = [
    "-x",
    "-q",
    "--assert=plain",
    "-p",
    "no:cacheprovider",
    "-o",
    "addopts=--import-mode=importlib -m 'not slow'",
]

Forks = multiprocessing.context.ForkServerContext


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of ``file``, a path below the package, and the ``tests`` that are to notice it,
    below ``tests``.

    ``equal`` says why the change has no effect, where that is so.
    """

    file: str
    was: str
    became: str
    tests: tuple[str, ...]
    equal: str = ""

    @property
    def text(self) -> str:
        """The change in one line."""
        return " ".join(f"{self.file}: {self.was} → {self.became or '(removed)'}".split())

    def applied(self, code: str) -> str | None:
        """``code`` with the change, or ``None`` where what was is not there just once."""
        return code.replace(self.was, self.became) if code.count(self.was) == 1 else None


def listed(path: Path) -> list[Mutation]:
    """The mutations of a list."""
    return [
        Mutation(
            file,
            entry["was"],
            entry["became"],
            tuple(entry.get("tests", about["tests"])),
            entry.get("equal", ""),
        )
        for file, about in tomllib.loads(path.read_text(encoding="utf-8")).items()
        for entry in about["changes"]
    ]


class Results:
    """What runs have found, by what they were about; kept in a file, which is written anew after
    each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, str] = (
            json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        )

    def add(self, key: str, outcome: str) -> str:
        """Keep an outcome, which is returned."""
        self.found[key] = outcome
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=0), encoding="utf-8")
        part.replace(self.path)
        return outcome


class Workshop:
    """A copy of the tree, in which one change at a time is tried."""

    def __init__(self, tree: Path, limit: float, results: Results) -> None:
        self.tree, self.limit, self.results = tree, limit, results
        os.environ["OMP_NUM_THREADS"] = (
            "1"  # a fork waits for ever for the threads that its parent had
        )
        self.forks: Forks = multiprocessing.get_context("forkserver")
        self.forks.set_forkserver_preload(LOADED)
        for name in FOLDERS:
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in FILES:
            shutil.copy2(ROOT / name, tree / name)

    def outcome(self, mutation: Mutation) -> str:
        """What becomes of a mutation, in one of the words at the head of this file."""
        file = self.tree / PACKAGE / mutation.file
        code = file.read_text(encoding="utf-8") if file.exists() else ""
        changed = mutation.applied(code)
        if changed is None or not all(
            (self.tree / "tests" / test).exists() for test in mutation.tests
        ):
            return "STALE"
        if mutation.equal:
            return "equal"
        if self.known(mutation.tests, code, "") != "passed":
            return "BROKEN"
        try:
            file.write_text(changed, encoding="utf-8")
            found = self.known(mutation.tests, code, changed)
        finally:
            file.write_text(code, encoding="utf-8")
        return {"passed": "UNNOTICED", "failed": "noticed"}.get(found, found)

    def known(self, tests: Sequence[str], code: str, changed: str) -> str:
        """What :meth:`passes` says of ``code`` as it stands, or ``changed``, from an earlier run if
        there was one.
        """
        read = [(self.tree / "tests" / test).read_text(encoding="utf-8") for test in tests]
        noticed, about = digest(code, changed), digest(code, changed, *tests, *read)
        if changed and noticed in self.results.found:
            return self.results.found[noticed]
        if about in self.results.found:
            return self.results.found[about]
        outcome = self.passes(tests)
        if not changed and outcome != "passed":
            return outcome  # of which another file may be the cause: tried again in every run
        return self.results.add(noticed if changed and outcome == "failed" else about, outcome)

    def passes(self, tests: Sequence[str]) -> str:
        """How the tests end: passed, failed or slow."""
        process = self.forks.Process(target=test_run, args=(self.tree, tests))
        process.start()
        process.join(self.limit)
        if process.exitcode is None:
            process.kill()
            process.join()
            return "slow"
        return "failed" if process.exitcode else "passed"


def digest(*texts: str) -> str:
    """What tells some texts from all others."""
    return sha256("\0".join(texts).encode()).hexdigest()[:16]


def test_run(tree: Path, tests: Sequence[str]) -> None:
    """Run tests in ``tree`` in this process, and end it with pytest's status."""
    import pytest

    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree / "src")
    sys.path.insert(0, str(tree / "src"))
    sys.dont_write_bytecode = True  # a change within one second and of one length would not be seen
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        os._exit(pytest.main([*PYTEST, *(f"tests/{test}" for test in tests)]))


def chosen(
    mutations: Sequence[Mutation], files: Sequence[str], only: Sequence[str]
) -> Iterator[Mutation]:
    """Those in files whose paths hold one of ``files``, and whose text holds one of ``only``, if
    any are given.
    """
    for mutation in mutations:
        in_file = not files or any(name in mutation.file for name in files)
        if in_file and (
            not only or any(text in mutation.was or text in mutation.became for text in only)
        ):
            yield mutation


def main() -> int:
    """Try the mutations that the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--file", action="append", default=[], help="only in files whose paths hold this"
    )
    parser.add_argument(
        "--only", action="append", default=[], help="only those whose text holds this"
    )
    parser.add_argument("--list", type=Path, default=LIST, help="the list of mutations")
    parser.add_argument("--known", type=Path, default=KNOWN, help="where results are kept")
    parser.add_argument(
        "--timeout", type=float, default=300, help="seconds that the tests of one change may take"
    )
    asked = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as tree:
        workshop = Workshop(Path(tree), asked.timeout, Results(asked.known))
        for mutation in chosen(listed(asked.list), asked.file, asked.only):
            found = workshop.outcome(mutation)
            counts[found] += 1
            print(f"{found:9}  {mutation.text}", flush=True)
    noticed = counts["noticed"] + counts["slow"]
    tried = noticed + counts["UNNOTICED"]
    share = noticed / tried if tried else 1.0
    rest = ", ".join(
        f"{counts[word]} {word}" for word in ("equal", "STALE", "BROKEN") if counts[word]
    )
    print(f"noticed {noticed} of {tried}: {100 * share:.1f} %{f'; {rest}' if rest else ''}")
    return int(share < GOAL or bool(counts["STALE"] or counts["BROKEN"]))


if __name__ == "__main__":
    sys.exit(main())
