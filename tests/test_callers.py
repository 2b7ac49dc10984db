"""Every editor that ships, called in each way that Hugging Face offers, and from many threads.

Each way gives the answer of a single call, or is refused in one line.
"""

import asyncio
import copy
import gc
import inspect
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from threading import Barrier, Thread
from types import SimpleNamespace
from weakref import ref

import pytest
import torch
from transformers import CompileConfig, ContinuousBatchingConfig, DynamicCache, TextIteratorStreamer

from helpers.samples import QUESTION
from helpers.shipped import SHIPPED
from liveedit import LiveEditError, Query
from liveedit.data.emblem import Emblem
from liveedit.editable import EditableVLM, embedded
from liveedit.editors import load_editor, new_editor
from liveedit.errors import BadInput
from liveedit.models.calls import CACHE
from liveedit.models.conformance.queries import QUERIES
from liveedit.models.conformance.reference import cut, middle
from liveedit.models.conformance.sample_patches import Nudged
from liveedit.models.patch import Patch
from liveedit.models.tiny import tiny
from liveedit.models.vlm import VLM

FLAGS = [Emblem().drawing("twemoji", f"flag-{country}") for country in ("jp", "br", "fr", "it")]
ASKED = [Query(QUESTION, image=flag) for flag in FLAGS]
COMPILED = CompileConfig(backend="eager", mode=None)
COMPILED._compile_all_devices = (
    True  # as a GPU compiles the calls of a static cache; "eager" needs no C++ compiler
)
pytestmark = pytest.mark.of_every_method("edited")

STATIC = {"cache_implementation": "static", "compile_config": COMPILED}


@pytest.fixture(scope="module", params=SHIPPED)
def edited(request, embedded_vlm, shipped_editor):
    """The embedded model, edited to answer several tokens about the first of the flags."""
    model = EditableVLM(embedded_vlm, shipped_editor(request.param))
    model.edit([Query(QUESTION, "New Zealand", FLAGS[0]), Query(QUESTION, "Norway", FLAGS[1])])
    return model


@pytest.fixture(scope="module")
def alone(edited):
    """The answer to each question, asked by itself."""
    return [edited.generate(asked)[0] for asked in ASKED]


def raw(edited, batch, **options):
    """The answers of the Hugging Face model's own ``generate`` within ``patched``."""
    vlm = edited.vlm
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": vlm.pad_token_id} | options
    tokens = vlm.model.generate(**batch.inputs, **options)
    return [cut(vlm, row) for row in tokens[:, batch.labels.shape[1] :].tolist()]


def within(edited, ask):
    """The result of ``ask`` for the questions encoded within ``patched``, or its refusal."""
    with edited.vlm.patched(edited.patch), torch.no_grad():
        try:
            return ask(edited.vlm.encode(ASKED[:2], padding_side="left"))
        except LiveEditError as error:
            refusal = str(error)
    assert len(refusal.splitlines()) == 1
    return refusal


def refuses_raw_calls(edited):
    """Whether raw calls are refused: RECIPE puts vectors before the text."""
    return type(edited.patch).prefix is not Patch.prefix


def changes_prompts(edited):
    """Whether the prompt changes before or as it is encoded: raw calls of others are refused."""
    return refuses_raw_calls(edited) or type(edited.patch).rewrite is not Patch.rewrite


def assert_answered_or_refused(edited, found, expected):
    """Require the expected answers, or from a method that refuses raw calls the way out."""
    if refuses_raw_calls(edited):
        assert "use VLM.generate" in found
    else:
        assert found == expected


def test_four_threads_ask_what_each_gets_alone(edited, alone):
    unedited = edited.unedited(ASKED)
    start = Barrier(4)

    def ask(number):
        if number < 4:
            start.wait(30)
        place = number % len(ASKED)
        ask = edited.unedited if number % 3 == 0 else edited.generate
        return number % 3 == 0, place, ask(ASKED[place])[0]

    with ThreadPoolExecutor(4) as pool:
        for plain, place, answer in pool.map(ask, range(12)):
            assert answer == (unedited if plain else alone)[place]


