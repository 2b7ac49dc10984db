"""What every VLM must do, whatever its prompt, its image inputs and its positions look like: named
checks.

Each check takes a VLM and raises :class:`Broken` with what does not hold. :func:`probe` runs the
few that a model must pass on loading, :func:`examine` all of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from liveedit.errors import BadInput, UnsupportedModel, shortage
from liveedit.models.batch import IGNORED, Batch, Firing, HiddenBatch, PaddingSide, Spans
from liveedit.models.patch import Patch, SiteFn, main_output, side_by_side
from liveedit.types import Query

if TYPE_CHECKING:
    from liveedit.models.vlm import VLM

__all__ = [
    "CHECKS",
    "LOADING",
    "QUERIES",
    "SEVERAL",
    "STRUCTURE",
    "Broken",
    "Check",
    "Routed",
    "examine",
    "probe",
    "reads_several",
]

EMBEDDINGS = -1
SIDES: tuple[PaddingSide, PaddingSide] = ("left", "right")


class Broken(AssertionError):
    """A check does not hold."""


Check = Callable[["VLM"], None]

CHECKS: dict[str, Check] = {}
"""The checks by name, in the order in which they run."""


def check(function: Check) -> Check:
    """Enter a check under its function's name."""
    CHECKS[function.__name__] = function
    return function


@dataclass(frozen=True, slots=True)
class Finding:
    """How a check went: its name, what it says it proves, and what does not hold, if something."""

    name: str
    proves: str
    reason: str | None


def examine(vlm: "VLM", names: Sequence[str] | None = None) -> Iterator[Finding]:
    """Run the checks, all or those of ``names``, and tell of each how it went."""
    vlm.logits(
        vlm.encode(QUERIES)
    )  # transformers puts hooks of its own on a vision tower when it first runs
    for name in CHECKS if names is None else names:
        reason = None
        try:
            CHECKS[name](vlm)
        except Exception as error:  # a model may fail in any way
            if shortage(error):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            reason = reason if isinstance(error, Broken) else f"{type(error).__name__}: {reason}"
        yield Finding(name, str(CHECKS[name].__doc__).splitlines()[0], reason)


STRUCTURE = (
    "spans_partition_the_tokens",
    "resume_continues_where_hidden_stopped",
    "hooks_see_single_tokens",
)
"""What a model of a family that nobody has written must do before that can be trusted."""
LOADING = ("generation_with_a_cache_agrees_with_whole_passes", "resume_agrees_with_a_whole_pass")
"""What every model must do before it is asked, because another version of transformers may do
otherwise.
"""


def probe(vlm: "VLM", names: Sequence[str]) -> None:
    """Run the checks of these names. Raises :class:`Broken`, or whatever the model fails with."""
    for name in names:
        CHECKS[name](vlm)


# What the checks ask


def picture(seed: int, width: int, height: int) -> Image.Image:
    """Random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


WIDE, SQUARE = picture(0, 60, 40), picture(1, 30, 30)
QUERIES = [
    Query("What is the country with this flag?", "Japan", WIDE),
    Query("who sang the song that was the title of the movie", "Elvis Presley"),
    Query("Which film is represented in this image?", "Casablanca", SQUARE),
    Query("What is the name of the film? ", " Gone with the Wind\n", WIDE),
]

TEXTS = [Query("Who?"), Query("Which film is this?")]
"""Short, and of several lengths."""

SEVERAL = [
    Query("Which film is represented in the second image?", "Casablanca", [WIDE, SQUARE]),
    Query("What is the country with this flag?", "Japan", WIDE),
    Query("What is the name of the film?", "Gone with the Wind", [SQUARE, WIDE, SQUARE], about=0),
    Query("who sang the song that was the title of the movie", "Elvis Presley"),
    Query("Which film is this?", "Casablanca", [WIDE, WIDE], about=None),
]
"""With images of several sizes in one prompt, with one, and with none."""


class Routed(Patch):
    """Like a routed expert: reads image and prompt when it first sees the site, acts on every token
    from then on.
    """

    def __init__(self, layer: int, scale: float | Tensor = 4.0, site: str = "layers.{}") -> None:
        self.site, self.scale, self.bound = site.format(layer), scale, 0
        self.seen: list[tuple[int, ...]] = []

    def __len__(self) -> int:
        return 1

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """Add to every token what image and prompt hold together, turned by one place."""
        self.bound += 1
        keys: list[Tensor] = []

        def act(states: Tensor) -> Tensor:
            self.seen.append(tuple(states.shape))
            if not keys:
                rows = zip(states.float(), batch.spans, strict=True)
                parts = [
                    (row[slice(*span.image)].sum(0), row[slice(*span.prompt)].mean(0))
                    for row, span in rows
                ]
                keys.append(
                    torch.roll(
                        torch.stack([image + prompt for image, prompt in parts])[:, None], 1, -1
                    )
                )
            return states + self.change(states, keys[0]).to(states.dtype)

        return {self.site: act}

    def change(self, states: Tensor, key: Tensor) -> Tensor:  # noqa: ARG002
        """What is added to the states (B, T, D), given what they held together (B, 1, D)."""
        return self.scale * key


class Nudged(Routed):
    """Moves every token by ``scale`` of its own length, so that in a model of any size the rest of
    it still counts.
    """

    def change(self, states: Tensor, key: Tensor) -> Tensor:
        """See :meth:`Routed.change`."""
        lengths: Tensor = states.float().norm(dim=-1, keepdim=True)
        return self.scale * lengths * nn.functional.normalize(key, dim=-1)


class Weights(Patch):
    """New values of parameters."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values = values

    def weights(self) -> dict[str, Tensor]:
        """The values."""
        return self.values


def middle(vlm: "VLM") -> int:
    """The layer that the checks stop at."""
    return (vlm.num_layers - 1) // 2


def expect(holds: bool, otherwise: str) -> None:
    """Raise :class:`Broken` unless it holds."""
    if not holds:
        raise Broken(otherwise)


