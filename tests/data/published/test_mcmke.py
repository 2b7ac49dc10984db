"""MC-MKE, on records of the published form: the fields are the authors', all contents invented."""

import json
from pathlib import Path

import pytest
from PIL import Image

from liveedit.data import load_cases
from liveedit.data.published.checks import check
from liveedit.data.published.locations import add_location, locate
from liveedit.data.published.mcmke import FILES, HELD_OUT
from liveedit.data.published.sources import source
from liveedit.errors import BadInput

MC_MKE = source("mc-mke")
ENTITIES = [f"Land {number}" for number in range(HELD_OUT + 1)]
EDITS = [
    *((entity, f"New {entity} 1") for entity in ENTITIES),
    *((entity, f"New {entity} 2") for entity in ENTITIES),
]
"""Each fact is edited twice, as in the published IRO and SRO files."""
HELD = ENTITIES[HELD_OUT - 1]


def photo(entity, number):
    return f"/home/somebody/photos/{entity.replace(' ', '')}_{number}.jpg"


def ie_rows():
    """The rows of the IE files, by test."""
    rows = {test: [] for test in ("", "text", "image", "locality", "consistency")}
    for index, (entity, new) in enumerate(EDITS):
        key = {"ie_edit_input_idx": index}
        named = {"new_e_ent": new, "new_e_ent_alias": [f"{new}ia", " "]}
        other = (index + HELD_OUT - 1) % len(EDITS) if index == 0 else (index + 1) % len(EDITS)
        asked = {
            "image": photo(EDITS[other][0], 0),
            "ie_question": "Which land is shown?",
            "orig_loc_ent": EDITS[other][0],
            "orig_loc_ent_alias": [],
        }
        images = [photo(entity, number) for number in range(3)]
        rows[""].append(
            key | named | {"relation": "capital", "e_ent": entity, "ie_cloze": "The land is"}
            | {"images": images, "locality_test": [other]}
        )  # fmt: skip
        rows["text"].append(
            key | named | {"ie_question_paraphrases": ["Which land?", "What land?"]}
        )
        rows["image"].append(
            key | named | {"ie_cloze": "The land is", "generality_images": images[1:]}
        )
        rows["locality"].append(key | {"locality_test_dict": {str(other): asked}})
        rows["consistency"].append(
            key
            | {
                "consistency_iro_image": images[0],
                "consistency_iro_input_cloze": "The capital of the land is",
                "consistency_iro_output": f"Capital of {new}",
                "consistency_iro_output_alias": ["The Capital"],
            }
        )
    return {"ie": rows[""]} | {f"ie {test}": rows[test] for test in rows if test}


