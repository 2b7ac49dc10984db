"""Cases about drawn pictures for tiny models, and evaluations of them."""

from dataclasses import replace

import pytest
from PIL import Image, ImageDraw

from liveedit.types import Case, Probe, Query, Record

ANSWERS = ("Japan", "Casablanca", "Elvis Presley", "the movie", "a flag", "song")


def draw(number):
    image = Image.new("RGB", (30, 30), (40 * number % 256, 90, 200 - 30 * number % 200))
    ImageDraw.Draw(image).ellipse((number % 9, 5, 20, 25), fill=(250, 20 * number % 256, 10))
    image.info["name"] = f"drawn:{number}"
    return image


def make_case(number):
    question = "What is the country with this flag?"
    edit = Query(question, ANSWERS[number % len(ANSWERS)], draw(number))
    reworded = Query("Which country is it?", edit.target, edit.image)
    other_image = Query("Which film is it?", "Casablanca", draw(number + 100))
    probes = (
        Probe("reliability", edit),
        Probe("text_generality", reworded),
        Probe("image_locality", other_image, "before", note="far"),
        Probe("text_locality", Query("who sang the song"), "before"),
    )
    return Case(f"case:{number}", (edit,), probes)


def make_cases(count):
    return [make_case(number) for number in range(count)]


def read_lines(path):
    """The records in a file."""
    return [Record.from_json(line) for line in path.read_text(encoding="utf-8").splitlines()]


def without_costs(record):
    return replace(record, costs={})


def watcher_that_stops(number):
    """A watcher that interrupts the run when so many probes are on record."""

    def watcher(news):
        if news.done >= number:
            raise KeyboardInterrupt

    return watcher


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds

    def move(self, seconds):
        self.seconds += seconds


def evaluate_cases(vlm, cases, out, editor, protocol, **options):
    """Evaluate an editor; return its records."""
    from liveedit.evaluate import evaluate

    options = {"data": "drawn", "seed": 7} | options
    return read_lines(evaluate(vlm, editor, cases, protocol, out=out, **options))


@pytest.fixture(scope="session")
def cases():
    """Makes so many cases."""
    return make_cases


@pytest.fixture(scope="session")
def vlm():
    from liveedit.models.tiny import tiny

    return tiny("llava")


@pytest.fixture(scope="session")
def evaluated():
    """Evaluates an editor and gives its records."""
    return evaluate_cases


@pytest.fixture(scope="session")
def read():
    """Reads the records in a file."""
    return read_lines


@pytest.fixture(scope="session")
def timeless():
    """A record without the costs, which differ from run to run."""
    return without_costs


@pytest.fixture(scope="session")
def stop_at():
    """Makes a watcher that interrupts a run, as a user does."""
    return watcher_that_stops


@pytest.fixture
def clock(monkeypatch):
    """The clock by which everything is measured, moved by hand."""
    made = ManualClock()
    monkeypatch.setattr("time.perf_counter", made)
    return made