@pytest.mark.slow
def test_editors_of_several_threads_do_not_interfere(edited, alone, embedded_vlm):
    """Another editor sets and removes patches, and makes edits, while this one answers."""
    other = EditableVLM(embedded_vlm, load_editor(embedded_vlm, embedded("ft-l")))
    with ThreadPoolExecutor(2) as pool:
        busy = pool.submit(
            lambda: [other.edit(Query(QUESTION, "Peru", flag)) for flag in FLAGS[:2]]
        )
        answers = [edited.generate(asked)[0] for asked in ASKED]
        busy.result()
    assert answers == alone
    assert other.generate(ASKED[1]) == ["Peru"]


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_cache": False},
        {"cache_implementation": "static"},
        STATIC,
        {"num_beams": 2, "max_new_tokens": 6},
        {"num_beams": 2, "use_cache": False, "max_new_tokens": 6},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_raw_generate_answers_rows_together_as_alone(edited, options):
    """Rows together answer as they do alone, and without beams as the VLM does."""
    found = within(edited, lambda batch: raw(edited, batch, **options))
    single = within(
        edited,
        lambda _: [
            raw(edited, edited.vlm.encode([asked], padding_side="left"), **options)[0]
            for asked in ASKED[:2]
        ],
    )
    assert found == single
    if refuses_raw_calls(edited):
        assert "use VLM.generate" in found
    elif "num_beams" not in options:
        assert found == edited.generate(ASKED[:2])


def test_prompt_lookup_changes_no_answer(edited, alone):
    def look_up(_):
        batch = edited.vlm.encode(ASKED[:1], padding_side="left")
        return raw(edited, batch, prompt_lookup_num_tokens=3)

    assert_answered_or_refused(edited, within(edited, look_up), alone[:1])


def test_continuous_batching(edited):
    """It packs several prompts into one row: only patches of weights work, others are refused."""
    vlm = edited.vlm
    asked = [Query("What is the capital of France?"), Query("What is the capital of Japan?")]
    ids = [vlm.encode([query]).inputs["input_ids"][0].tolist() for query in asked]
    small = ContinuousBatchingConfig(
        num_blocks=8, max_batch_tokens=64
    )  # in place of all the memory that is free
    with vlm.patched(edited.patch):
        outputs = vlm.model.generate_batch(
            ids, continuous_batching_config=small, max_new_tokens=6
        ).values()
    if any(output.error for output in outputs):
        assert all("several prompts in one row" in output.error for output in outputs)
        assert "\n" not in "".join(output.error for output in outputs)
    else:
        assert [cut(vlm, output.generated_tokens) for output in outputs] == edited.generate(
            asked, max_new_tokens=6
        )
        assert edited.patch.weights()


def test_sampling_is_that_of_its_seed(edited):
    def sampled(batch):
        torch.manual_seed(0)
        return raw(edited, batch, do_sample=True, top_k=3)

    assert within(edited, sampled) == within(edited, sampled)


def test_sampling_from_the_likeliest_alone_is_greedy(edited, alone):
    found = within(edited, lambda batch: raw(edited, batch, do_sample=True, top_k=1))
    assert_answered_or_refused(edited, found, alone[:2])


def test_an_assistant_changes_no_answer(edited, alone):
    unedited = copy.deepcopy(edited.vlm.model)

    def assisted(_):
        batch = edited.vlm.encode(ASKED[:1], padding_side="left")
        return raw(edited, batch, assistant_model=unedited)

    assert_answered_or_refused(edited, within(edited, assisted), alone[:1])


def test_beams_are_the_same_without_a_cache(edited):
    found = [
        within(
            edited,
            lambda batch, cache=cache: raw(
                edited, batch, num_beams=3, max_new_tokens=5, use_cache=cache
            ),
        )
        for cache in (True, False)
    ]
    assert found[0] == found[1]


