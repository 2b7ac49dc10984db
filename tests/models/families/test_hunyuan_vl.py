"""HunyuanVL: marks around an image."""

from liveedit.models.conformance.queries import WIDE
from liveedit.models.tiny import tiny
from liveedit.types import Query


def test_the_processors_marks_stand_around_the_image():
    marked = tiny("hunyuan_vl")
    assert marked.image_mark == "<|image_start|><image><|image_end|>\n"
    ids = marked.encode([Query("What?", image=WIDE)]).inputs["input_ids"][0].tolist()
    start, stop = (
        ids.index(marked.tokenizer.convert_tokens_to_ids(f"<|image_{end}|>"))
        for end in ("start", "end")
    )
    assert set(ids[start + 1 : stop]) == {marked.image_token_id}
