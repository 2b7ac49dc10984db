"""Questions as OpenAI's official client asks them."""

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from helpers.serving import FLAG, data_url, metric, question, until
from liveedit.types import Query, Turn


def ask(client, messages, **options):
    return client.chat.completions.create(
        **{"model": "emblem", "messages": messages, "max_tokens": 16} | options
    )


def said(answer):
    return answer.choices[0].message.content


def parts(stream):
    return [chunk for chunk in stream if chunk.choices]


def joined(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in parts(stream))


@pytest.fixture(scope="module")
def flags(emblem):
    """Drawings of flags."""
    return [emblem.drawing("twemoji", f"flag-{code}") for code in ("jp", "no", "br", "fr", "ke")]


def test_answers_are_those_of_the_model(client, model, flags, edit):
    queries = [Query(FLAG, image=flag) for flag in flags]
    wanted = model.generate(queries)
    assert wanted[0] == "Atlantis"
    for flag, answer, unedited in zip(flags, wanted, model.unedited(queries), strict=True):
        messages = question(FLAG, data_url(flag))
        assert said(ask(client, messages)) == answer
        assert joined(ask(client, messages, stream=True)) == answer
        assert said(ask(client, messages, model="emblem:base")) == unedited


def test_an_answer_names_the_edits_that_fired_and_the_version(client, url, edit, model):
    answer = ask(client, question(FLAG, url))
    [fired] = answer.liveedit["fired"]
    assert fired["id"] == edit["id"]
    assert 0.5 < fired["weight"] <= 1
    assert answer.system_fingerprint == f"edits-{model.store.version}"
    base = ask(client, question(FLAG, url), model="emblem:base")
    assert base.system_fingerprint == "base"
    assert base.liveedit == {"fired": []}


def test_tokens_are_counted(client, model, flag, url):
    answer = ask(client, question(FLAG, url))
    query = Query(FLAG, said(answer), flag)
    [span] = model.vlm.encode([query], eos=True).spans
    assert answer.usage.prompt_tokens == span.prompt[1]
    assert answer.usage.completion_tokens == span.answer[1] - span.answer[0]
    assert answer.usage.total_tokens == span.stop


def test_a_stream_ends_with_what_fired_and_with_usage_where_wanted(client, url, edit):
    messages = question(FLAG, url)
    whole = ask(client, messages)
    *said_parts, last = parts(ask(client, messages, stream=True))
    assert said_parts[0].choices[0].delta.role == "assistant"
    assert len(said_parts) > 1
    assert last.choices[0].finish_reason == "stop"
    assert last.liveedit == whole.liveedit
    *_, counted = ask(client, messages, stream=True, stream_options={"include_usage": True})
    assert counted.usage == whole.usage


def test_an_answer_stops_where_it_should(client, url, edit):
    messages = question(FLAG, url)
    stopped = ask(client, messages, stop=["lant", "x"])
    assert said(stopped) == "At"
    assert stopped.choices[0].finish_reason == "stop"
    assert joined(ask(client, messages, stop=["lant", "x"], stream=True)) == "At"
    short = ask(client, messages, max_tokens=2)
    assert short.choices[0].finish_reason == "length"
    assert short.usage.completion_tokens == 2
    assert "Atlantis".startswith(said(short))
    assert said(ask(client, messages, max_tokens=None, max_completion_tokens=2)) == said(short)


