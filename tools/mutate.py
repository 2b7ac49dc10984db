"""Change the code in one small place at a time, and find the changes that no test notices.

``mutations.toml`` lists the changes: for each file below ``src/liveedit`` the tests nearest to it,
and for each change the text before (``was``) and after it (``became``). An entry may name ``tests``
of its own, or say in ``equal`` why its change has no effect. Each change is made alone in a copy of
the repository, where its tests run until one of them fails. A line is printed for each:

    noticed    a test failed
    UNNOTICED  all tests passed: one is missing
    slow       the tests did not end within the time limit; counts as noticed
    equal      the change has no effect, as the entry explains; it is not run and does not count
    STALE      the text does not occur exactly once, or a test file is missing: correct the entry
    BROKEN     the tests fail, or are slow, without the change, so they can notice nothing

and last the share of changes noticed. The exit status is 1 if it is below the goal, or if an entry
is stale or broken.

Outcomes are kept in ``runs/mutations.json``, so that an interrupted run continues. A noticed change
is not tried again while its file stays the same, any other while its tests stay the same, too.
Delete that file to try all of them again.

    python tools/mutate.py                                  # all changes
    python tools/mutate.py --file report/ --file data/      # of files whose paths contain one
    python tools/mutate.py --only "radii[near]"             # whose text before or after contains it
    python tools/mutate.py --check                          # run nothing, list stale entries
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
"""Imported once, by the process from which all test runs are forked."""
GOAL = 0.95
"""Smallest share of changes that have to be noticed."""
PYTEST = [
    "-x",
    "-q",
    "--assert=plain",
    "-p",
    "no:cacheprovider",
    "-o",
    "addopts=--import-mode=importlib -m 'not (slow and product)'",
]

Forks = multiprocessing.context.ForkServerContext


@dataclass(frozen=True, slots=True)
class Mutation:
    """A change of one file.

    Arguments:
        file: Path of the file below the package.
        was: Text that occurs there exactly once.
        became: Text that takes its place.
        tests: Test files, below ``tests``, that should notice the change.
        equal: Why the change has no effect; empty if it has one.
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

    def stale(self, tree: Path) -> bool:
        """Whether the text or a test file is missing in a copy of the repository."""
        file = tree / PACKAGE / self.file
        if not file.is_file() or file.read_text(encoding="utf-8").count(self.was) != 1:
            return True
        return not all((tree / "tests" / test).is_file() for test in self.tests)


def listed(path: Path) -> list[Mutation]:
    """The mutations of a list."""
    found = []
    for file, about in tomllib.loads(path.read_text(encoding="utf-8")).items():
        for entry in about["changes"]:
            tests = tuple(entry.get("tests", about["tests"]))
            equal = entry.get("equal", "")
            found.append(Mutation(file, entry["was"], entry["became"], tests, equal))
    return found


