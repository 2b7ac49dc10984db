"""Metrics: the kinds of probes, each declared once, in the order of the tables.

A benchmark names the metric of each probe. A metric that is not declared here is also shown, after
the declared ones, under its name in words.
"""

import re
from dataclasses import dataclass

__all__ = ["AVERAGE", "AVERAGED", "METRICS", "ONE_HOP", "Metric", "hops", "label", "metric_order"]


@dataclass(frozen=True)
class Metric:
    """A kind of probe.

    Arguments:
        name: Name in benchmarks, records and summaries.
        heading: Heading of its column; empty: its name in words.
        meaning: One sentence that explains it in the page.
        averaged: Whether it is one of the five metrics of LiveEdit's tables.
    """

    name: str
    heading: str = ""
    meaning: str = ""
    averaged: bool = False


AVERAGE = "average"
"""The mean of the five metrics of LiveEdit's tables."""
ONE_HOP = "portability_1hop"
"""Portability of VLKEB's Table 2."""

METRICS = (
    Metric(
        "reliability",
        "Rel",
        "Reliability: the question of the edit about its own image gets the new answer.",
        averaged=True,
    ),
    Metric(
        "text_generality",
        "T-Gen",
        "Text generality: the question in other words gets the new answer.",
        averaged=True,
    ),
    Metric(
        "image_generality",
        "I-Gen",
        "Image generality: the question about another image of the same thing gets the new answer.",
        averaged=True,
    ),
    Metric(
        "text_locality",
        "T-Loc",
        "Text locality: an unrelated question without an image is answered as before.",
        averaged=True,
    ),
    Metric(
        "image_locality",
        "I-Loc",
        "Image locality: an unrelated question about an unrelated image is answered as before.",
        averaged=True,
    ),
    Metric(AVERAGE, "Average", "The mean of these five metrics."),
    Metric(
        "image_generality_unseen",
        "I-Gen unseen",
        "Image generality on an image of a style that no editor was trained on.",
    ),
    Metric(
        "text_image_generality",
        "T+I-Gen",
        "Text and image generality at once: the question in other words, about another image of "
        "the same thing, gets the new answer.",
    ),
    Metric(
        ONE_HOP,
        meaning="Portability: the answer to a question that combines the edit with one further "
        "fact, two at 2-hop and so on, follows the edit.",
    ),
    Metric("portability_2hop"),
    Metric("portability_3hop"),
    Metric("portability_4hop"),
    Metric(
        "consistency",
        meaning="Consistency: the same fact in its other form, in text after an edit about an "
        "image and the reverse, gets the new answer; after an edit of the thing that an image "
        "shows, so does what follows from it.",
    ),
    Metric(
        "fine_generality",
        meaning="Fine generality: another question about the thing that was edited, and about the "
        "same image, gets the answer that follows from the edit.",
    ),
    Metric(
        "detail_text",
        "T-Rel",
        "A question about one fact of a new text, without an image, gets the new answer.",
    ),
    Metric(
        "detail_image",
        "I-Rel",
        "A question about one fact of a new text and the image of the edit gets the new answer.",
    ),
    Metric(
        "detail_other_image",
        "I-Rel, other image",
        "The same about another image of the thing.",
    ),
    Metric(
        "composition",
        meaning="Composition: a question about the image of one edit gets the new answer of "
        "another edit, in text, that was made with it.",
    ),
    Metric(
        "text_edit_reliability",
        "Rel in text",
        "Reliability of that edit in text.",
    ),
    Metric(
        "text_edit_generality",
        "Gen in text",
        "The question of that edit in other words gets the new answer.",
    ),
    Metric(
        "text_edit_locality",
        "Loc in text",
        "A question without an image that is unrelated to that edit is answered as before.",
    ),
    Metric(
        "same_image_other_question",
        "Same image, other question",
        "Another question about the image of the edit is answered as before.",
    ),
    Metric(
        "look_alike_image",
        "Look-alike image",
        "The question of the edit about a similar image is answered as before.",
    ),
    Metric(
        "question_alone",
        meaning="The question of the edit without its image is answered as before.",
    ),
    Metric(
        "image_alone",
        meaning="The image of the edit without its question is described as before.",
    ),
)
"""All metrics, in the order of the tables. A new one is one more entry."""

AVERAGED = tuple(metric.name for metric in METRICS if metric.averaged)
"""The five metrics of LiveEdit's tables."""

_ORDER = [metric.name for metric in METRICS]
_HEADINGS = {metric.name: metric.heading for metric in METRICS if metric.heading}
_HOPS = re.compile(r"portability_(\d)hop")


def metric_order(name: str) -> tuple[int, str]:
    """Sort key: the declared metrics in their order, then the others by name."""
    return _ORDER.index(name) if name in _ORDER else len(_ORDER), name


def label(name: str) -> str:
    """Heading of a metric; of one that is not declared, its name in words."""
    words = re.sub(r"(\d)hop", r"\1-hop", name.replace("_", " "))
    return _HEADINGS.get(name, words[:1].upper() + words[1:])


def hops(name: str) -> int:
    """Number of hops of a portability metric; 0 for any other metric."""
    found = _HOPS.fullmatch(name)
    return int(found[1]) if found else 0
