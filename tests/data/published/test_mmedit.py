"""E-VQA and E-IC as cases: prompts of both forms, hard probes that contradict no edit, orders."""

import json

import pytest

from liveedit.data import BENCHMARKS, load_cases
from liveedit.data.published.mmedit import NEUTRAL
from liveedit.errors import BadInput, UnknownName

FIVE = ["reliability", "text_generality", "image_generality", "text_locality", "image_locality"]
NEW = [*FIVE[:3], "portability_1hop"]
ANNOTATED = ["e-vqa", "e-ic", "vlkeb", "vlkeb-onehop", "vlkeb-onehop-edited"]


def probes(case):
    return {probe.metric: probe for probe in case.probes}


def test_the_first_case_of_e_vqa_says_what_its_record_says(added):
    case = load_cases("e-vqa", "test")[0]
    images = added / "mmedit" / "images"
    asked = probes(case)
    assert case.id == "vqa_eval:0"
    [edit] = case.edits
    assert (edit.prompt, edit.target) == ("How many tennis balls are in the picture?", "2")
    assert edit.image == images / "val2014/COCO_val2014_000000451435.jpg"
    assert asked["reliability"].query is edit
    assert (
        asked["text_generality"].query.prompt
        == "What is the number of tennis balls depicted in the image?"
    )
    assert asked["text_generality"].query.image == edit.image
    generated = images / "val2014_image_rephrase/451435003_COCO_val2014_000000451435.png"
    assert asked["image_generality"].query.image == generated
    assert (
        asked["text_locality"].query.prompt
        == "what purpose did seasonal monsoon winds have on trade?"
    )
    assert asked["text_locality"].query.image is None
    assert asked["image_locality"].query.prompt == "What sport can you use this for?"
    assert asked["image_locality"].query.image == images / "val2014/COCO_val2014_000000297147.jpg"
    wanted = {metric: probe.wanted for metric, probe in asked.items()}
    assert [metric for metric in wanted if wanted[metric] == "target"] == FIVE[:3]


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("e-vqa", " The answer is:"), ("e-ic", ""), ("vlkeb", ""), ("vlkeb-onehop", "")],
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_the_papers_prompts_have_their_suffixes(added, name, part, suffix):
    # the clean training exchanges locality probes, so prompts are compared within one split
    for plain, paper in zip(
        load_cases(name, part), load_cases(name, part, prompts="paper"), strict=True
    ):
        plain = probes(plain)
        paper = probes(paper)
        for metric in FIVE[:3]:
            assert paper[metric].query.prompt == plain[metric].query.prompt + suffix
        assert (
            paper["image_locality"].query.prompt
            == plain["image_locality"].query.prompt + " The answer is:"
        )
        prefix = "" if name.startswith("vlkeb") else "nq question: "
        assert paper["text_locality"].query.prompt == prefix + plain["text_locality"].query.prompt
        assert plain["text_locality"].query.prompt.endswith("?")


def test_the_papers_targets_are_kept_letter_by_letter(added):
    paper = load_cases("e-ic", "test", prompts="paper")
    plain = load_cases("e-ic", "test")
    assert paper[1].edits[0].target == "A boy throwing out a pitch in a ball game.\n"
    assert plain[1].edits[0].target == "A boy throwing out a pitch in a ball game."


