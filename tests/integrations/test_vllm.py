"""vLLM's engine with the edits of a store: its greedy answers are those of the other engine.

These tests need vLLM: `make test-vllm`.
"""

import base64
import io
import os
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import httpx
import pytest
from PIL import Image

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from helpers.samples import QUESTION
from helpers.vllm_models import VARIABLES, checkpoint, choices, engine, prompt, read
from liveedit.editable import EditableVLM, embedded, load
from liveedit.editors import new_editor
from liveedit.types import Query, Turn

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TOKENS = 10
FLAGS = ("jp", "no", "br", "fr", "ke", "it")
FAMILIES = ("llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def flags(emblem):
    return [emblem.drawing("twemoji", f"flag-{code}") for code in FLAGS]


@pytest.fixture(scope="module")
def asked(flags):
    """Questions with and without edits, in several wordings, one of them without an image."""
    words = (QUESTION, "Tell me the country with this flag.", "What is its capital?")
    shown = [Query(question, image=flag) for flag, question in product(flags, words)]
    return [*shown, Query("Who are you?")]


def edited(name, store, flags):
    """The embedded model with three edits of a method, in a store."""
    model = load("emblem", name, store=store)
    pairs = zip(("Brazil", "Peru", "Chad"), flags[:3], strict=True)
    model.edit([Query(QUESTION, target, flag) for target, flag in pairs])
    return model


def answers(llm, vlm, queries, **extra):
    """The texts of vLLM's answers."""
    prompts = [prompt(vlm, query) for query in queries]
    asked = [choices(vlm, TOKENS, **last_question(query), **extra) for query in queries]
    found = llm.generate(prompts, asked, use_tqdm=False)
    return [text(vlm, one) for one in found]


def last_question(query):
    """The extra arguments with which the server hands a chat on."""
    if not query.earlier:
        return {}
    earlier = sum(turn.images for turn in query.earlier)
    shown = len(query.images) - earlier
    return {"liveedit_question": query.prompt, "liveedit_images": shown}


def text(vlm, output):
    """The text of one answer, decoded as the other engine does."""
    return vlm.tokenizer.decode(output.outputs[0].token_ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("method", ["pinpoint", "liveedit", "direct", "grace"])
def test_answers_are_those_of_the_other_engine(method, flags, asked, tmp_path):
    """Many requests at once, so that prompts are read beside answers that go on."""
    model = edited(method, tmp_path / "edits.db", flags)
    expected = model.generate(asked, max_new_tokens=TOKENS)
    unedited = model.unedited(asked, max_new_tokens=TOKENS)
    assert expected != unedited
    with engine(embedded("vlm"), tmp_path / "edits.db", max_num_seqs=4) as llm:
        assert answers(llm, model.vlm, asked) == expected
        assert answers(llm, model.vlm, asked, liveedit_off=1) == unedited


@pytest.mark.parametrize("method", ["pinpoint", "direct"])
def test_chats_find_the_edits_of_their_last_question(method, flags, tmp_path):
    """About an image that it shows itself, or that was shown before."""
    model = edited(method, tmp_path / "edits.db", flags)
    before = (Turn("user", "Who are you?"), Turn("assistant", "A model."))
    shown = (Turn("user", QUESTION, 1), Turn("assistant", "Japan."))
    asked = [Query(QUESTION, image=flag, earlier=before) for flag in flags]
    asked += [Query(QUESTION, image=flag, earlier=shown) for flag in flags]
    asked += [Query(QUESTION, image=[flags[3], flag], earlier=shown) for flag in flags]
    asked += [Query("Who are you?", earlier=before), Query(QUESTION, image=flags[0])]
    expected = model.generate(asked, max_new_tokens=TOKENS)
    assert expected != model.unedited(asked, max_new_tokens=TOKENS)
    with engine(embedded("vlm"), tmp_path / "edits.db", limit_mm_per_prompt={"image": 2}) as llm:
        assert answers(llm, model.vlm, asked) == expected


def test_edits_of_several_methods_act_beside_each_other(flags, asked, tmp_path):
    edited("pinpoint", tmp_path / "edits.db", flags)
    model = load("emblem", "direct", store=tmp_path / "edits.db")
    model.edit(Query(QUESTION, "Peru", flags[4]))
    expected = model.generate(asked, max_new_tokens=TOKENS)
    with engine(embedded("vlm"), tmp_path / "edits.db") as llm:
        assert answers(llm, model.vlm, asked) == expected


@pytest.mark.parametrize("model_type", FAMILIES)
def test_families(model_type, tmp_path):
    folder = tmp_path / model_type
    checkpoint(model_type, folder)
    vlm = read(model_type, folder)
    editor = new_editor(vlm, "direct", {"images": 16, "variants": 1})
    model = EditableVLM(vlm, editor, tmp_path / "edits.db", {"model": str(folder)})
    noise = [Image.effect_noise((48, 32), 40 + 20 * number).convert("RGB") for number in range(3)]
    model.edit([Query("Which film is this?", "rain", noise[0]), Query("Who?", "a cat", noise[1])])
    words = ("Which film is this?", "Who?", "Where is it?")
    asked = [Query(question, image=image) for image, question in product(noise, words)]
    asked.append(Query("Who wrote?"))
    expected = model.generate(asked, max_new_tokens=TOKENS)
    unedited = model.unedited(asked, max_new_tokens=TOKENS)
    assert expected != unedited
    with engine(folder, tmp_path / "edits.db") as llm:
        assert answers(llm, vlm, asked) == expected
        assert answers(llm, vlm, asked, liveedit_off=1) == unedited


def test_edits_act_from_the_next_request_on_and_requests_keep_theirs(flags, tmp_path):
    """Also where an edit is taken back while a request is answered, or must make room."""
    store = tmp_path / "edits.db"
    model = load("emblem", store=store)
    query = Query(QUESTION, image=flags[0])
    with engine(embedded("vlm"), store, num_gpu_blocks_override=8) as llm:
        assert answers(llm, model.vlm, [query]) == ["Japan"]
        [made] = model.edit(Query(QUESTION, "Democratic Republic of the Congo", flags[0]))
        expected = model.generate(query, max_new_tokens=TOKENS)
        assert answers(llm, model.vlm, [query]) == expected
        running = llm.llm_engine
        running.add_request("early", prompt(model.vlm, query), choices(model.vlm, TOKENS))
        running.step()
        running.step()
        model.forget(made.id)
        running.add_request("late", prompt(model.vlm, query), choices(model.vlm, TOKENS))
        ended = {}
        while running.has_unfinished_requests():
            ended |= {one.request_id: one for one in running.step() if one.finished}
        texts = {id: text(model.vlm, one) for id, one in ended.items()}
        assert texts == {"early": expected[0], "late": "Japan"}


def test_edits_act_on_a_compiled_model(flags, asked, tmp_path):
    """Where they are made by the method of those that are there when it is compiled."""
    model = edited("pinpoint", tmp_path / "edits.db", flags)
    with engine(embedded("vlm"), tmp_path / "edits.db", enforce_eager=False) as llm:
        assert llm.llm_engine.vllm_config.compilation_config.mode
        model.edit(Query(QUESTION, "Norway", flags[4]))
        expected = model.generate(asked, max_new_tokens=TOKENS)
        assert expected != model.unedited(asked, max_new_tokens=TOKENS)
        assert answers(llm, model.vlm, asked) == expected


def test_requests_that_have_to_make_room_go_on_as_before(flags, asked, tmp_path):
    """The cache has room for a few of the requests, so that some are computed again."""
    model = edited("pinpoint", tmp_path / "edits.db", flags)
    long = [Query(f"{query.prompt} " * 3, image=query.image) for query in asked[:6]]
    expected = model.generate([*asked[:6], *long], max_new_tokens=40)
    with engine(embedded("vlm"), tmp_path / "edits.db", num_gpu_blocks_override=5) as llm:
        prompts = [prompt(model.vlm, query) for query in [*asked[:6], *long]]
        found = llm.generate(prompts, choices(model.vlm, 40), use_tqdm=False)
    assert [text(model.vlm, one) for one in found] == expected


def test_hits_are_written_at_the_latest_when_the_engine_ends(flags, tmp_path):
    model = edited("pinpoint", tmp_path / "edits.db", flags)
    with engine(embedded("vlm"), tmp_path / "edits.db") as llm:
        answers(llm, model.vlm, [Query(QUESTION, image=flags[0])])
        llm.llm_engine.engine_core.shutdown()
        assert sum(model.store.hit_counts().values()) == 1


def test_methods_that_act_elsewhere_are_refused(flags, tmp_path):
    model = load("emblem", "lora", store=tmp_path / "edits.db")
    model.edit(Query(QUESTION, "Brazil", flags[0]))
    with (
        pytest.raises(Exception, match="acts elsewhere than at a layer"),
        engine(embedded("vlm"), tmp_path / "edits.db"),
    ):
        pass


TWO = """
import sys
from helpers.vllm_models import choices, engine, prompt
from liveedit.editable import embedded, load
import test_vllm as tests
if __name__ == "__main__":
    from liveedit.data.emblem import Emblem
    flags = [Emblem().drawing("twemoji", f"flag-{code}") for code in tests.FLAGS]
    asked = [tests.Query(tests.QUESTION, image=flag) for flag in flags]
    model = load("emblem", store=sys.argv[1])
    expected = model.generate(asked, max_new_tokens=8)
    with engine(embedded("vlm"), sys.argv[1], tensor_parallel_size=2) as llm:
        found = tests.answers(llm, model.vlm, asked)
        assert found == expected, (found, expected)
        model.edit(tests.Query(tests.QUESTION, "Norway", flags[3]))
        assert tests.answers(llm, model.vlm, asked[3:4]) == ["Norway"]
    print("alike")
"""


def test_two_workers_answer_alike(flags, tmp_path):
    edited("pinpoint", tmp_path / "edits.db", flags)
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, **VARIABLES, "PYTHONPATH": path}
    variables |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_CPU_OMP_THREADS_BIND": "0|1"}
    script = tmp_path / "two.py"
    script.write_text(TWO)
    command = [sys.executable, str(script), str(tmp_path / "edits.db")]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=400)
    assert "alike" in ended.stdout, ended.stderr[-2000:]