def close(one: Tensor, other: Tensor, what: str, loose: float = 1.0) -> None:
    """Raise :class:`Broken` unless both are equal but for rounding, by the type they were computed
    in.
    """
    expect(
        one.shape == other.shape,
        f"{what}: shape {tuple(one.shape)} in place of {tuple(other.shape)}",
    )
    excluded = (one == other) & (
        other == torch.finfo(other.dtype).min
    )  # what a model never answers with
    one, other = one.masked_fill(excluded, 0), other.masked_fill(excluded, 0)
    tolerance = loose * (1e-4 if one.dtype == torch.float32 else 5e-2)
    scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
    apart = (
        float((one.detach().float() - other.detach().float()).abs().max()) if one.numel() else 0.0
    )
    expect(apart <= tolerance * scale, f"{what}: {apart:.2g} apart")


def real(values: Tensor, spans: Sequence[Spans]) -> list[Tensor]:
    """The tokens of each row that are not padding."""
    return [row[span.start : span.stop] for row, span in zip(values, spans, strict=True)]


def rows_close(
    logits: Sequence[Tensor], others: Sequence[Tensor], what: str, loose: float = 1.0
) -> None:
    """Raise :class:`Broken` unless each row equals its counterpart."""
    for number, (one, other) in enumerate(zip(logits, others, strict=True)):
        close(one, other, f"{what}, row {number}", loose)


def greedy(vlm: "VLM", query: Query, steps: int) -> list[int]:
    """Teacher-forced generation: the whole text anew for every token."""
    batch = vlm.encode([replace(query, target="")])
    tokens: list[int] = []
    for _ in range(steps):
        token = vlm.logits(batch)[:, -1].argmax(-1, keepdim=True)
        tokens.append(int(token))
        batch = followed(vlm, batch, token)
    return tokens


def followed(vlm: "VLM", batch: Batch, tokens: Tensor) -> Batch:
    """The batch followed by the tokens (B, T') that were generated since."""
    longer = batch.extended(tokens)
    kinds = vlm.token_kinds(longer.inputs["input_ids"].cpu(), longer.spans)
    longer.inputs |= {name: vlm.put(value) for name, value in kinds.items()}
    return longer