def test_a_streamer_in_a_thread_of_its_own(edited, alone):
    vlm = edited.vlm

    def streamed(_):
        batch = vlm.encode(ASKED[:1], padding_side="left")
        streamer = TextIteratorStreamer(
            vlm.tokenizer, skip_prompt=True, timeout=60, skip_special_tokens=True
        )
        options = {
            "max_new_tokens": 8,
            "do_sample": False,
            "pad_token_id": vlm.pad_token_id,
            "streamer": streamer,
        }
        thread = Thread(target=vlm.model.generate, kwargs={**batch.inputs, **options})
        thread.start()
        text = "".join(streamer).strip()
        thread.join()
        return [text]

    if refuses_raw_calls(edited):
        pytest.skip("refused, in a thread whose error nobody sees")
    assert within(edited, streamed) == alone[:1]


def ask_raw(edited, batch, **inputs):
    """The logits of a raw call with token ids that the VLM did not encode."""
    ids = batch.inputs["input_ids"].clone()
    with edited.vlm.patched(edited.patch), torch.no_grad():
        return edited.vlm.model(**batch.inputs | {"input_ids": ids} | inputs).logits


def labelled(batch):
    """Labels as if the last words of the question were the answer."""
    labels = batch.inputs["input_ids"].clone()
    labels[:, :-4] = -100
    return labels


def test_a_method_that_changes_prompts_refuses_labels(edited):
    if not changes_prompts(edited):
        pytest.skip("leaves prompts as they are")
    batch = edited.vlm.encode(ASKED[:1], padding_side="left")
    with pytest.raises(LiveEditError, match=r"before it is encoded|vectors before the text"):
        ask_raw(edited, batch, labels=labelled(batch))


def test_a_call_that_was_interrupted_leaves_nothing(edited, alone):
    """Ctrl-C in a forward pass with labels; then raw calls without, here and in another thread."""
    if changes_prompts(edited):
        pytest.skip("refuses such calls")
    vlm = edited.vlm
    batch = vlm.encode(ASKED[:1], padding_side="left")

    def interrupt(*_):
        raise KeyboardInterrupt

    plain = ask_raw(edited, batch)
    with pytest.raises(KeyboardInterrupt), vlm.layers[-1].register_forward_hook(interrupt):
        ask_raw(edited, batch, labels=labelled(batch))
    assert torch.equal(ask_raw(edited, batch), plain)
    with vlm.patched(edited.patch):
        encoded = vlm.encode(ASKED[:1], padding_side="left")
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(raw, edited, encoded).result() == alone[:1]


def step(vlm, inputs, cache):
    """The next token of each row, greedily."""
    return vlm.model(**inputs, **{CACHE: cache}).logits[:, -1:].argmax(-1)


def written(vlm, tokens, mask, cache, count=4):
    """The tokens that a caller's own loop generates after a cache, the first (B, 1) included."""
    found = [tokens]
    for _ in range(count):
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        found.append(step(vlm, {"input_ids": found[-1], "attention_mask": mask}, cache))
    return torch.cat(found, 1)


def prefill(vlm, batch):
    """The first tokens (B, 1) after a batch, its mask, and the cache to go on with."""
    cache = DynamicCache(config=vlm.model.config.get_text_config())
    return step(vlm, batch.inputs, cache), batch.inputs["attention_mask"], cache


def rows_moved(edited, moves):
    """Tokens generated after a cache whose rows ``moves`` has reordered, and those expected."""

    def ask(batch):
        vlm = edited.vlm
        where = written(vlm, *prefill(vlm, batch))
        tokens, mask, cache = prefill(vlm, batch)
        rows = torch.arange(len(batch))
        for name, given, order in moves:
            getattr(cache, name)(given)
            rows = order(rows)
        return written(vlm, tokens[rows], mask[rows], cache), where[rows]

    return within(edited, ask)


def by(*rows):
    """An index for a method of caches, and the same reordering for other tensors."""
    index = torch.tensor(rows)
    return index, lambda before: before[index]


TWICE = ("batch_repeat_interleave", 2, lambda rows: rows.repeat_interleave(2))
ORDERS = {
    "reordered": [("reorder_cache", *by(1, 0))],
    "one behind both": [("reorder_cache", *by(1, 1))],
    "selected": [("batch_select_indices", *by(1))],
    "selected by a mask": [("batch_select_indices", *by(False, True))],
    "repeated": [TWICE],
    "repeated and selected": [
        TWICE,
        ("batch_select_indices", *by(3, 0, 1)),
        ("reorder_cache", *by(2, 0, 1)),
    ],
}