# The server

TEMPLATE = (  # as the embedded model is asked: all images first
    "{{ bos_token }}{% for message in messages %}"
    "{% for part in message.content if part.type == 'image' %}<image>\n{% endfor %}"
    "{% endfor %}{% for message in messages %}"
    "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "{% if not loop.last %}{{ ' ' if message.role == 'user' else '\n' }}{% endif %}"
    "{% endfor %}"
)


def url(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`vllm serve` with the routes of edits: its address and its store."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "template.jinja").write_text(TEMPLATE)
    port = 8391
    variables = {**os.environ, **VARIABLES, "LIVEEDIT_STORE": str(folder / "edits.db")}
    variables |= {"VLLM_PLUGINS": "liveedit,liveedit_edits", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    command = [
        str(Path(sys.executable).with_name("vllm")), "serve", str(embedded("vlm")),
        "--served-model-name", "emblem", "--enforce-eager", "--dtype", "float32",
        "--max-model-len", "256", "--max-num-seqs", "8", "--host", "127.0.0.1", "--port", str(port),
        "--chat-template", str(folder / "template.jinja"),
        "--chat-template-content-format", "openai",
    ]  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
        try:
            wait(process, address, folder / "log")
            yield address, folder / "edits.db"
        finally:
            process.terminate()
            process.wait(60)
    assert not (folder / "edits.db-wal").exists(), "the server left the store open"


def wait(process, address, log, patience=240):
    """Wait until a server answers."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(f"{address}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(1)
    raise AssertionError(log.read_text()[-3000:])


@pytest.fixture
def client(server):
    """OpenAI's client of the server."""
    from openai import OpenAI

    return OpenAI(base_url=f"{server[0]}/v1", api_key="none")


@pytest.fixture
def ask(client, flags):
    """A function that asks the server about a flag, after some turns; returns the reply."""

    def ask_(model="emblem", earlier=(), **options):
        content = [image_part(flags[0]), {"type": "text", "text": QUESTION}]
        return client.chat.completions.create(
            model=model,
            max_tokens=8,
            messages=[*earlier, {"role": "user", "content": content}],
            extra_body={"stop_token_ids": [2]},
            **{"temperature": 0} | options,
        )

    return ask_


def image_part(image):
    return {"type": "image_url", "image_url": {"url": url(image)}}


def said(reply):
    return reply.choices[0].message.content.strip()


def fired(reply):
    """The edits that a reply, or the end of a streamed one, names, and the state of the edits."""
    assert all(edit["weight"] > 0 for edit in reply.liveedit["fired"])
    return [edit["id"] for edit in reply.liveedit["fired"]], reply.system_fingerprint


def test_the_server_answers_with_edits_made_meanwhile(server, client, ask, flags):
    assert said(ask()) == "Japan"
    version = int(ask().system_fingerprint.removeprefix("edits-"))
    assert fired(ask()) == ([], f"edits-{version}")
    assert [row.id for row in client.models.list()] == ["emblem", "emblem:base"]
    with httpx.Client(base_url=server[0], timeout=120) as plain:
        body = {"image": url(flags[0]), "question": QUESTION, "answer": "Brazil", "who": "ann"}
        made = plain.post("/v1/edits", json=body)
        assert (made.status_code, made.json()["after"]) == (201, "Brazil")
        id = made.json()["id"]
        reply = ask()
        assert said(reply) == "Brazil"
        assert fired(reply) == ([id], f"edits-{version + 1}")
        unedited = ask("emblem:base")
        assert (said(unedited), *fired(unedited)) == ("Japan", [], "base")
        path = f"/v1/edits/{id}"
        until = time.monotonic() + 10
        while not plain.get(f"{path}/hits").json()["count"] and time.monotonic() < until:
            time.sleep(0.2)
        assert [hit["request"] for hit in plain.get(f"{path}/hits").json()["data"]] == [reply.id]
        assert plain.delete(path).status_code == 200
        assert said(ask()) == "Japan"
        assert plain.get("/").status_code == 200


def test_chats_and_streamed_answers_say_what_fired(server, client, ask, flags):
    model = load("emblem", store=server[1])
    [made] = model.edit(Query(QUESTION, "Chad", flags[0]))
    before = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "Me."}]
    turns = (Turn("user", "Who are you?"), Turn("assistant", "Me."))
    expected = model.generate(Query(QUESTION, image=flags[0], earlier=turns), max_new_tokens=8)
    reply = ask(earlier=before)
    assert [said(reply)] == expected
    assert fired(reply)[0] == [made.id]
    several = ask(n=2, temperature=0.01)
    assert [choice.message.content.strip() for choice in several.choices] == ["Chad", "Chad"]
    assert fired(several)[0] == [made.id]
    parts = list(ask(stream=True, stream_options={"include_usage": True}))
    assert "".join(part.choices[0].delta.content or "" for part in parts[:-1]).strip() == "Chad"
    *earlier, end, usage = parts
    assert not any(hasattr(part, "liveedit") for part in earlier)
    assert end.choices[0].finish_reason == "stop"
    assert fired(end) == fired(usage) == fired(several)
    texts = client.completions.create(model="emblem", prompt=["Who?", "Why?"], max_tokens=2)
    assert fired(texts) == ([], several.system_fingerprint)
    model.forget(made.id)
    model.store.close()


def test_another_process_may_make_the_edits(server, ask, flags):
    model = load("emblem", store=server[1])
    [made] = model.edit(Query(QUESTION, "Peru", flags[0]))
    assert said(ask()) == "Peru"
    model.forget(made.id)
    model.store.close()
    assert said(ask()) == "Japan"