@pytest.mark.parametrize("name", ["e-vqa", "e-ic", "vlkeb"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_the_papers_split_asks_what_the_paper_asks(added, name, part):
    cases = load_cases(name, part, split="paper")
    assert all([probe.metric for probe in case.probes] == FIVE for case in cases)


@pytest.mark.parametrize("name", ANNOTATED)
def test_no_hard_probe_contradicts_an_edit(added, name):
    cases = load_cases(name, "test")
    edited = {(case.edits[0].image, case.edits[0].prompt) for case in cases}
    answers = {(case.edits[0].image, case.edits[0].target) for case in cases}
    images = {case.edits[0].image for case in cases}
    for case in cases:
        asked = probes(case)
        edit = case.edits[0]
        assert asked["question_alone"].query.prompt == edit.prompt
        assert asked["question_alone"].query.image is None
        if "image_alone" in asked:
            alone = asked["image_alone"].query
            assert (alone.prompt, alone.image) == (NEUTRAL, edit.image)
        if "same_image_other_question" in asked:
            other = asked["same_image_other_question"].query
            assert other.image == edit.image
            assert (other.image, other.prompt) not in edited
            assert (other.image, other.target) not in answers
        if "look_alike_image" in asked:
            other = asked["look_alike_image"].query
            assert other.prompt == edit.prompt
            assert other.image not in images
        assert all((probe.wanted == "target") == (metric in NEW) for metric, probe in asked.items())


def test_hard_probes_are_where_the_records_allow_them(added):
    e_vqa = [probes(case) for case in load_cases("e-vqa", "test")]
    others = [asked.get("same_image_other_question") for asked in e_vqa]
    assert [probe.query.prompt if probe else None for probe in others] == [
        "What is the man standing on?",
        None,
        "What are the cubed food on the left?",
        None,
        None,  # training asks for the same number of pillows in other words
    ]
    assert all("image_alone" in asked for asked in e_vqa)
    assert not any("image_alone" in probes(case) for case in load_cases("e-ic", "test"))
    alike = probes(load_cases("vlkeb", "test")[0])["look_alike_image"].query
    assert (alike.prompt, alike.target) == ("What city is featured in the image?", "Cleveland")
    assert alike.image.parent.name == "m.01sn3"


def test_facts_join_what_asks_for_the_same(added):
    for name in ("e-vqa", "e-ic", "vlkeb"):
        for case in load_cases(name, "train"):
            asked = {metric: probe.query.fact for metric, probe in probes(case).items()}
            assert asked["text_generality"] == asked["image_generality"] == case.edits[0].fact != ""
            assert asked["image_locality"] != case.edits[0].fact
            assert asked["text_locality"] == asked["question_alone"] == ""


@pytest.mark.parametrize("name", ANNOTATED)
def test_seed_0_is_the_order_of_the_file(added, name):
    ids = [case.id for case in load_cases(name, "test")]
    assert [int(id.rpartition(":")[2]) for id in ids] == list(range(len(ids)))
    shuffled = [[case.id for case in load_cases(name, "test", seed)] for seed in (1, 1, 2, 3, 4, 5)]
    assert shuffled[0] == shuffled[1]
    assert all(sorted(order) == sorted(ids) for order in shuffled)
    assert any(order != ids for order in shuffled)


def test_images_are_not_read_until_they_are_asked_about(added):
    for image in (added / "mmedit" / "images").rglob("*.jpg"):
        image.unlink()
    assert len(load_cases("e-vqa", "test")) == 5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "e-vqa", "part": "val"}, "no part 'val'"),
        (
            {"name": "e-vqa", "part": "test", "split": "papers"},
            "--split 'papers': choose clean or paper",
        ),
        (
            {"name": "e-vqa", "part": "test", "prompts": "raw"},
            "--prompts 'raw': choose plain or paper",
        ),
        ({"name": "emblem", "part": "test", "split": "paper"}, "leave --split out"),
        ({"name": "vlkeb-multihop", "part": "test"}, "added without eval_multihop.json"),
    ],
)
def test_bad_options_name_the_fix(added, options, says):
    with pytest.raises(BadInput, match=says):
        load_cases(**options)
    with pytest.raises(UnknownName, match="did you mean e-vqa"):
        load_cases("e-vqaa", "test")


def test_a_benchmark_that_was_not_added_says_how(published):
    with pytest.raises(BadInput, match="liveedit data add e-ic"):
        load_cases("e-ic", "test")


@pytest.mark.parametrize(
    ("name", "folder", "published_sizes", "clean_sizes"),
    [
        ("e-vqa", "mmedit", (6345, 2093), (4692, 2093)),
        ("e-ic", "mmedit", (2849, 1000), (2784, 1000)),
        ("vlkeb", "vlkeb", (5000, 3174), (3826, 3174)),
        ("vlkeb-onehop", "vlkeb", (5000, 1278), (3826, 1278)),
        ("vlkeb-onehop-edited", "vlkeb", (5000, 1278), (3826, 1278)),
    ],
)
def test_the_published_files_load_completely(
    published_files, name, folder, published_sizes, clean_sizes, tmp_path, monkeypatch
):
    from liveedit.data.published.locations import add_location, locate
    from liveedit.data.published.sources import source

    monkeypatch.setenv("LIVEEDIT_HOME", str(tmp_path))
    root = published_files / folder
    files = BENCHMARKS[name].files
    add_location(files, locate(source(files), [root], tmp_path))
    for split, sizes in (("paper", published_sizes), ("clean", clean_sizes)):
        assert (
            tuple(len(load_cases(name, part, split=split)) for part in ("train", "test")) == sizes
        )


def test_a_hard_probe_asks_for_nothing_that_another_test_case_edits(added):
    """Training asks another question about an edit's image; so does, with another answer, an edit
    of the test.
    """
    folder = added / "vlkeb"
    train, test = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("train.json", "eval.json")
    )
    train[0] |= {"image": test[0]["image"], "src": "Where is it?", "alt": "Rome"}
    (folder / "train.json").write_text(json.dumps(train), encoding="utf-8")
    for edits, asked in (
        (test, "Where is it?"),
        ([*test, test[0] | {"src": "where is it?", "alt": "Oslo"}], None),
    ):
        (folder / "eval.json").write_text(json.dumps(edits), encoding="utf-8")
        found = probes(load_cases("vlkeb", "test")[0]).get("same_image_other_question")
        assert (found.query.prompt if found else None) == asked