@pytest.mark.parametrize("moves", ORDERS.values(), ids=ORDERS)
def test_the_state_of_a_row_follows_it(edited, moves):
    """Through all that loops do with the rows of a cache."""
    found = rows_moved(edited, moves)
    if refuses_raw_calls(edited):
        assert "use VLM.generate" in found
    else:
        assert found[0].tolist() == found[1].tolist()


@pytest.mark.parametrize(
    ("name", "settings"),
    [("lemoe", {"batch": 1}), ("wise", {"shard": 1, "merge": 1, "memory": "retrieve"})],
)
def test_experts_and_memories_of_single_edits_follow_their_row(name, settings, embedded_vlm):
    edited = EditableVLM(embedded_vlm, new_editor(embedded_vlm, name, settings))
    edited.edit([Query(QUESTION, "New Zealand", FLAGS[0]), Query("Who wrote Hamlet?", "Norway")])
    asked = [ASKED[0], Query("Who wrote Hamlet?")]
    with embedded_vlm.patched(edited.patch), torch.no_grad():
        batch = embedded_vlm.encode(asked, padding_side="left")
        expected = written(embedded_vlm, *prefill(embedded_vlm, batch))[[1, 0]]
        tokens, mask, cache = prefill(embedded_vlm, batch)
        cache.reorder_cache(torch.tensor([1, 0]))
        found = written(embedded_vlm, tokens[[1, 0]], mask[[1, 0]], cache)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("count", [1, 3])
def test_prompt_tokens_encoded_again_after_a_cropped_cache(edited, count):
    """The answers are the same, in reordered rows, too."""

    def ask(batch):
        vlm = edited.vlm
        ids = batch.inputs["input_ids"]
        first, mask, cache = prefill(vlm, batch)
        expected = written(vlm, first, mask, cache)[[1, 0]]
        first, mask, cache = prefill(vlm, batch)
        cache.reorder_cache(torch.tensor([1, 0]))
        cache.crop(-count)
        ids, mask = ids[[1, 0]], mask[[1, 0]]
        for place in range(ids.shape[1] - count, ids.shape[1]):
            given = {"input_ids": ids[:, place : place + 1], "attention_mask": mask[:, : place + 1]}
            first = step(vlm, given, cache)
        return written(vlm, first, mask, cache), expected

    found = within(edited, ask)
    if refuses_raw_calls(edited):
        assert "use VLM.generate" in found
    else:
        assert found[0].tolist() == found[1].tolist()


def test_other_tokens_after_a_cropped_cache_are_another_prompt(edited):
    def ask(batch):
        _, mask, cache = prefill(edited.vlm, batch)
        cache.crop(-1)
        return step(
            edited.vlm,
            {"input_ids": batch.inputs["input_ids"][:, :1], "attention_mask": mask},
            cache,
        )

    found = within(edited, ask)
    if edited.patch.weights() and not changes_prompts(edited):
        assert found.shape == (2, 1)
    else:
        refused_always = refuses_raw_calls(edited)
        assert ("use VLM.generate" if refused_always else "differ from the prompt") in found


def test_two_interleaved_requests(edited, alone):
    vlm = edited.vlm

    def interleaved(_):
        caches = [DynamicCache(config=vlm.model.config.get_text_config()) for _ in range(2)]
        tokens = [
            [step(vlm, vlm.encode([asked]).inputs, cache)]
            for asked, cache in zip(ASKED, caches, strict=False)
        ]
        for _ in range(6):
            for own, cache in zip(tokens, caches, strict=True):
                own.append(step(vlm, {"input_ids": own[-1]}, cache))
        return [cut(vlm, torch.cat(own, 1)[0].tolist()) for own in tokens]

    found = within(edited, interleaved)
    assert_answered_or_refused(edited, found, alone[:2])


def test_raw_calls_of_what_was_encoded_elsewhere(edited, alone):
    batch = edited.vlm.encode(ASKED[:1], padding_side="left")
    found = within(edited, lambda _: raw(edited, batch))
    if changes_prompts(edited):
        assert "use VLM.generate" in found
    else:
        assert found == alone[:1]


