"""Run the contract over every model type of AutoModelForImageTextToText; write its page.

    python recipes/models_page.py [TYPE …]

A tiny random model of each type is built from its real configuration class. The results go to
src/liveedit/models/checked.json, which `liveedit models` prints; types named on the command line
are run anew, the others keep their results.
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
from liveedit.models.conformance.contract import CHECKS, examine
from liveedit.models.conformance.queries import SQUARE, WIDE
from liveedit.models.conformance.several_images import reads_several
from liveedit.models.tiny.families import CHAT, tiny
from liveedit.models.tiny.type_overrides import OVERRIDES
from liveedit.models.vlm import VLM
from liveedit.types import Query

ROOT = Path(__file__).parents[1]
TINY = {"blip-2": "blip2"}
"""Names of tiny models that differ from the model type."""
OWN_MARK = "<|vision_start|><|image_pad|><|vision_end|>"
"""The image in the tests' chat template, which is Qwen2-VL's; other models put their own there."""
ENCODING = list(CHECKS)[: list(CHECKS).index("rows_are_equal_alone_and_in_a_batch")]
"""The checks of encoding, which run before those of forward passes."""
MISSING_LIBRARY = " library but it was not found"
"""Part of the message of transformers where a model needs another library."""
LONGEST = 120
"""The longest reason, in characters, that is kept of another library's error."""

PAGE = """\
# Models

Which model types can be edited. This page is written by `recipes/models_page.py`, which builds a
random tiny model of each type from its real configuration class and runs the conformance checks
(`src/liveedit/models/conformance/`) over it. The types are those that transformers
{version} maps to `AutoModelForImageTextToText`, and the families of this package.

`liveedit models` lists the same; `liveedit models check PATH` runs the checks over your checkpoint.
The tiny models show that the arithmetic is right, not that a checkpoint's prompt is the one it was
trained on.

## Passed: {passed} of {total}

A type without a family of its own is handled by `Generic`
(`src/liveedit/models/families/generic.py`). The columns:

- *image tokens*: what the number of an image's tokens depends on;
- *prompts*: the forms that were checked;
- *several images*: whether one prompt can hold them;
- *note*: what a checkpoint needs besides this package. Some processors of transformers exist with
  torchvision alone; the tiny model then runs their code with a few functions in its place.

Every editor works on every type here (`make test-all`), except for the pairs that `REFUSED` in
`tests/editors/test_every_family.py` lists, each with its reason.

| model type | family | class | layers | image tokens | prompts | several images | checks | note |
|---|---|---|---|---|---|---|---|---|
{rows}

## Not: {refused}

None of them is a single stack of layers that reads images and text below and writes text above.

| model type | why |
|---|---|
{reasons}
"""


def examined(model_type: str) -> Checked:
    """Run the contract on a tiny model of the type, and return the result."""
    if model_type in REFUSED and model_type not in FAMILIES:
        return Checked(reason=REFUSED[model_type])
    try:
        vlm = tiny(TINY.get(model_type, model_type))
    except UnsupportedModel as error:
        prefix = f"models of type '{model_type}' cannot be edited: "
        return Checked(reason=str(error).removeprefix(prefix))
    except Exception as error:  # a configuration may fail in any way
        first = " ".join(str(error).split()).partition(MISSING_LIBRARY)[0]
        text = first or type(error).__name__
        return Checked(reason=f"no tiny model was built: {text[:LONGEST]}")
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
    """Say whether the number of image tokens follows the image's size, and if marks are between."""
    counts = set()
    marks_between = False
    for image in (WIDE, SQUARE, Image.new("RGB", (90, 30))):
        batch = vlm.encode([Query("?", image=image)])
        start, stop = batch.spans[0].image
        count = int(vlm.image_tokens(batch.inputs["input_ids"]).sum())
        counts.add(count)
        marks_between |= count != stop - start
    rule = "always the same" if len(counts) == 1 else "by the image's size"
    return f"{rule}, marks between" if marks_between else rule


def prompt_forms(vlm: VLM) -> str:
    """Return the prompt formats that pass: the model's own, and the other of "raw" and "chat".

    A model without a chat template is given one that puts the image before the text.
    """
    forms = [vlm.prompt_format]
    other: Any = {"raw": "chat", "chat": "raw"}[vlm.prompt_format]
    if other == "chat":
        vlm.processor.chat_template = CHAT.replace(OWN_MARK, vlm.image_mark)
    try:
        again = VLM(vlm.model, vlm.processor, other)
        failed = any(finding.reason for finding in examine(again, ENCODING))
        if again.prompt_format == other and not failed:
            forms.append(other)
    except Exception:  # then that form is not offered
        pass
    return ", ".join(sorted(forms, reverse=True))


def note(model_type: str) -> str:
    """Return what a checkpoint needs beside this package, or what the tiny model lacks."""
    special = OVERRIDES.get(model_type, {})
    if "note" in special:
        return str(special["note"])
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {}
    used = special.get("pictures_class") or names.get("pil") or names.get("torchvision")
    return "needs torchvision" if used and used == names.get("torchvision") else ""


def page(found: dict[str, Checked]) -> str:
    """Return the Markdown of docs/reference/models.md."""
    passed = {name: record for name, record in found.items() if record.reason is None}
    refused = {
        name: str(record.reason) for name, record in found.items() if record.reason is not None
    }
    reasons = [f"| `{name}` | {escaped(reason)} |" for name, reason in refused.items()]
    return PAGE.format(
        version=transformers.__version__,
        passed=len(passed),
        total=len(found),
        rows="\n".join(row(name, record) for name, record in passed.items()),
        refused=len(refused),
        reasons="\n".join(reasons),
    )


def row(name: str, record: Checked) -> str:
    """Return the row of a type that passed."""
    cells = [
        f"`{name}`",
        record.family,
        f"`{record.model}`",
        f"`{record.layers}`",
        record.image,
        record.prompts,
        "yes" if record.several else "no",
        str(record.checks),
        record.note,
    ]
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """Return a text for a cell of a Markdown table."""
    return text.replace("|", "\\|")


def main() -> None:
    """Run the types named on the command line, or all."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    path = ROOT / "src" / "liveedit" / "models" / "checked.json"
    found = checked() if path.exists() else {}
    for model_type in sys.argv[1:] or sorted({*known_types(), *FAMILIES}):
        found[model_type] = examined(model_type)
        print(model_type, found[model_type].reason or "passed", flush=True)
        # Written after each type, so that an interrupted run keeps its results.
        records = {name: asdict(found[name]) for name in sorted(found)}
        path.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (ROOT / "docs" / "reference" / "models.md").write_text(
        page({name: found[name] for name in sorted(found)}), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