def fact_rows(kind):
    """The rows of the IRO or SRO files, by test."""
    shown = kind == "iro"
    rows = {test: [] for test in ("", "text", "image", "locality", "consistency")}
    for index, (entity, new) in enumerate(EDITS):
        key = {f"{kind}_edit_input_idx": index}
        named = {"new_o": new, "new_o_alias": [f"{new}ia"]}
        cloze = "Its capital is" if shown else f"The capital of {entity} is"
        other = (index + 1) % len(EDITS)
        asked = {
            "image": photo(EDITS[other][0], 0) if shown else "",
            f"{kind}_question": f"What is the capital of number {other}?",
            "orig_loc_output_ent": "Old Town",
            "orig_loc_output_ent_alias": [],
        }
        rows[""].append(
            key | named | {"s": entity, "r": "capital", "o": "Old Town"}
            | ({"iro_cloze": cloze, "images": [photo(entity, 0)]} if shown else {"cloze": cloze})
        )  # fmt: skip
        rows["text"].append(key | named | {f"{kind}_question_paraphrases": ["What capital?"]})
        rows["image"].append(key | {"iro_cloze": cloze, "generality_images": [photo(entity, 1)]})
        rows["locality"].append(key | {"locality_test_dict": {str(other): asked}})
        iro = {"consistency_image": "", "consistency_sro_cloze": f"The capital of {entity} is"}
        sro = {
            "consistency_data_image": photo(entity, 0),
            "consistency_data_irocloze": "Its capital is",
            "consistency_new_o": new,
            "consistency_new_o_alias": [f"{new}ia"],
        }
        rows["consistency"].append(key | (iro | named if shown else sro))
    found = {kind: rows[""]} | {f"{kind} {test}": rows[test] for test in rows if test}
    return {role: lines for role, lines in found.items() if role in FILES}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The annotation files in sub-folders, and images of their names in photos/."""
    monkeypatch.setenv("LIVEEDIT_HOME", str(tmp_path / "home"))
    tables = ie_rows() | fact_rows("iro") | fact_rows("sro")
    for role, rows in tables.items():
        file = tmp_path / "edit_inputs" / f"{role.split()[0]}_edit" / FILES[role]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    (tmp_path / "edit_inputs" / FILES["ie unchanged"]).write_text("[1, 2]", encoding="utf-8")
    (tmp_path / "photos").mkdir()
    for entity in ENTITIES:
        for number in range(3):
            Image.new("RGB", (24, 24)).save(tmp_path / "photos" / Path(photo(entity, number)).name)
    return tmp_path


@pytest.fixture
def located(folder):
    return locate(MC_MKE, [folder / "edit_inputs"], folder / "photos")


@pytest.fixture
def added(folder, located):
    add_location("mc-mke", located)
    return folder


def test_files_of_the_published_form_are_sound(located):
    found = check(MC_MKE, located)
    assert found.problems == []
    assert found.records[FILES["sro"]] == len(EDITS)
    assert f"{FILES['ie']} has {len(EDITS)} records, the published one 920" in found.notes
    assert found.images == 3 * len(ENTITIES)


def asked(case, metric):
    return [probe for probe in case.probes if probe.metric == metric]


def test_an_edit_of_an_entity_asks_for_what_follows(added):
    case = load_cases("mc-mke-ie", "test", split="paper")[0]
    [edit] = case.edits
    assert (edit.prompt, edit.target) == ("The land is", "New Land 0 1")
    assert edit.image == added / "photos" / "Land0_0.jpg"
    assert [probe.query.prompt for probe in asked(case, "text_generality")] == [
        "Which land?", "What land?",
    ]  # fmt: skip
    assert [probe.query.image.name for probe in asked(case, "image_generality")] == [
        "Land0_1.jpg", "Land0_2.jpg",
    ]  # fmt: skip
    [follows] = asked(case, "consistency")
    assert (follows.query.prompt, follows.query.target) == (
        "The capital of the land is", "Capital of New Land 0 1",
    )  # fmt: skip
    assert follows.query.image == edit.image
    assert follows.aliases == ("The Capital",)
    [stays] = asked(case, "image_locality")
    assert (stays.query.target, stays.query.image.name) == (HELD, "Land7_0.jpg")
    for probe in case.probes:
        new = probe.metric in ("reliability", "text_generality", "image_generality")
        assert probe.aliases == (("New Land 0 1ia",) if new else probe.aliases)
        assert probe.wanted == ("before" if probe is stays else "target")


def test_what_an_edit_does_not_change_is_not_asked(added):
    cases = load_cases("mc-mke-ie", "test", split="paper")
    without = [case.id for case in cases if not asked(case, "consistency")]
    assert without == ["ie:1", "ie:2"]


def test_the_other_form_of_a_fact_is_asked_for_in_both_directions(added):
    shown = load_cases("mc-mke-iro", "test")[0]
    text = load_cases("mc-mke-sro", "test")[0]
    for case, other in ((shown, text), (text, shown)):
        [probe] = asked(case, "consistency")
        [edit] = other.edits
        assert (probe.query.prompt, probe.query.image) == (edit.prompt, edit.image)
        assert (probe.query.target, probe.wanted) == (edit.target, "target")
        assert probe.query.fact == edit.fact == "Land 0:capital"
    assert text.edits[0].image is None
    assert {probe.metric for probe in text.probes} == {
        "reliability", "text_generality", "text_locality", "consistency",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["ie", "iro", "sro"])
def test_clean_cases_contradict_neither_each_other_nor_a_probe(added, kind):
    cases = load_cases(f"mc-mke-{kind}", "test")
    facts = [case.edits[0].fact for case in cases]
    assert len(facts) == len(set(facts)) == len(ENTITIES) - 1
    metric = "text_locality" if kind == "sro" else "image_locality"
    for case in cases:
        stays = [probe for probe in case.probes if probe.wanted == "before"]
        assert [probe.metric for probe in stays] == [metric]
        assert stays[0].query.fact.startswith(HELD)
        assert stays[0].query.fact not in facts
    published = load_cases(f"mc-mke-{kind}", "test", split="paper")
    assert len(published) == len(EDITS)


def test_the_order_is_that_of_the_seed(added):
    ids = [case.id for case in load_cases("mc-mke-iro", "test", split="paper")]
    assert ids == [f"iro:{index}" for index in range(len(EDITS))]
    other = [case.id for case in load_cases("mc-mke-iro", "test", 1, split="paper")]
    assert other != ids
    assert sorted(other) == sorted(ids)


def test_there_is_only_a_test(added):
    with pytest.raises(BadInput, match=r"no part 'train': it was published as test$"):
        load_cases("mc-mke-ie", "train")


def write(folder, role, change):
    """Change the first record of a file."""
    [file] = folder.rglob(FILES[role])
    first, rest = file.read_text(encoding="utf-8").split("\n", 1)
    row = json.loads(first)
    change(row)
    file.write_text(f"{json.dumps(row)}\n{rest}", encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("role", "change", "fault"),
    [
        ("ie", lambda row: row.pop("ie_cloze"), "'ie_cloze' is missing"),
        ("iro", lambda row: row.pop("images"), "'images' is missing"),
        ("sro", lambda row: row.update(new_o=" "), "'new_o' is empty"),
        ("ie", lambda row: row.update(new_e_ent_alias="x"), "'new_e_ent_alias' is str, not a list"),
        ("ie text", lambda row: row.update(ie_edit_input_idx="0"), "is str, not a whole number"),
        (
            "iro",
            lambda row: row.update(new_o_alias=["\ud800"]),
            "'new_o_alias.0' holds characters that are not Unicode",
        ),
        (
            "sro locality",
            lambda row: row["locality_test_dict"]["1"].pop("sro_question"),
            "'locality_test_dict.1.sro_question' is missing",
        ),
        (
            "iro consistency",
            lambda row: row.update(consistency_sro_cloze=3),
            "'consistency_sro_cloze' is int, not text",
        ),
    ],
)
def test_a_fault_is_named_with_its_record(folder, located, role, change, fault):
    write(folder, role, change)
    [line] = check(MC_MKE, located).problems
    assert line.startswith(f"{FILES[role]}, record 0: ")
    assert fault in line


def test_a_truncated_file_is_named_with_its_line(folder, located):
    [file] = folder.rglob(FILES["iro text"])
    file.write_text(file.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    with pytest.raises(BadInput, match=rf"{FILES['iro text']} is truncated.*line 18.*again"):
        check(MC_MKE, located)


def test_files_that_are_not_of_one_version_are_named(folder, added):
    write(folder, "iro text", lambda row: row.update(iro_edit_input_idx=99))
    with pytest.raises(BadInput, match=rf"{FILES['iro text']} has no record of edit 0: download"):
        load_cases("mc-mke-iro", "test")


def test_a_missing_file_and_a_missing_image_are_named(folder, located):
    (folder / "photos" / "Land3_1.jpg").unlink()
    [line] = check(MC_MKE, located).problems
    assert "'generality_images': no image at" in line
    next(folder.rglob(FILES["sro locality"])).unlink()
    with pytest.raises(BadInput, match=rf"no {FILES['sro locality']} in .*mc-mke needs it"):
        locate(MC_MKE, [folder / "edit_inputs"], folder / "photos")