def test_a_raw_call_is_not_patched_by_another_thread(edited):
    """That thread holds the patch, as ``EditableVLM.generate`` does."""
    vlm = edited.vlm
    batch = vlm.encode(ASKED[:1], padding_side="left")
    plain = raw(edited, batch)
    with ThreadPoolExecutor(1) as other, vlm.unpatched(), vlm.patched(edited.patch):
        assert other.submit(raw, edited, batch).result() == plain


def test_which_edits_fired_comes_back_with_each_answer(edited):
    with edited.vlm.patched(edited.patch):
        both = edited.vlm.answers(ASKED[:2])
        single = [edited.vlm.answers([asked])[0] for asked in ASKED[:2]]
    assert [[edit for edit, _ in reply.fired] for reply in both] == [
        [edit for edit, _ in reply.fired] for reply in single
    ]


def test_a_patch_is_the_same_before_and_after_its_use(edited):
    def contents(value):
        return {name: id(held) for name, held in vars(value).items()}

    before = contents(edited.patch)
    edited.generate(ASKED)
    assert contents(edited.patch) == before


def test_copies_answer_alike(edited, alone):
    copied = copy.deepcopy(edited)
    assert copied.generate(ASKED[:2]) == alone[:2]
    if edited.editor.name == "ke":
        with pytest.raises(LiveEditError, match="cannot be pickled"):
            pickle.dumps(edited)
    else:
        assert pickle.loads(pickle.dumps(edited)).generate(ASKED[:2]) == alone[:2]
    copied.edit(Query(QUESTION, "Peru", FLAGS[2]))
    assert len(edited.patch) == 2


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize("family", ["llava", "gemma3", "emu3", "hunyuan_vl", "unlimited_ocr"])
def test_copies_of_a_checkpoint_that_has_answered_do_too(family, tmp_path):
    """Hooks and methods that transformers and the family have set on the model do not matter."""
    vlm = tiny(family)
    if family != "unlimited_ocr":  # whose own tiny checkpoint needs torchvision to be read
        vlm.model.save_pretrained(tmp_path)
        vlm.processor.save_pretrained(tmp_path)
        vlm = VLM.load(tmp_path)
    model = EditableVLM(vlm, new_editor(vlm, "grace"))
    answer = model.generate(ASKED[0])
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert copied.generate(ASKED[0]) == answer
        assert not any(
            module is own
            for module, own in zip(copied.vlm.model.modules(), vlm.model.modules(), strict=True)
        )
    assert model.generate(ASKED[0]) == answer


def test_two_wrappers_of_one_model_share_its_patches(edited, alone, embedded_vlm):
    twin = VLM(embedded_vlm.model, embedded_vlm.processor)
    other = EditableVLM(twin, load_editor(twin, embedded("ft-l")))
    other.edit(Query(QUESTION, "Peru", FLAGS[0]))
    with edited.vlm.patched(edited.patch):
        assert other.generate(ASKED[0]) == ["Peru"]
        assert other.unedited(ASKED) == edited.unedited(ASKED)
        other.edit(Query(QUESTION, "Kenya", FLAGS[3]))
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(model.generate, ASKED[0]) for model in (edited, other) * 3]
        assert [answer.result() for answer in asked] == [alone[:1], ["Peru"]] * 3


@pytest.mark.parametrize("outer", ["itself", "ft-l"])
def test_an_inner_patch_is_made_of_the_model_s_own_weights(edited, alone, outer, embedded_vlm):
    other = edited
    if outer != "itself":
        other = EditableVLM(embedded_vlm, load_editor(embedded_vlm, embedded(outer)))
        other.edit(Query(QUESTION, "Peru", FLAGS[0]))
    with edited.vlm.patched(other.patch):
        assert edited.generate(ASKED[0]) == alone[:1]
        with edited.vlm.patched(edited.patch):
            edited.vlm.generate(ASKED[:1])
        again = load_editor(embedded_vlm, embedded(edited.editor.name))
    assert again.fingerprint == edited.editor.fingerprint


