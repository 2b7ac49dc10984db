"""The released implementation's recorded numbers, reproduced: see the README.md beside the
recording.

``LIVEEDIT_PARITY_DIR`` names the folder with ``tiny-llava/`` and ``liveedit-llava/``; by default it
is the project's own copy.
"""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from liveedit.editors.liveedit.editor import LiveEdit, LiveEditConfig
from liveedit.editors.liveedit.objective import replay
from liveedit.editors.liveedit.sampling import Draws, Pairs
from liveedit.models.vlm import VLM
from liveedit.types import Case, Probe, Query

FOLDER = Path(
    os.environ.get("LIVEEDIT_PARITY_DIR") or Path(__file__).parents[2] / "assets" / "parity"
)
RTOL = 1e-4
LR = 1e-4

MODULES = {  # released name: ours
    "edit_extractor": "edit_features",
    "inpt_extractor": "input_features",
    "moegen_c": "generator.expert_in",
    "moegen_r": "generator.expert_out",
    "instant_reps_norm": "norm",
    "ca_query_info_ext1": "ask",
    "ca_vision_info_ext": "look",
    "ca_query_info_ext2": "read",
    "ca_lora": "attention",
    "q_mlp": "query",
    "k_mlp": "key",
    "v_mlp": "value",
    "eqe1": "phi",
    "eqe2": "psi",
    "phi": "rows",
    "vis_rep_prot": "sentinel",
    "layer_norm": "norm",
    "layer_norm1": "vision_norm",
    "layer_norm2": "text_norm",
}
KINDS = {  # recorded name: ours
    "rel": "reliability",
    "gen.text_rephrase": "text_generality",
    "gen.image_rephrase": "image_generality",
    "loc.image_loc": "image_locality",
}
TERMS = {
    "rel": "reliability",
    "gen_text": "text_generality",
    "gen_image": "image_generality",
    "loc_image": "image_locality",
}
GENERALITY, LOCALITY = ("text_generality", "image_generality"), ("image_locality",)


class Recording:
    """The recording in this package's terms."""

    def __init__(self, folder: Path) -> None:
        self.vlm = VLM.load(folder / "tiny-llava", prompt_format="raw")
        self.tensors = load_file(folder / "liveedit-llava" / "golden.safetensors")
        self.facts = json.loads(
            (folder / "liveedit-llava" / "golden.json").read_text(encoding="utf-8")
        )
        self.images = [Image.fromarray(image.numpy()) for image in self.tensors["images"]]
        self.requests = [self.query(entry) for entry in self.facts["requests"]]
        self.queries = [self.query(entry) for entry in self.facts["queries"]]

    def query(self, entry: dict) -> Query:
        return Query(entry["prompt"], entry["target"], self.images[entry["image_index"]])

    def weights(self, prefix: str) -> dict[str, torch.Tensor]:
        """The weights recorded under ``prefix``, by this package's names."""
        named = (
            (name.removeprefix(prefix), value)
            for name, value in self.tensors.items()
            if name.startswith(prefix)
        )
        return {
            ".".join(MODULES.get(part, part) for part in name.split(".")): value
            for name, value in named
        }

    def editor(self) -> LiveEdit:
        settings = {name: value for name, value in self.facts["config"].items() if name != "hidden"}
        editor = LiveEdit(self.vlm, LiveEditConfig(**settings, keys="float"))
        editor.networks().load_state_dict(self.weights("editor."))
        return editor

    def cases(self) -> list[Case]:
        train = self.facts["train"]
        rephrase = train["rephrase"]
        locality = [self.query(entry) for entry in train["image_locality"]]
        offset = int(re.search(r"request k on image k\+(\d+)", train["samples"])[1])
        cases = []
        for k, edit in enumerate(self.requests[: len(rephrase)]):
            probes = (
                Probe("text_generality", Query(rephrase[k], edit.target, edit.image)),
                Probe("image_generality", Query(edit.prompt, edit.target, self.images[k + offset])),
                Probe("image_locality", locality[k], "before"),
            )
            cases.append(Case(str(k), (edit,), probes))
        return cases

    def draws(self) -> Draws:
        mask = {
            kind: self.tensors[f"train.{kind}_expert_mask"].bool() for kind in ("rel", "gen", "loc")
        }
        mixed = (
            {"reliability": mask["rel"]}
            | dict.fromkeys(GENERALITY, mask["gen"])
            | dict.fromkeys(LOCALITY, mask["loc"])
        )
        return Draws(mixed, self.pairs("neighbour_pairs"), self.pairs("sentinel_pairs"))

    def pairs(self, name: str) -> Pairs:
        sides = self.facts["train"][name]
        return Pairs(
            *([(KINDS[kind], j) for kind, j in sides[side]] for side in ("input_side", "edit_side"))
        )


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording(FOLDER)


@pytest.fixture(scope="module")
def editor(recording):
    return recording.editor()


@pytest.fixture(scope="module")
def patch(recording, editor):
    return editor.edit(recording.requests)