class Results:
    """Outcomes of test runs by key, kept in a file that is written anew after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, str] = {}
        if path.exists():
            self.found = json.loads(path.read_text(encoding="utf-8"))

    def add(self, key: str, outcome: str) -> str:
        """Keep an outcome, and return it."""
        self.found[key] = outcome
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=0), encoding="utf-8")
        part.replace(self.path)
        return outcome


class Workshop:
    """A copy of the repository in which one change at a time is tried.

    Arguments:
        tree: Empty folder for the copy.
        limit: Seconds that the tests of one change may take.
        results: Outcomes of earlier runs.
    """

    def __init__(self, tree: Path, limit: float, results: Results) -> None:
        self.tree = tree
        self.limit = limit
        self.results = results
        # A fork would wait for ever for the threads of its parent.
        os.environ["OMP_NUM_THREADS"] = "1"
        self.forks: Forks = multiprocessing.get_context("forkserver")
        self.forks.set_forkserver_preload(LOADED)
        for name in FOLDERS:
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in FILES:
            shutil.copy2(ROOT / name, tree / name)

    def outcome(self, mutation: Mutation) -> str:
        """The outcome of a mutation, one of the words listed at the top of this file."""
        if mutation.stale(self.tree):
            return "STALE"
        if mutation.equal:
            return "equal"
        file = self.tree / PACKAGE / mutation.file
        code = file.read_text(encoding="utf-8")
        if self.known(mutation.tests, code, "") != "passed":
            return "BROKEN"
        changed = code.replace(mutation.was, mutation.became)
        try:
            file.write_text(changed, encoding="utf-8")
            found = self.known(mutation.tests, code, changed)
        finally:
            file.write_text(code, encoding="utf-8")
        return {"passed": "UNNOTICED", "failed": "noticed"}.get(found, found)

    def known(self, tests: Sequence[str], code: str, changed: str) -> str:
        """The result of :meth:`passes` for a file with the text ``code``, or ``changed`` if given.

        It is that of an earlier run, if there was one.
        """
        contents = [(self.tree / "tests" / test).read_text(encoding="utf-8") for test in tests]
        noticed = digest(code, changed)
        about = digest(code, changed, *tests, *contents)
        if changed and noticed in self.results.found:
            return self.results.found[noticed]
        if about in self.results.found:
            return self.results.found[about]
        outcome = self.passes(tests)
        if not changed and outcome != "passed":
            return outcome  # not kept: another file may be the cause
        return self.results.add(noticed if changed and outcome == "failed" else about, outcome)

    def passes(self, tests: Sequence[str]) -> str:
        """Run tests; whether they ``passed``, ``failed`` or were ``slow``."""
        process = self.forks.Process(target=test_run, args=(self.tree, tests))
        process.start()
        process.join(self.limit)
        if process.exitcode is None:
            process.kill()
            process.join()
            return "slow"
        return "failed" if process.exitcode else "passed"


def digest(*texts: str) -> str:
    """A key for some texts, different for different texts."""
    return sha256("\0".join(texts).encode()).hexdigest()[:16]


def test_run(tree: Path, tests: Sequence[str]) -> None:
    """Run tests in ``tree`` in this process, and end it with pytest's status."""
    import pytest

    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree / "src")
    sys.path.insert(0, str(tree / "src"))
    # Bytecode would hide a change of the same length within the same second.
    sys.dont_write_bytecode = True
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        os._exit(pytest.main([*PYTEST, *(f"tests/{test}" for test in tests)]))


def chosen(
    mutations: Sequence[Mutation], files: Sequence[str], texts: Sequence[str]
) -> Iterator[Mutation]:
    """The mutations of files whose paths contain one of ``files``, with one of ``texts`` in them.

    An empty sequence chooses all.
    """
    for mutation in mutations:
        if files and not any(name in mutation.file for name in files):
            continue
        if texts and not any(text in mutation.was or text in mutation.became for text in texts):
            continue
        yield mutation


def check(mutations: Sequence[Mutation]) -> int:
    """List the stale mutations; the exit status."""
    stale = [mutation for mutation in mutations if mutation.stale(ROOT)]
    for mutation in stale:
        print(f"{'STALE':9}  {mutation.text}")
    return int(bool(stale))


def try_all(mutations: Sequence[Mutation], limit: float, results: Results) -> int:
    """Try mutations, and print their outcomes; the exit status."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as tree:
        workshop = Workshop(Path(tree), limit, results)
        for mutation in mutations:
            found = workshop.outcome(mutation)
            counts[found] += 1
            print(f"{found:9}  {mutation.text}", flush=True)
    noticed = counts["noticed"] + counts["slow"]
    tried = noticed + counts["UNNOTICED"]
    share = noticed / tried if tried else 1.0
    others = [f"; {counts[word]} {word}" for word in ("equal", "STALE", "BROKEN") if counts[word]]
    print(f"noticed {noticed} of {tried}: {100 * share:.1f} %{''.join(others)}")
    return int(share < GOAL or bool(counts["STALE"] or counts["BROKEN"]))


def main() -> int:
    """Try the mutations that the command line selects; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--file", action="append", default=[], help="only of files whose paths contain this"
    )
    parser.add_argument(
        "--only", action="append", default=[], help="only those whose text contains this"
    )
    parser.add_argument("--check", action="store_true", help="run nothing, list stale entries")
    parser.add_argument("--list", type=Path, default=LIST, help="the list of mutations")
    parser.add_argument("--known", type=Path, default=KNOWN, help="where outcomes are kept")
    parser.add_argument(
        "--timeout", type=float, default=300, help="seconds that the tests of one change may take"
    )
    options = parser.parse_args()
    mutations = list(chosen(listed(options.list), options.file, options.only))
    if options.check:
        return check(mutations)
    return try_all(mutations, options.timeout, Results(options.known))


if __name__ == "__main__":
    sys.exit(main())