def test_a_cache_is_freed_with_its_answer(edited, monkeypatch):
    caches = []
    original = DynamicCache.__init__

    def noted(cache, *args, **kwargs):
        original(cache, *args, **kwargs)
        caches.append(ref(cache))

    monkeypatch.setattr(DynamicCache, "__init__", noted)
    gc.collect()
    gc.disable()
    try:
        edited.generate(ASKED[:2])
        assert caches
        assert not any(cache() for cache in caches)
    finally:
        gc.enable()


def test_a_patched_model_is_not_copied(edited):
    with edited.vlm.patched(edited.patch), pytest.raises(LiveEditError, match="leave `patched`"):
        copy.deepcopy(edited)


def test_the_tokens_of_an_answer_do_not_change_the_routing(edited):
    """Teacher forcing any text routes as generation does."""
    vlm = edited.vlm
    with vlm.patched(edited.patch), torch.no_grad():
        fired = [[edit for edit, _ in reply.fired] for reply in vlm.answers(ASKED[:2])]
        for text in ("", "Norway", "What is the country with this flag? a long and winding road"):
            batch = vlm.encode([replace(asked, target=text) for asked in ASKED[:2]])
            vlm.logits(batch)
            assert [[edit for edit, _ in row] for row in batch.fired_by(edited.patch)] == fired


@pytest.mark.parametrize("known_by", ["encoding", "labels"])
def test_raw_calls_route_by_the_prompt_whatever_answer_follows(edited, known_by):
    """Labels, or the VLM's own encoding of the tokens, say where the answer begins."""

    def loss(_):
        batch = edited.vlm.encode(
            [replace(ASKED[0], target="Norway"), replace(ASKED[1], target="New Zealand")]
        )
        inputs = batch.inputs
        if known_by == "labels":
            ids = batch.inputs["input_ids"].clone()
            inputs = batch.inputs | {"input_ids": ids, "labels": batch.labels}
        return edited.vlm.model(**inputs).logits, edited.vlm.logits(batch)

    found = within(edited, loss)
    refuses = changes_prompts if known_by == "labels" else refuses_raw_calls
    if refuses(edited):
        assert "use VLM.generate" in found
    else:
        assert torch.equal(*found)


def test_labels_that_leave_no_prompt_are_ignored(embedded_vlm):
    """As in training on whole texts, where the question is labelled, too."""
    model = EditableVLM(embedded_vlm, load_editor(embedded_vlm, embedded("pinpoint")))
    model.edit(Query(QUESTION, "Norway", FLAGS[0]))
    batch = embedded_vlm.encode(ASKED[:1])
    given = batch.inputs | {"input_ids": batch.inputs["input_ids"].clone()}
    with embedded_vlm.patched(model.patch), torch.no_grad():
        whole = embedded_vlm.model(**given, labels=given["input_ids"]).logits
        assert torch.equal(whole, embedded_vlm.logits(batch))


def asking(vlm, patch):
    """A generator that holds `patched` open and answers each time it is resumed."""
    with vlm.patched(patch):
        while True:
            yield vlm.generate(ASKED[:1])


@pytest.fixture(scope="module")
def two(embedded_vlm):
    """Two patches, whose answers to the first question are Canada and Peru."""
    patches = []
    for name, target in (("grace", "Canada"), ("ft-l", "Peru")):
        model = EditableVLM(embedded_vlm, load_editor(embedded_vlm, name))
        model.edit(Query(QUESTION, target, FLAGS[0]))
        patches.append(model.patch)
    return patches


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("first", [0, 1])
def test_generators_side_by_side_take_off_their_own_patch(first, elsewhere, embedded_vlm, two):
    """They may end in any order, and run in contexts of their own."""
    vlm = embedded_vlm
    plain = vlm.generate(ASKED[:1])

    def run(function, *args):
        return copy_context().run(function, *args) if elsewhere else function(*args)

    both = [asking(vlm, patch) for patch in two]
    for each in both:
        run(next, each)
    run(both[first].close)
    assert [scope.patch for scope in vlm.attachment.open] == [two[1 - first]]
    if not elsewhere:
        assert next(both[1 - first]) == [["Canada"], ["Peru"]][1 - first]
    run(both[1 - first].close)
    assert vlm.patches == []
    assert vlm.generate(ASKED[:1]) == plain
    assert not vlm.attachment.open
    assert not vlm.attachment.users
    with vlm.patched(two[0]):
        assert vlm.generate(ASKED[:1]) == ["Canada"]
    assert vlm.generate(ASKED[:1]) == plain