def cut(vlm: "VLM", tokens: list[int]) -> str:
    """Up to the end of text, as a stripped string."""
    length = next((at for at, token in enumerate(tokens) if token in vlm.stops), len(tokens))
    text = vlm.tokenizer.decode(
        tokens[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return str(text).strip()


def raw_generate(vlm: "VLM", batch: Batch, steps: int) -> Tensor:
    """The tokens that the Hugging Face model generates by itself."""
    options = {"max_new_tokens": steps, "do_sample": False, "pad_token_id": vlm.pad_token_id}
    tokens: Tensor = vlm.model.generate(**batch.inputs, **options)
    return tokens[:, batch.labels.shape[1] :]


@contextmanager
def running(model: nn.Module) -> Iterator[set[str]]:
    """The names of all modules that run meanwhile."""
    names: set[str] = set()
    with ExitStack() as undo:
        for name, module in model.named_modules():
            undo.callback(
                module.register_forward_pre_hook(lambda *_, name=name: names.add(name)).remove
            )
        yield names


def hooks(model: nn.Module) -> dict[str, Any]:
    """Every hook of every module, and a ``forward`` of its own."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        name: ([list(getattr(module, kind)) for kind in kinds], vars(module).get("forward"))
        for name, module in model.named_modules()
    }


@contextmanager
def unchanged(vlm: "VLM", batch: Batch) -> Iterator[None]:
    """Raise :class:`Broken` if anything of the model differs afterwards."""
    logits, hooked = vlm.logits(batch), hooks(vlm.model)
    held = {
        name: (value, value.detach().clone())
        for name, value in vlm.model.named_parameters(remove_duplicate=False)
    }
    yield
    expect(hooks(vlm.model) == hooked, "a hook is left on the model")
    after = dict(vlm.model.named_parameters(remove_duplicate=False))
    expect(list(after) == list(held), "the model has other parameters")
    for name, (parameter, value) in held.items():
        expect(
            after[name] is parameter and torch.equal(parameter, value),
            f"the parameter {name} is not as it was",
        )
    expect(torch.equal(vlm.logits(batch), logits), "the logits are not as they were")
    expect(vlm.patches == [] and not vlm.attachment.users, "a patch is left")


# Encoding


@check
def spans_partition_the_tokens(vlm: "VLM") -> None:
    """The spans of a row cover its real tokens without gap or overlap, on either padding side."""
    for side in SIDES:
        batch = vlm.encode(QUERIES, padding_side=side)
        for mask, span in zip(batch.inputs["attention_mask"], batch.spans, strict=True):
            parts = [span.before, span.image, span.prompt, span.answer]
            covered = [index for start, stop in parts for index in range(start, stop)]
            expect(
                covered == mask.nonzero().flatten().tolist(),
                f"the spans {parts} do not partition a row",
            )


@check
def image_span_holds_the_image(vlm: "VLM") -> None:
    """Every image token is in the image span, which begins and ends with one; a text has none."""
    batch = vlm.encode(QUERIES)
    marks = vlm.image_tokens(batch.inputs["input_ids"])
    for query, mark, span in zip(QUERIES, marks, batch.spans, strict=True):
        places = mark.nonzero().flatten().tolist()
        if query.image is None:
            expect(
                not places and span.before == span.image == (span.start, span.start),
                "a text has image tokens",
            )
        else:
            expect(bool(places), "an image has no image token")
            expect(
                (places[0], places[-1] + 1) == span.image,
                "the image span does not end with the image tokens",
            )


@check
def labels_cover_the_answer(vlm: "VLM") -> None:
    """Labels are the answer's tokens there and nowhere else, and read as the target."""
    batch = vlm.encode(QUERIES)
    for row, (query, span) in enumerate(zip(QUERIES, batch.spans, strict=True)):
        answer = slice(*span.answer)
        expect(
            (batch.labels[row] != -100).nonzero().flatten().tolist() == [*range(*span.answer)],
            "labels elsewhere",
        )
        expect(
            torch.equal(batch.labels[row, answer], batch.inputs["input_ids"][row, answer]),
            "labels are other tokens",
        )
        read = vlm.tokenizer.decode(batch.labels[row, answer]).strip()
        expect(
            read == query.target.strip(), f"the answer reads '{read}', not '{query.target.strip()}'"
        )


def whole_prompt(vlm: "VLM", query: Query) -> Batch:
    """The query encoded; raises :class:`Broken` if its target changes the tokens of its prompt."""
    full, asked = vlm.encode([query]), vlm.encode([replace(query, target="")])
    stop = full.spans[0].prompt[1]
    expect(
        asked.spans[0].prompt == full.spans[0].prompt, "the target changes where the prompt ends"
    )
    same = torch.equal(full.inputs["input_ids"][:, :stop], asked.inputs["input_ids"])
    expect(same, "the target changes the tokens of the prompt")
    return full


@check
def prompt_ends_before_the_answer(vlm: "VLM") -> None:
    """A prompt has the same tokens with and without target; one blank or the template stands
    between.
    """
    for query in QUERIES:
        full = whole_prompt(vlm, query)
        text = vlm.tokenizer.decode(full.inputs["input_ids"][0])
        joint = text.removesuffix(query.target.strip())
        expect(
            joint != text and (joint[-1].isspace() or joint[-1] == ">"),
            f"no blank before the answer in '{text}'",
        )


@check
def encodes_as_the_processor_does(vlm: "VLM") -> None:
    """The inputs of a row equal those that the model's own processor makes of its prompt."""
    for query in QUERIES:
        ours = vlm.encode([replace(query, target="")]).inputs
        try:
            theirs = vlm.processed(query)
        except (TypeError, ValueError):  # some processors refuse a text without an image
            if query.image is not None:
                raise
            continue
        for name, value in theirs.items():
            if isinstance(value, Tensor) and name in ours:
                expect(
                    torch.equal(ours[name], vlm.put(value)),
                    f"'{name}' is not as the processor makes it",
                )


@check
def images_of_a_batch_follow_one_another(vlm: "VLM") -> None:
    """The image inputs of a batch are those of its rows, in their order."""
    pictured = [query for query in QUERIES if query.image is not None]
    batch = vlm.encode(QUERIES)
    parts = [vlm.encode([query]).inputs for query in pictured]
    for name, value in batch.inputs.items():
        if value.shape[:2] != batch.labels.shape:
            least = sum(part[name].numel() for part in parts if name in part)
            expect(value.numel() >= least, f"'{name}' has not every image's part")


@check
def an_image_is_processed_once(vlm: "VLM") -> None:
    """The processor sees each distinct image of a batch once."""
    calls, own = [], vlm.picture
    vlm.picture = lambda images: calls.append(images) or own(images)  # type: ignore[method-assign,func-returns-value]
    try:
        vlm.encode(QUERIES)
    finally:
        del vlm.picture
    expect(len(calls) == 2, f"two images were processed {len(calls)} times")


def reads_several(vlm: "VLM") -> bool:
    """Whether the model reads several images in one prompt; otherwise it must refuse them in one
    line.
    """
    try:
        vlm.encode(SEVERAL)
    except UnsupportedModel as error:
        expect(
            "several images" in str(error) and len(str(error).splitlines()) == 1,
            "refused, but not in one line",
        )
        return False
    return True


@check
def each_of_several_images_has_its_span(vlm: "VLM") -> None:
    """Another image changes the embeddings within its own span alone, which is that of a query
    about it.
    """
    if not reads_several(vlm):
        return
    shown, other = [WIDE, SQUARE, WIDE], picture(2, 30, 30)
    ways = [
        Query("Which film is this?", "Casablanca", shown, about=about) for about in (0, 1, 2, None)
    ]
    batch = vlm.encode(ways)
    *spans, whole = [span.image for span in batch.spans]
    expect(spans[0][1] <= spans[1][0] and spans[1][1] <= spans[2][0], f"the spans {spans} overlap")
    expect(whole == (spans[0][0], spans[2][1]), "the span of all is not from the first to the last")
    marks = vlm.image_tokens(batch.inputs["input_ids"])[0]
    expect(
        int(marks.sum()) == sum(int(marks[start:stop].sum()) for start, stop in spans),
        "image tokens in no span",
    )
    expect(
        all(bool(marks[start] & marks[stop - 1]) for start, stop in spans),
        "a span ends without an image token",
    )
    exchanged = vlm.encode([replace(ways[0], image=[WIDE, other, WIDE])])
    one, another = (
        vlm.hidden(each, EMBEDDINGS).hidden[0] for each in (vlm.encode(ways[:1]), exchanged)
    )
    places = (one != another).any(-1).nonzero().flatten().tolist()
    expect(bool(places), "another image changes nothing")
    expect(
        spans[1][0] <= places[0] and places[-1] < spans[1][1],
        f"an image of {spans[1]} is in {places}",
    )


@check
def several_images_are_read_as_by_the_processor(vlm: "VLM") -> None:
    """Several images give the logits that the model gives for what its own processor makes of them."""
    if not reads_several(vlm):
        return
    for query in (replace(query, target="") for query in SEVERAL if len(query.images) > 1):
        batch = vlm.encode([query])
        theirs = {
            name: vlm.put(value)
            for name, value in vlm.processed(query).items()
            if isinstance(value, Tensor)
        }
        ids = batch.inputs["input_ids"]
        expect(
            torch.equal(theirs.get("input_ids", ids), ids),
            "the tokens are not as the processor makes them",
        )
        close(
            vlm.logits(batch),
            vlm.model(**batch.inputs | theirs, use_cache=False).logits,
            "logits and those of its own",
        )


@check
def several_images_in_a_batch(vlm: "VLM") -> None:
    """Rows of several images, of one and of none give the same logits and answers together and
    alone.
    """
    if not reads_several(vlm):
        return
    loose = 5.0  # linear attention sums its decays over the padding, which is long here, in float32
    alone = [vlm.logits(vlm.encode([query]))[0] for query in SEVERAL]
    for side in SIDES:
        batch = vlm.encode(SEVERAL, padding_side=side)
        rows_close(
            real(vlm.logits(batch), batch.spans),
            alone,
            f"several images alone and padded on the {side}",
            loose,
        )
        resumed = vlm.resume(middle(vlm), vlm.hidden(batch, middle(vlm)))
        rows_close(real(resumed, batch.spans), alone, "several images resumed", loose)
    expected = [cut(vlm, greedy(vlm, query, 3)) for query in SEVERAL]
    expect(
        vlm.generate(SEVERAL, max_new_tokens=3) == expected,
        "several images are answered otherwise in a batch",
    )


@check
def without_target_there_is_no_answer(vlm: "VLM") -> None:
    """A query without target has an empty answer span, no label and no answer position."""
    batch = vlm.encode([replace(QUERIES[0], target=""), QUERIES[1]], eos=True)
    span = batch.spans[0]
    expect(span.answer == (span.stop, span.stop), "a query without target has an answer")
    expect(bool((batch.labels[0] == -100).all()), "a query without target has labels")
    expect(not batch.answer_positions()[0].any(), "a query without target has answer positions")


@check
def eos_is_part_of_the_answer(vlm: "VLM") -> None:
    """``eos`` makes the answer one token longer, one of those at which generation stops."""
    short, long = vlm.encode(QUERIES), vlm.encode(QUERIES, eos=True)
    for row, (one, other) in enumerate(zip(short.spans, long.spans, strict=True)):
        expect(
            other.answer == (one.answer[0], one.answer[1] + 1),
            "the end of text is not in the answer",
        )
        expect(
            int(long.labels[row, other.answer[1] - 1]) in vlm.stops, "another token ends the answer"
        )


@check
def an_answer_ends_where_generation_ends(vlm: "VLM") -> None:
    """Generation goes on over every token of an answer, and stops at the one that ``eos`` puts
    behind it.
    """
    [query] = QUERIES[:1]
    [answer] = [row[row != IGNORED] for row in vlm.encode([query], eos=True).labels]

    class Dictates(Patch):
        """Says the answer, then its last token but one for ever."""

        def merge(self, batch: Batch, logits: Tensor) -> Tensor:
            steps = batch.inputs["input_ids"].shape[1] - prompt.labels.shape[1]
            token = answer[steps] if steps < len(answer) else answer[-2]
            return torch.zeros_like(logits).index_fill(-1, token, 1.0)

    prompt = vlm.encode([replace(query, target="")], padding_side="left")
    with vlm.patched(Dictates()):
        said = vlm.generate([query], max_new_tokens=len(answer) + 3)
    expect(said == [cut(vlm, answer.tolist())], f"'{query.target}' is generated as '{said[0]}'")


@check
def a_prompt_is_kept_whole_before_an_answer(vlm: "VLM") -> None:
    """The tokens of a prompt are the same with and without target, also where a token could reach
    across both.
    """
    own = vlm.render
    for ending in (" ", "\n", "\n\n ", " (", "Ca"):
        vlm.render = lambda query, ending=ending: own(query) + ending  # type: ignore[method-assign,misc]
        try:
            for query in QUERIES[:3]:
                full = whole_prompt(vlm, query)
                answer = vlm.tokenizer.decode(
                    full.inputs["input_ids"][0, slice(*full.spans[0].answer)]
                )
                expect(
                    answer.strip() == query.target.strip(),
                    f"the answer reads '{answer}' behind '{ending}'",
                )
        finally:
            del vlm.render


@check
def answer_positions_are_one_to_the_left(vlm: "VLM") -> None:
    """The positions that predict the answer begin just before it."""
    batch = vlm.encode(QUERIES)
    for positions, span in zip(batch.answer_positions(), batch.spans, strict=True):
        expected = [*range(span.answer[0] - 1, span.answer[1] - 1)]
        expect(positions.nonzero().flatten().tolist() == expected, "answer positions are elsewhere")


@check
def placeholder_in_a_prompt_is_refused(vlm: "VLM") -> None:
    """A prompt or target that holds the image placeholder is refused in one line."""
    placeholder = getattr(vlm, "placeholder", None) or vlm.tokenizer.decode([vlm.image_token_id])
    for query in (Query(f"What is {placeholder}?"), Query("What?", f"a {placeholder}", WIDE)):
        refused(partial(vlm.encode, [query]), BadInput, "holds the image placeholder")


def refused(call: Callable[[], Any], kind: type[Exception], words: str) -> None:
    """Raise :class:`Broken` unless the call raises an error of the kind with these words."""
    try:
        call()
    except kind as error:
        expect(words in str(error), f"the error reads '{error}', without '{words}'")
    else:
        raise Broken(f"nothing raised {kind.__name__}: {words}")


# Forward


@check
def rows_are_equal_alone_and_in_a_batch(vlm: "VLM") -> None:
    """A row gives the same logits alone and in a padded batch mixed with text-only rows, on either
    side.
    """
    alone = [vlm.logits(vlm.encode([query]))[0] for query in QUERIES]
    for side in SIDES:
        batch = vlm.encode(QUERIES, padding_side=side)
        rows_close(
            real(vlm.logits(batch), batch.spans),
            alone,
            f"a row padded on the {side} and alone",
            10.0,
        )


@check
def a_batch_may_be_text_alone(vlm: "VLM") -> None:
    """Texts give the same logits in a batch of their own and beside an image."""
    texts = [QUERIES[1], Query("What is the name?", "film")]
    batch, mixed = vlm.encode(texts), vlm.encode([*texts, QUERIES[0]])
    mine = real(vlm.logits(mixed)[:2], mixed.spans[:2])
    rows_close(real(vlm.logits(batch), batch.spans), mine, "texts alone and beside an image")


@check
def the_image_matters(vlm: "VLM") -> None:
    """Another image gives other logits."""
    one, other = (
        vlm.logits(vlm.encode([replace(QUERIES[0], image=image)]))[0, -1]
        for image in (WIDE, SQUARE)
    )
    expect(float((one - other).abs().max()) > 1e-3, "the logits do not depend on the image")


@check
def hidden_stops_at_its_layer(vlm: "VLM") -> None:
    """``hidden`` is the layer's output, and no layer above it runs."""
    layer, batch, outputs = middle(vlm), vlm.encode(QUERIES), list[Any]()
    with vlm.layers[layer].register_forward_hook(lambda _m, _a, output: outputs.append(output)):
        vlm.logits(batch)
    with running(vlm.model) as names:
        hidden = vlm.hidden(batch, layer)
    output = side_by_side(main_output(outputs[0]))
    expect(torch.equal(hidden.hidden, output), "hidden is not the layer's output")
    expect(
        hidden.hidden.shape == (*batch.labels.shape, vlm.state_size),
        f"hidden is {tuple(hidden.hidden.shape)}",
    )
    ran = [f"{vlm.decoder_path}.layers.{number}" in names for number in range(vlm.num_layers)]
    expect(ran == [number <= layer for number in range(vlm.num_layers)], "other layers run")


@check
def resume_continues_where_hidden_stopped(vlm: "VLM") -> None:
    """``resume`` gives ``logits`` again from what every layer, and the embedding, puts out."""
    layers = (
        range(EMBEDDINGS, vlm.num_layers) if vlm.num_layers <= 8 else (EMBEDDINGS, 0, middle(vlm))
    )
    for side in SIDES:
        batch = vlm.encode(QUERIES, padding_side=side)
        logits = real(vlm.logits(batch), batch.spans)
        for layer in layers:
            resumed = real(vlm.resume(layer, vlm.hidden(batch, layer)), batch.spans)
            rows_close(resumed, logits, f"resume from layer {layer} and logits")


@check
@torch.no_grad()
def resume_agrees_with_a_whole_pass(vlm: "VLM") -> None:
    """``resume`` gives the logits of a question about an image from what the middle layer puts out.

    Two forward passes, one of them in two halves. The vision tower runs once.
    """
    batch, layer = vlm.encode(QUERIES[:1]), middle(vlm)
    with vlm.vision_once():
        whole, resumed = vlm.logits(batch), vlm.resume(layer, vlm.hidden(batch, layer))
    tolerance = rounding(vlm)
    apart, size = distances(resumed, whole), distances(whole, whole.mean(1, keepdim=True))
    rest = f"{float((apart / size).max()):.2g} of what they differ from token to token"
    expect(
        bool((apart <= tolerance * size).all()), f"resume and whole forward passes differ by {rest}"
    )


@check
def what_goes_into_the_first_layer(vlm: "VLM") -> None:
    """Below the first layer texts are their embeddings, images what ``image_states`` says."""
    batch = vlm.encode(QUERIES)
    embedded, ids = vlm.hidden(batch, EMBEDDINGS), batch.inputs["input_ids"]
    for row, span in enumerate(batch.spans):
        answer = slice(*span.answer)
        close(
            embedded.hidden[row, answer],
            vlm.embedding(ids[row, answer]),
            "an answer and its embeddings",
        )
    batch = vlm.encode([Query("?", image=image) for image in (WIDE, SQUARE)])
    embedded = vlm.hidden(batch, EMBEDDINGS)
    for row, (image, span) in enumerate(zip((WIDE, SQUARE), batch.spans, strict=True)):
        close(
            vlm.image_states(image),
            embedded.hidden[row, slice(*span.image)],
            "an image's states alone and in a batch",
        )


@check
def resume_runs_only_what_is_above(vlm: "VLM") -> None:
    """``resume`` runs neither the vision tower nor a layer below."""
    layer, batch = middle(vlm), vlm.encode(QUERIES)
    hidden = vlm.hidden(batch, layer)
    with running(vlm.model) as names:
        vlm.resume(layer, hidden)
    below = [f"{vlm.decoder_path}.layers.{number}" for number in range(layer + 1)]
    seeing = [path for path in (vlm.tower_path, vlm.connector_path) if path]
    for path in (*below, *seeing):
        expect(not any(name.startswith(f"{path}.") for name in names), f"resume runs {path}")
    expect(
        any(name.startswith(f"{vlm.decoder_path}.layers.{layer + 1}.") for name in names),
        "resume skips a layer",
    )


@check
def resume_at_positions(vlm: "VLM") -> None:
    """``resume`` at positions gives the logits there alone."""
    batch = vlm.encode(QUERIES)
    hidden, positions = vlm.hidden(batch, middle(vlm)), batch.answer_positions()
    close(
        vlm.resume(middle(vlm), hidden, positions),
        vlm.logits(batch)[positions],
        "resume at positions and logits",
    )


@check
def resume_is_differentiable(vlm: "VLM") -> None:
    """Gradients reach every token of the row but its last from the logits that predict its answer."""
    batch = vlm.encode(QUERIES)
    hidden = vlm.hidden(batch, middle(vlm))
    leaf = hidden.hidden.clone().requires_grad_()
    states = replace(hidden, hidden=leaf)
    logits = vlm.resume(middle(vlm), states, batch.answer_positions()).float()
    torch.autograd.backward(logits.logsumexp(-1).sum())
    expect(leaf.grad is not None and bool(leaf.grad.isfinite().all()), "a gradient is not finite")
    for gradient, span in zip(leaf.grad if leaf.grad is not None else (), batch.spans, strict=True):
        expect(
            bool(gradient[span.prompt[0] : span.answer[1] - 1].abs().sum() > 0),
            "no gradient reaches a row",
        )


@check
def rows_of_hidden_can_be_mixed_anew(vlm: "VLM") -> None:
    """Rows of ``hidden``, stacked in another order and padded anew, resume to the same logits."""
    for layer in (middle(vlm), EMBEDDINGS):
        batch = vlm.encode(QUERIES)
        rows, order = vlm.hidden(batch, layer).rows(), [2, 0, 3, 1]
        stacked = HiddenBatch.stack([rows[index] for index in order])
        logits = real(vlm.logits(batch), batch.spans)
        resumed = real(vlm.resume(layer, stacked), stacked.spans)
        rows_close(resumed, [logits[index] for index in order], f"rows of layer {layer} mixed anew")
        close(vlm.resume(layer, rows[1])[0], logits[1], "a row alone")


@check
def a_layer_that_does_not_exist_is_refused(vlm: "VLM") -> None:
    """``hidden`` and ``resume`` refuse a layer that is not there."""
    batch = vlm.encode(QUERIES[:1])
    hidden = vlm.hidden(batch, 0)
    for layer in (-2, vlm.num_layers):
        refused(partial(vlm.hidden, batch, layer), BadInput, f"no layer {layer}")
        refused(partial(vlm.resume, layer, hidden), BadInput, f"no layer {layer}")


@check
def the_model_is_frozen(vlm: "VLM") -> None:
    """No parameter asks for a gradient, and the model is in evaluation mode."""
    expect(
        not any(parameter.requires_grad for parameter in vlm.model.parameters()),
        "a parameter asks for a gradient",
    )
    expect(not vlm.model.training, "the model is in training mode")


# Generation


@check
def generation_is_greedy(vlm: "VLM") -> None:
    """Generation, with a cache and in batches, equals the argmax of whole forward passes."""
    expected = [cut(vlm, greedy(vlm, query, 5)) for query in QUERIES]
    for size in (32, 1, 3):
        expect(
            vlm.generate(QUERIES, max_new_tokens=5, batch_size=size) == expected,
            f"batches of {size} answer otherwise",
        )


@check
def hooks_see_single_tokens(vlm: "VLM") -> None:
    """While text is generated under a patch a hook sees the prompt once and then one token at a
    time.
    """
    layer, asked = middle(vlm), replace(QUERIES[0], target="")
    batch, shapes = vlm.encode([asked], padding_side="left"), list[int]()

    def saw(_module: nn.Module, _args: Any, output: Any) -> None:
        shapes.append((output[0] if isinstance(output, tuple) else output).shape[-2])

    with vlm.patched(Patch()), vlm.layers[layer].register_forward_hook(saw):
        vlm.model.generate(
            **batch.inputs,
            max_new_tokens=3,
            min_new_tokens=3,
            do_sample=False,
            pad_token_id=vlm.pad_token_id,
        )
    expected = [batch.labels.shape[1], 1, 1]
    expect(shapes == expected, f"a hook sees {shapes} tokens, not {expected}")


@check
@torch.no_grad()
def generation_with_a_cache_agrees_with_whole_passes(vlm: "VLM") -> None:
    """Under a patch, three tokens generated with a cache have the logits that whole forward passes
    give them.

    Ten forward passes, four of them over a single token: of a question about a small image, and of
    two short texts in one batch, the prompt, two tokens behind it, and all of it with the patch and
    without. The vision tower runs once.
    """
    for asked in (QUERIES[:1], TEXTS):
        batch = vlm.encode([replace(query, target="") for query in asked], padding_side="left")
        with vlm.vision_once():
            with vlm.patched(Nudged(middle(vlm), 0.5)):
                tokens, cached = generated(vlm, batch, 3)
                longer = followed(vlm, batch, tokens[:, :-1])
                whole = vlm.logits(longer)[:, -3:]
            plain = vlm.logits(longer)[:, -3:]
        moved, apart = (distances(one, whole) for one in (plain, cached))
        expect(bool((moved > 0).all()), "a patch does nothing in a whole forward pass")
        tolerance = rounding(vlm)
        rest = f"{float((apart / moved).max()):.2g} of what the patch changes"
        expect(
            bool((apart <= tolerance * moved).all()),
            f"generation and whole forward passes differ by {rest}",
        )


def generated(vlm: "VLM", batch: Batch, steps: int) -> tuple[Tensor, Tensor]:
    """Tokens (B, steps) that are generated with a cache behind a batch of prompts, and their logits
    (B, steps, V).
    """
    options = {
        "max_new_tokens": steps,
        "min_new_tokens": steps,
        "do_sample": False,
        "num_beams": 1,
        "use_cache": True,
    }
    put_out = {
        "output_logits": True,
        "return_dict_in_generate": True,
        "pad_token_id": vlm.pad_token_id,
    }
    with vlm.announce(batch):
        made = vlm.model.generate(**batch.inputs, **options, **put_out)
    return made.sequences[:, -steps:], torch.stack(made.logits, 1).to(vlm.device)


def rounding(vlm: "VLM") -> float:
    """How far the logits of two ways may be apart, as a share of what matters: far less if all is
    in single precision.

    In half precision, and where activations are quantised by what stands beside them, a token may
    take another expert; what a lost cache, mask or position does is larger than any of that.
    """
    exact = all(weights.dtype == torch.float32 for weights in vlm.model.parameters())
    return 0.01 if exact and vlm.quantised is None else 0.5


def distances(one: Tensor, other: Tensor) -> Tensor:
    """How far the logits (B, T, V) of two passes are from one another at each token, (B, T)."""
    apart: Tensor = (one.float() - other.float()).norm(dim=-1)
    return apart


# Patches


@check
def a_patch_acts_and_leaves_nothing(vlm: "VLM") -> None:
    """A patch changes the logits; leaving it restores every parameter and hook bit for bit."""
    batch = vlm.encode(QUERIES)
    logits = vlm.logits(batch)
    with unchanged(vlm, batch), vlm.patched(Routed(middle(vlm))):
        expect(float((vlm.logits(batch) - logits).abs().max()) > 1e-3, "the patch does nothing")


@check
def a_patch_is_bound_once_a_batch(vlm: "VLM") -> None:
    """A patch is bound once in every verb, however many tokens are generated."""
    patch = Routed(middle(vlm))
    with vlm.patched(patch):
        vlm.logits(vlm.encode(QUERIES))
        expect(patch.bound == 1, f"a batch binds {patch.bound} times")
        vlm.generate(QUERIES[:2], max_new_tokens=4)
        expect(patch.bound == 2, "generation binds more than once")


@check
def a_patch_sees_padded_rows_as_alone(vlm: "VLM") -> None:
    """Under a patch, too, a row gives the same logits alone and padded on either side."""
    with vlm.patched(Routed(middle(vlm))):
        rows_are_equal_alone_and_in_a_batch(vlm)


@check
def generation_sees_a_patch(vlm: "VLM") -> None:
    """A patch acts on every token that is generated, as it does in whole forward passes."""
    for site in (f"layers.{vlm.num_layers - 1}", f"layers.{middle(vlm)}"):
        patch = Routed(0, site=site)
        with vlm.patched(patch):
            expected = [cut(vlm, greedy(vlm, query, 5)) for query in QUERIES]
            patch.seen.clear()
            expect(
                vlm.generate(QUERIES, max_new_tokens=5) == expected,
                f"generation with a patch on {site} differs",
            )
            expect(
                {shape[1] for shape in patch.seen[1:]} <= {1}, "decoding does not go token by token"
            )
            expect(
                vlm.generate(QUERIES, max_new_tokens=5, batch_size=1) == expected,
                "rows alone answer otherwise",
            )


@check
def raw_calls_see_a_patch(vlm: "VLM") -> None:
    """The Hugging Face model's own ``forward`` and ``generate`` act with the patch."""
    batch = vlm.encode([replace(query, target="") for query in QUERIES], padding_side="left")
    plain = raw_generate(vlm, batch, 4)
    with vlm.patched(Routed(middle(vlm))):
        raw, ours = vlm.model(**batch.inputs).logits, vlm.logits(batch)
        rows_close(
            real(raw, batch.spans), real(ours, batch.spans), "a raw call and logits under a patch"
        )
        answers = [cut(vlm, row) for row in raw_generate(vlm, batch, 4).tolist()]
        expect(
            answers == vlm.generate(QUERIES, max_new_tokens=4), "generate does not see the patch"
        )
    expect(torch.equal(raw_generate(vlm, batch, 4), plain), "generate is not as it was")


@check
def an_empty_patch_leaves_logits_bit_equal(vlm: "VLM") -> None:
    """An empty patch, and one that returns what it is given, leave the logits bit for bit."""

    class Silent(Patch):
        def bind(self, batch: Batch) -> dict[str, SiteFn]:  # noqa: ARG002
            return {
                "layers.0": lambda states: states,
                f"layers.{middle(vlm)}": lambda states: states,
            }

    batch = vlm.encode(QUERIES)
    logits = vlm.logits(batch)
    for patch in (Patch(), Silent()):
        with unchanged(vlm, batch), vlm.patched(patch):
            expect(torch.equal(vlm.logits(batch), logits), "the logits differ")


@check
def an_exception_leaves_nothing(vlm: "VLM") -> None:
    """A patch that raises leaves neither hook nor parameter behind."""

    class Faulty(Routed):
        def bind(self, batch: Batch) -> dict[str, SiteFn]:
            return {**super().bind(batch), f"layers.{middle(vlm)}": lambda _: states_are_wrong()}

        def weights(self) -> dict[str, Tensor]:
            name, value = next(vlm.model.named_parameters())
            return {name: torch.zeros_like(value)}

    def states_are_wrong() -> Tensor:
        raise ZeroDivisionError("the patch is faulty")

    batch = vlm.encode(QUERIES)
    with unchanged(vlm, batch):
        for call in (
            lambda: vlm.logits(batch),
            lambda: vlm.generate(QUERIES[:2], max_new_tokens=2),
            lambda: vlm.hidden(batch, middle(vlm)),
        ):

            def faulty(call: Callable[[], Any] = call) -> None:
                with vlm.patched(Faulty(0)):
                    call()

            refused(faulty, ZeroDivisionError, "faulty")


@check
def a_site_that_does_not_exist_is_refused(vlm: "VLM") -> None:
    """A patch on a module that is not there is refused in one line."""
    batch = vlm.encode(QUERIES[:1])

    def astray() -> None:
        with vlm.patched(Routed(9999)):
            vlm.logits(batch)

    with unchanged(vlm, batch):
        refused(astray, UnsupportedModel, "layers.9999")


@check
def hidden_and_resume_under_a_patch(vlm: "VLM") -> None:
    """What acts on a layer is in its ``hidden`` and does not act again in ``resume``; what acts
    above acts there.
    """
    layer, batch = middle(vlm), vlm.encode(QUERIES)
    plain = vlm.hidden(batch, layer)
    resumed = vlm.resume(layer, plain)
    with vlm.patched(Routed(layer)):
        at = vlm.hidden(batch, layer)
        expect(
            not torch.equal(at.hidden, plain.hidden), "what acts on the layer is not in its output"
        )
        logits = real(vlm.logits(batch), batch.spans)
        rows_close(
            real(vlm.resume(layer, at), batch.spans), logits, "resume under a patch on the layer"
        )
        expect(
            torch.equal(vlm.resume(layer, plain), resumed),
            "what acts on the layer acts a second time",
        )
    with vlm.patched(Routed(layer + 1)):
        logits = real(vlm.logits(batch), batch.spans)
        rows_close(
            real(vlm.resume(layer, plain), batch.spans), logits, "resume under a patch above"
        )
        stacked = HiddenBatch.stack(plain.rows()[::-1])
        mixed = real(vlm.resume(layer, stacked), stacked.spans)[::-1]
        rows_close(mixed, logits, "rows mixed anew under a patch above")


@check
def gradients_reach_what_a_patch_brings_in(vlm: "VLM") -> None:
    """The logits are differentiable with respect to what a patch brings in."""
    batch, scale = vlm.encode(QUERIES), torch.tensor(0.5, device=vlm.device, requires_grad=True)
    with vlm.patched(Routed(middle(vlm), scale)):
        torch.autograd.backward(
            vlm.logits(batch)[batch.answer_positions()].float().logsumexp(-1).sum()
        )
    expect(scale.grad is not None and bool(scale.grad.abs() > 0), "no gradient reaches the patch")


@check
def weights_are_put_on_and_taken_off(vlm: "VLM") -> None:
    """A patch of weights acts in ``logits`` and in raw calls, takes gradients, and comes off bit
    for bit.
    """
    batch, last = vlm.encode(QUERIES), f"layers.{vlm.num_layers - 1}."
    name = next(
        name for name, value in vlm.decoder.named_parameters() if last in name and value.ndim == 2
    )
    name = f"{vlm.decoder_path}.{name}"
    old = vlm.model.get_parameter(name)
    noise = torch.randn(old.shape, generator=torch.Generator().manual_seed(0)).to(old)
    value = (old + 0.2 * noise).requires_grad_()
    logits, fingerprint = vlm.logits(batch), vlm.fingerprint
    with unchanged(vlm, batch), vlm.patched(Weights({name: value})):
        changed = vlm.logits(batch)
        expect(not torch.equal(changed, logits), "the weights do nothing")
        expect(
            torch.equal(vlm.model(**batch.inputs).logits, changed),
            "a raw call does not see the weights",
        )
        torch.autograd.backward(changed.float().sum())
        expect(
            value.grad is not None and float(value.grad.abs().max()) > 0,
            "no gradient reaches the weights",
        )
        expect(vlm.fingerprint == fingerprint, "the fingerprint is of the edited weights")


@check
def patches_can_be_nested(vlm: "VLM") -> None:
    """Two patches act together, and the inner one leaves the outer as it was."""
    batch = vlm.encode(QUERIES)
    with unchanged(vlm, batch), vlm.patched(Routed(0)):
        one = vlm.logits(batch)
        with vlm.patched(Routed(middle(vlm) + 1)):
            both = vlm.logits(batch)
        expect(torch.equal(vlm.logits(batch), one), "leaving the inner patch changes the outer")
    expect(not torch.equal(one, both), "the second patch does nothing")


@check
def rewriting_queries(vlm: "VLM") -> None:
    """A patch that rewrites queries acts as if they had been asked so."""

    class Context(Patch):
        def rewrite(self, query: Query) -> tuple[Query, list[Firing]]:
            return replace(query, prompt=f"film? {query.prompt}"), []

    batch, rewritten = vlm.encode(QUERIES), [Context().rewrite(query)[0] for query in QUERIES]
    expected, answers = vlm.encode(rewritten), vlm.generate(rewritten, max_new_tokens=3)
    with unchanged(vlm, batch), vlm.patched(Context()):
        same = torch.equal(vlm.encode(QUERIES).inputs["input_ids"], expected.inputs["input_ids"])
        expect(same, "the queries are not rewritten")
        expect(
            vlm.generate(QUERIES, max_new_tokens=3) == answers,
            "generation does not rewrite the queries",
        )


class Before(Patch):
    """The vectors of one token, three times, before the text of some rows."""

    def __init__(self, vlm: "VLM", token: int, rows: Sequence[int]) -> None:
        self.vectors = dict.fromkeys(
            rows, vlm.embedding(torch.tensor([token] * 3, device=vlm.device)).clone()
        )

    def prefix(self, batch: Batch) -> dict[int, Tensor]:  # noqa: ARG002
        """The vectors by row."""
        return self.vectors


@check
def vectors_before_a_text_are_like_tokens_there(vlm: "VLM") -> None:
    """Vectors that a patch puts before a text act as embeddings of tokens there would, or are
    refused in one line.
    """
    batch, token = vlm.encode(QUERIES), vlm.encode([QUERIES[1]]).inputs["input_ids"][0, -1].item()
    patch = Before(vlm, int(token), (0, 1, 3))
    longer, places = batch.prefixed(patch.vectors, int(token))
    expected = vlm.logits(replace(longer, prefix={}))[
        torch.arange(len(QUERIES), device=vlm.device)[:, None], places
    ]
    with unchanged(vlm, batch), vlm.patched(patch):
        try:
            got = vlm.logits(batch)
        except UnsupportedModel:
            return
        expect(got.shape[:2] == batch.labels.shape, "the vectors' positions are in the logits")
        rows_close(
            real(got, batch.spans), real(expected, batch.spans), "vectors and tokens before a text"
        )


@check
def merging_logits(vlm: "VLM") -> None:
    """A patch that replaces logits decides what is generated, and sees the tokens so far."""

    class Favour(Patch):
        """Answers with the row's last token, plus the number of tokens so far: both must be up to
        date.
        """

        def merge(self, batch: Batch, logits: Tensor) -> Tensor:
            ids = batch.inputs["input_ids"]
            favoured = 10 + (ids[:, -1] + ids.shape[1]) % 97
            places = (torch.arange(len(ids)), torch.tensor([logits.shape[1] - 1]), favoured)
            return logits.index_put(
                places, torch.tensor(9999.0, dtype=logits.dtype, device=logits.device)
            )

    prompt = vlm.encode([replace(QUERIES[0], target="")], padding_side="left")
    ids, width = prompt.inputs["input_ids"], prompt.labels.shape[1]
    for _ in range(3):
        ids = torch.cat([ids, 10 + (ids[:, -1:] + ids.shape[1]) % 97], 1)
    own = vlm.model.generation_config.eos_token_id
    with unchanged(vlm, prompt), vlm.patched(Favour()):
        vlm.model.generation_config.eos_token_id = None
        try:
            tokens = raw_generate(vlm, prompt, 3)
        finally:
            vlm.model.generation_config.eos_token_id = own
        expect(tokens.tolist() == ids[:, width:].tolist(), "the merged logits do not decide")
