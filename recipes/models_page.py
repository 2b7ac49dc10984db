"""Run the family contract over every model type of transformers' AutoModelForImageTextToText; write
docs/reference/models.md.

    python recipes/models_page.py [TYPE …]

A tiny random model of each type is built from its real configuration class. What is found goes to
src/liveedit/models/checked.json, which `liveedit models` prints; types named on the command line
are run anew, the others keep what was found.
"""

import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import transformers
from PIL import Image
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from liveedit.errors import UnsupportedModel
from liveedit.models import FAMILIES, REFUSED, Checked, checked, known_types
from liveedit.models.conformance.contract import CHECKS, SQUARE, WIDE, examine, reads_several
from liveedit.models.tiny.families import CHAT, tiny
from liveedit.models.tiny.particulars import PARTICULARS
from liveedit.models.vlm import VLM
from liveedit.types import Query

ROOT = Path(__file__).parents[1]
TINY = {"blip-2": "blip2"}
OWN_MARK = "<|vision_start|><|image_pad|><|vision_end|>"
ENCODING = list(CHECKS)[: list(CHECKS).index("rows_are_equal_alone_and_in_a_batch")]


def examined(model_type: str) -> Checked:
    """What comes of the contract on a tiny model of the type."""
    if model_type in REFUSED and model_type not in FAMILIES:
        return Checked(reason=REFUSED[model_type])
    try:
        vlm = tiny(TINY.get(model_type, model_type))
    except UnsupportedModel as error:
        return Checked(
            reason=str(error).removeprefix(f"models of type '{model_type}' cannot be edited: ")
        )
    except Exception as error:  # a configuration may fail in any way
        text = (
            " ".join(str(error).split()).partition(" library but it was not found")[0]
            or type(error).__name__
        )
        return Checked(reason=f"no tiny model was built: {text[:120]}")
    findings = list(examine(vlm))
    failed = [f"{finding.name}: {finding.reason}" for finding in findings if finding.reason]
    return Checked(
        family=type(vlm).__name__,
        model=type(vlm.model).__name__,
        layers=f"{vlm.decoder_path}.layers",
        image=image_rule(vlm),
        several=reads_several(vlm),
        prompts=prompt_forms(vlm),
        checks=len(findings) - len(failed),
        reason=failed[0] if failed else None,
        note=note(model_type),
    )


def image_rule(vlm: VLM) -> str:
    """Whether the number of image tokens follows the image's size, and whether others stand between
    them.
    """
    counts, gaps = [], False
    for image in (WIDE, SQUARE, Image.new("RGB", (90, 30))):
        batch = vlm.encode([Query("?", image=image)])
        start, stop = batch.spans[0].image
        count = int(vlm.image_tokens(batch.inputs["input_ids"]).sum())
        counts.append(count)
        gaps |= count != stop - start
    rule = "always the same" if len(set(counts)) == 1 else "by the image's size"
    return f"{rule}, marks between" if gaps else rule


def prompt_forms(vlm: VLM) -> str:
    """The forms of prompts that pass: raw, and chat with a template that puts the image before the
    text.
    """
    forms = [vlm.prompt_format]
    other: Any = {"raw": "chat", "chat": "raw"}[vlm.prompt_format]
    if other == "chat":
        vlm.processor.chat_template = CHAT.replace(OWN_MARK, vlm.image_mark)
    try:
        again = VLM(vlm.model, vlm.processor, other)
        if again.prompt_format == other and not any(
            finding.reason for finding in examine(again, ENCODING)
        ):
            forms.append(other)
    except Exception:  # then that form is not offered
        pass
    return ", ".join(sorted(forms, reverse=True))


def note(model_type: str) -> str:
    """What the tiny model has in place of the type's own."""
    special = PARTICULARS.get(model_type, {})
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {}
    used = special.get("pictures_class") or names.get("pil") or names.get("torchvision")
    return str(
        special.get(
            "note", "needs torchvision" if used and used == names.get("torchvision") else ""
        )
    )


def page(found: dict[str, Checked]) -> str:
    """The Markdown of docs/reference/models.md."""
    passed = {name: record for name, record in found.items() if record.reason is None}
    rows = [
        f"| `{name}` | {record.family} | `{record.model}` | `{record.layers}` | {record.image} | {record.prompts} | "
        f"{'yes' if record.several else 'no'} | "
        f"{record.checks} | {record.note} |"
        for name, record in passed.items()
    ]
    refused = [
        f"| `{name}` | {str(record.reason).replace('|', chr(92) + '|')} |"
        for name, record in found.items()
        if record.reason is not None
    ]
    return "\n".join(
        [
            "# Models",
            "",
            "Which model types can be edited. This page is written by `recipes/models_page.py`, which builds a",
            "random tiny model of each type from its real configuration class and runs the conformance checks",
            "(`src/liveedit/models/conformance/`) over it. The types are those that transformers",
            f"{transformers.__version__} maps to `AutoModelForImageTextToText`, and the families of this package.",
            "",
            "`liveedit models` lists the same; `liveedit models check PATH` runs the checks over your checkpoint.",
            "The tiny models show that the arithmetic is right, not that a checkpoint's prompt is the one it was",
            "trained on.",
            "",
            f"## Passed: {len(passed)} of {len(found)}",
            "",
            "A type without a family of its own is handled by `Generic`",
            "(`src/liveedit/models/families/generic.py`). The columns:",
            "",
            "- *image tokens*: what the number of an image's tokens depends on;",
            "- *prompts*: the forms that were checked;",
            "- *several images*: whether one prompt can hold them;",
            "- *note*: what a checkpoint needs besides this package. Some processors of transformers exist with",
            "  torchvision alone; the tiny model then runs their code with a few functions in its place.",
            "",
            "Every editor works on every type here (`make test-all`), except for the pairs that `REFUSED` in",
            "`tests/editors/test_every_family.py` lists, each with its reason.",
            "",
            "| model type | family | class | layers | image tokens | prompts | several images | checks | note |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"## Not: {len(refused)}",
            "",
            "None of them is a single stack of layers that reads images and text below and writes text above.",
            "",
            "| model type | why |",
            "|---|---|",
            *refused,
            "",
        ]
    )


def main() -> None:
    """Run the types named on the command line, or all."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    path = ROOT / "src" / "liveedit" / "models" / "checked.json"
    found = checked() if path.exists() else {}
    for model_type in sys.argv[1:] or sorted({*known_types(), *FAMILIES}):
        found[model_type] = examined(model_type)
        print(model_type, found[model_type].reason or "passed", flush=True)
        records = {name: asdict(found[name]) for name in sorted(found)}
        path.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (ROOT / "docs" / "reference" / "models.md").write_text(
        page({name: found[name] for name in sorted(found)}), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