def test_a_task_that_outlives_a_patch_is_without_it(embedded_vlm, two):
    """Patches that another task sets within the block do not change its own."""
    vlm = embedded_vlm
    plain = vlm.generate(ASKED[:1])

    async def ask(patch, left, go):
        with vlm.patched(patch):
            inside = vlm.generate(ASKED[:1])
            left.set()
            await go.wait()
        return inside, vlm.patches, vlm.generate(ASKED[:1])

    async def all_of_them():
        left, go = asyncio.Event(), asyncio.Event()
        with vlm.patched(two[0]):
            task = asyncio.create_task(ask(two[1], left, go))
            await left.wait()
            assert vlm.generate(ASKED[:1]) == ["Canada"]
        assert vlm.generate(ASKED[:1]) == plain
        go.set()
        return await task

    inside, patches, after = asyncio.run(all_of_them())
    assert (patches, after) == ([], plain)
    assert inside != plain
    assert not vlm.attachment.users


def test_within_unpatched_raw_calls_ignore_patches_of_other_threads(embedded_vlm, two):
    """Also while another patch is set within the block, and after it."""
    vlm = embedded_vlm
    plain = vlm.generate(ASKED[:1])
    batch = vlm.encode(ASKED[:1], padding_side="left")
    other = asking(vlm, two[0])
    copy_context().run(next, other)
    edited = SimpleNamespace(vlm=vlm)
    assert raw(edited, batch) == ["Canada"]
    with vlm.unpatched():
        with vlm.patched(two[1]):
            assert raw(edited, batch) == ["Peru"]
        assert raw(edited, batch) == plain
    copy_context().run(other.close)


def test_a_raw_call_from_elsewhere_is_refused_while_two_have_patches_on(embedded_vlm, two):
    batch = embedded_vlm.encode(ASKED[:1], padding_side="left")
    held = [asking(embedded_vlm, patch) for patch in two]
    for one in held:
        copy_context().run(next, one)
    with pytest.raises(LiveEditError, match="several threads have patched this model"):
        raw(SimpleNamespace(vlm=embedded_vlm), batch)
    held[1].close()
    assert raw(SimpleNamespace(vlm=embedded_vlm), batch) == ["Canada"]
    held[0].close()


def test_of_two_values_of_one_parameter_the_inner_holds(embedded_vlm):
    plain = embedded_vlm.generate(ASKED[:1])
    patches = []
    for target in ("Canada", "Peru"):
        model = EditableVLM(embedded_vlm, load_editor(embedded_vlm, "ft-l"))
        model.edit(Query(QUESTION, target, FLAGS[0]))
        patches.append(model.patch)
    for outer, inner, answer in ((*patches, "Peru"), (*reversed(patches), "Canada")):
        with embedded_vlm.patched(outer), embedded_vlm.patched(inner):
            assert embedded_vlm.generate(ASKED[:1]) == [answer]
    assert embedded_vlm.generate(ASKED[:1]) == plain


def test_the_patched_model_does_not_assist_itself(embedded_vlm, two):
    """A copy of it may be the assistant, and does not change the answer."""
    edited = SimpleNamespace(vlm=embedded_vlm)
    copied = copy.deepcopy(embedded_vlm.model)
    batch = embedded_vlm.encode(ASKED[:1], padding_side="left")
    with embedded_vlm.patched(two[0]), torch.no_grad():
        assert raw(edited, batch, assistant_model=copied) == ["Canada"]
        with pytest.raises(
            LiveEditError,
            match=r"^assistant_model is the patched model itself: pass .* a copy",
        ):
            raw(edited, batch, assistant_model=embedded_vlm.model)