def test_a_seed_makes_draws_repeatable(client, url):
    options = {"temperature": 2, "max_tokens": 12}
    drawn = [said(ask(client, question(FLAG, url), seed=seed, **options)) for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    certain = ask(client, question(FLAG, url), temperature=2, top_p=1e-6)
    assert said(certain) == said(ask(client, question(FLAG, url)))


def test_a_chat_of_several_turns_is_one_question(client, model, flag, url, edit):
    messages = [
        {"role": "system", "content": "Answer shortly."},
        *question("Hello", url),
        {"role": "assistant", "content": "Hello."},
        *question(FLAG),
    ]
    earlier = (
        Turn("system", "Answer shortly."),
        Turn("user", "Hello", images=1),
        Turn("assistant", "Hello."),
    )
    query = Query(FLAG, image=flag, earlier=earlier)
    assert said(ask(client, messages)) == model.generate(query)[0]


def test_questions_asked_at_once_are_answered_together_as_alone(client, model, flags, served):
    before = metric(served[0], "liveedit_batch_size_count")
    asked = [data_url(flag) for flag in flags] * 4
    with ThreadPoolExecutor(len(asked)) as threads:
        answers = list(threads.map(lambda url: said(ask(client, question(FLAG, url))), asked))
    assert answers == model.generate([Query(FLAG, image=flag) for flag in flags] * 4)
    assert metric(served[0], "liveedit_batch_size_count") - before < len(asked)


def test_completions_answer_questions_without_images(client, model):
    prompts = ["What is the capital of Japan?", "What is the capital of Norway?"]
    wanted = model.generate([Query(prompt) for prompt in prompts])
    one = client.completions.create(model="emblem", prompt=prompts[0])
    assert one.choices[0].text == wanted[0]
    both = client.completions.create(model="emblem", prompt=prompts)
    assert [choice.text for choice in both.choices] == wanted
    stream = client.completions.create(model="emblem", prompt=prompts[0], stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == wanted[0]


def test_models_are_the_edited_and_the_unedited(client):
    assert [model.id for model in client.models.list()] == ["emblem", "emblem:base"]
    assert client.models.retrieve("emblem:base").id == "emblem:base"
    with pytest.raises(openai.NotFoundError, match="ask emblem or emblem:base"):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, question(FLAG), model="other")
    error = caught.value
    assert (error.type, error.code) == ("invalid_request_error", "model_not_found")


@pytest.mark.parametrize(
    ("change", "message", "param"),
    [
        ({"n": 2}, "n: should be 1", "n"),
        ({"logprobs": True}, "logprobs is not supported: leave it out", "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "leave it out", "tools"),
        ({"response_format": {"type": "json_object"}}, "leave it out", "response_format"),
        ({"extra_body": {"guided_json": {}, "guided_choice": ["a"]}}, "guided", "guided_choice"),
        ({"modalities": ["text", "audio"]}, "leave it out", "modalities"),
        ({"temperature": 3}, "temperature: should be less than or equal to 2", "temperature"),
        ({"stop": ["a"] * 5}, "stop: should have at most 4, not 5", "stop"),
        ({"stop": 5}, "stop: should be a text or a list", "stop"),
        ({"messages": []}, "messages: should have at least 1, not 0", "messages"),
        ({"messages": [{"role": "assistant", "content": "Hello"}]}, "the role user", None),
        ({"messages": question("What? <image>")}, "placeholder", None),
        ({"messages": question("")}, "empty", None),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(client, change, message, param):
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        ask(client, **{"messages": question(FLAG)} | change)
    assert (caught.value.type, caught.value.param) == ("invalid_request_error", param)
    with pytest.raises(openai.BadRequestError, match=message):
        ask(client, **{"messages": question(FLAG), "stream": True} | change)


@pytest.mark.parametrize(
    ("part", "message", "param"),
    [
        ({"type": "image_url", "image_url": "x"}, "should be an object", "0.image_url"),
        ({"type": "input_audio"}, "of the type 'text', 'image_url', not 'input_audio'", "0"),
        ({"type": "text"}, "is missing", "0.text"),
        ({"text": "Hello"}, "needs a type", "0"),
    ],
)
def test_an_error_names_the_part_of_the_message(client, part, message, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, [{"role": "user", "content": [part]}])
    assert caught.value.param == f"messages.0.content.{param}"
    assert message in caught.value.body["message"]


def test_what_asks_for_nothing_else_is_accepted(client, url):
    plain = {"response_format": {"type": "text"}, "modalities": ["text"], "user": "me"}
    assert said(ask(client, question(FLAG, url), **plain, extra_body={"top_k": 5})) == "Japan"


@pytest.mark.parametrize("stream", [False, True])
def test_a_question_longer_than_the_context_is_refused(client, stream):
    with pytest.raises(openai.BadRequestError, match="room for 512 tokens") as caught:
        ask(client, question("word " * 600), stream=stream)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("content", "kind", "status", "message"),
    [
        ('{"messages": []}', "text/plain", 415, "application/json"),
        ('{"messages": []}', None, 415, "application/json"),
        ("{", "application/json", 400, "the body is not JSON, at character 1"),
        ("[]", "application/json", 400, "the body: should be an object"),
        ("", "application/json", 400, "the body: is missing"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(http, content, kind, status, message):
    headers = {"Content-Type": kind} if kind else {}
    answer = http.post("/v1/chat/completions", content=content, headers=headers)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] is None


def test_a_bad_question_leaves_others_of_its_batch_alone(client, url):
    good = question(FLAG, url)
    with ThreadPoolExecutor(8) as threads:
        asked = [
            threads.submit(ask, client, good if n % 2 else question("What? <image>"))
            for n in range(8)
        ]
        for n, answer in enumerate(asked):
            if n % 2:
                assert said(answer.result()) == "Japan"
            else:
                assert isinstance(answer.exception(), openai.BadRequestError)


def test_a_request_keeps_its_id(http):
    given = http.get("/health", headers={"X-Request-Id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    odd = http.get("/health", headers={"X-Request-Id": "a b\tc"})
    assert len(odd.headers["x-request-id"]) == 32


def test_a_client_that_hangs_up_frees_its_row(client, url, served):
    rambling = {"temperature": 2, "top_p": 1, "max_tokens": 450, "seed": 4}
    before = metric(served[0], 'liveedit_tokens_total{kind="answer"}')
    with ask(client, question(FLAG, url), stream=True, **rambling) as stream:
        next(iter(stream))
    with pytest.raises(openai.APITimeoutError):
        ask(client, question(FLAG, url), timeout=0.15, **rambling)
    assert said(ask(client, question(FLAG, url))) == "Japan"
    until(lambda: metric(served[0], "liveedit_queue") == 0)
    made = metric(served[0], 'liveedit_tokens_total{kind="answer"}') - before
    assert made < 400  # two whole answers have 900