def close(ours: torch.Tensor, recorded: torch.Tensor) -> None:
    """Equal to 1e-4, each element relative to itself or, where it is all but zero, to the largest
    one's tenth part.
    """
    torch.testing.assert_close(
        ours, recorded, rtol=RTOL, atol=0.1 * RTOL * float(recorded.abs().max())
    )


@pytest.mark.parametrize("name", ["vision_keys", "text_keys", "expert_in", "expert_out"])
def test_pool(recording, patch, name):
    close(patch.bank[name], recording.tensors[f"pool.{name}"])


def test_edits_made_one_by_one_are_the_same(recording, editor, patch):
    single = editor.empty()
    for request in recording.requests:
        single = editor.edit([request], single)
    for name, tensor in patch.bank.tensors().items():
        close(single.bank[name], tensor)


def routings(recording, patch, batch):
    hidden = recording.vlm.hidden(batch, patch.editor.config.layer)
    return patch.route(hidden.hidden, hidden.spans)


def recorded(recording, index, name):
    return recording.tensors[f"q{index:02}.{name}"]


def check_routing(recording, index, found, row=None):
    row = index if row is None else row
    close(found.vision[row][None], recorded(recording, index, "vision_sim"))
    close(found.sentinel[row][None, None], recorded(recording, index, "sentinel_sim"))
    assert int(found.keep[row].sum()) == recording.facts["queries"][index]["experts_kept"]
    close(found.weight[row][found.keep[row]][None], recorded(recording, index, "fuse"))


UNEDITED = 8
"""Queries whose unedited logits are recorded: the first so many."""


def test_unedited_queries(recording, editor):
    for index, query in enumerate(recording.queries):
        batch = recording.vlm.encode([query])
        assert list(batch.spans[0].image) == recording.facts["queries"][index]["vision_range"]
        close(
            recording.vlm.hidden(batch, editor.config.layer).hidden,
            recorded(recording, index, "layer_hidden"),
        )
        if index < UNEDITED:
            close(recording.vlm.logits(batch), recorded(recording, index, "base_logits"))


def test_queries_one_by_one(recording, patch):
    for index, query in enumerate(recording.queries):
        batch = recording.vlm.encode([query])
        found = routings(recording, patch, batch)
        check_routing(recording, index, found, row=0)
        with recording.vlm.patched(patch):
            close(recording.vlm.logits(batch), recorded(recording, index, "edited_logits"))
        assert len(batch.fired_by(patch)[0]) == recording.facts["queries"][index]["experts_kept"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_queries_in_one_padded_batch(recording, patch, side):
    batch = recording.vlm.encode(recording.queries, padding_side=side)
    found = routings(recording, patch, batch)
    base = recording.vlm.logits(batch)
    with recording.vlm.patched(patch):
        edited = recording.vlm.logits(batch)
    for index, span in enumerate(batch.spans):
        check_routing(recording, index, found)
        real = slice(span.start, span.stop)
        if index < UNEDITED:
            close(base[index : index + 1, real], recorded(recording, index, "base_logits"))
        close(edited[index : index + 1, real], recorded(recording, index, "edited_logits"))


@pytest.fixture(scope="module")
def step(recording):
    """Loss, terms, and the editor before and after one Adam step."""
    editor = recording.editor()
    examples = editor.prepare(recording.cases())
    total, terms = replay(editor, examples, recording.draws())
    optimizer = torch.optim.Adam(editor.networks().parameters(), lr=LR)
    total.backward()
    optimizer.step()
    return total.detach(), terms, editor


def test_losses(recording, step):
    total, terms, _ = step
    train = recording.facts["train"]
    for name, value in train["losses_single_pass"].items():
        assert float(terms[TERMS.get(name, name)].detach()) == pytest.approx(value, rel=RTOL), name
    assert len(terms) == len(train["losses_single_pass"])
    assert float(total) == pytest.approx(train["total_single_pass"], rel=RTOL)


def test_weights_after_one_step(recording, step):
    """Adam's first step moves a weight by lr g / (|g| + 1e-8): where a gradient is all but zero its
    rounding shows.

    Such are those of the biases of the keys: they add the same to all scores of a softmax, and have
    no gradient at all.
    """
    before, after = recording.weights("editor."), recording.weights("train.after_step.")
    networks = step[2].networks()
    assert networks.state_dict().keys() == after.keys()
    for name, parameter in networks.named_parameters():
        ours = parameter.detach() - before[name]
        theirs = after[name] - before[name]
        gradient = parameter.grad.abs()
        assert gradient.max() < 1e-6 or not name.endswith("key.bias")
        allowed = 0.02 + (2.0 if name.endswith("key.bias") else 1e-8 / (gradient + 1e-8))
        assert ((ours - theirs).abs() <= LR * allowed + 2e-7 * before[name].abs()).all(), name
        if before[name].any() and not name.endswith("key.bias"):  # from zero, all of it is the step
            close(parameter.detach(), after[name])