@pytest.mark.parametrize(
    "family", ["chameleon", "llama4", "llava", "blip2", "minigpt4", "mplug_owl2"]
)
def test_arguments_may_come_by_place(family):
    vlm = tiny(family)
    inputs = vlm.encode(QUERIES[:1]).inputs
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": vlm.pad_token_id}
    for verb, more in (("forward", {}), ("generate", options)):
        first = next(iter(inspect.signature(getattr(vlm.model, verb)).parameters))
        place = "input_ids" if first == "inputs" else first
        rest = {name: value for name, value in inputs.items() if name != place} | more
        with vlm.patched(Nudged(middle(vlm), 0.5)), torch.no_grad():
            call = vlm.model if verb == "forward" else vlm.model.generate
            named = call(**inputs, **more)
            placed = call(inputs[place], **rest)
        if verb == "forward":
            named, placed = named.logits, placed.logits
        assert torch.equal(named, placed)


@pytest.fixture
def fresh_compiler():
    """Forget the functions that other tests have compiled: torch limits their number."""
    torch._dynamo.reset()


def compiled_call(model):
    model.compile(backend="eager")


def compiled_forward(model):
    model.forward = torch.compile(model.forward, backend="eager")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiled", "options"),
    [(None, STATIC), (compiled_call, {}), (compiled_forward, {}), (compiled_forward, STATIC)],
    ids=["static cache", "compiled call", "compiled forward", "both"],
)
def test_a_compiled_model_answers_with_the_edits_that_are_set(
    compiled, options, embedded_vlm, fresh_compiler
):
    """Compiled code would not see hooks that are set later."""
    vlm = copy.deepcopy(embedded_vlm)
    one, other = (
        EditableVLM(vlm, load_editor(vlm, embedded(name))) for name in ("pinpoint", "ft-l")
    )
    one.edit(Query(QUESTION, "New Zealand", FLAGS[0]))
    other.edit(Query(QUESTION, "Peru", FLAGS[1]))
    changed = {edited: edited.generate(ASKED[:2]) for edited in (one, other)}
    unedited = one.unedited(ASKED[:2])
    if compiled:
        compiled(vlm.model)

    def ask(batch):
        return raw(one, batch, **options)

    for edited in (one, other, one):
        assert (
            ask(vlm.encode(ASKED[:2], padding_side="left"))
            == unedited
            == edited.unedited(ASKED[:2])
        )
        assert within(edited, ask) == changed[edited] == edited.generate(ASKED[:2])


@pytest.mark.slow
def test_a_copy_of_a_compiled_model_answers_by_its_own_edits(model, fresh_compiler):
    ask = partial(raw, **STATIC)
    encoded = model.vlm.encode(ASKED[:1], padding_side="left")
    unedited = ask(model, encoded)
    copied = copy.deepcopy(model)
    copied.edit(Query(QUESTION, "New Zealand", FLAGS[0]))
    assert within(copied, lambda batch: ask(copied, batch)) == copied.generate(ASKED[:2])
    assert ask(model, encoded) == unedited == ask(pickle.loads(pickle.dumps(model)), encoded)


def test_a_model_whose_forward_is_compiled_says_why_it_is_not_copied(model):
    vlm = copy.deepcopy(model.vlm)
    compiled_forward(vlm.model)
    with pytest.raises(BadInput, match="whose `forward` is compiled cannot be copied"):
        copy.deepcopy(vlm)


def test_compilation_is_back_once_no_model_is_patched(model, fresh_compiler):
    made = []

    def backend(graph, _):
        made.append(graph)
        return graph.forward

    doubled = torch.compile(lambda x: x + x, backend=backend)
    with model.vlm.patched(model.patch):
        with model.vlm.patched(model.patch):
            pass
        assert doubled(torch.ones(1)) == 2
        assert not made
    assert doubled(torch.ones(1)) == 2
    assert len(made) == 1


def test_generating_within_a_compiled_function_is_refused(model, fresh_compiler):
    ask = torch.compile(lambda: model.generate(ASKED[0]), backend="eager")
    with pytest.raises(BadInput, match="within a compiled function: compile the model itself"):
        ask()
