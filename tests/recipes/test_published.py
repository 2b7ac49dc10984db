"""The published recipes: their commands can be run, their settings exist, their estimates count
what there is.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
import typer.main
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from liveedit.cli import app
from liveedit.cli.editor_specs import parse_specs
from liveedit.data import BENCHMARKS as KNOWN
from liveedit.editors import EDITORS, new_editor
from liveedit.evaluate import Windows
from liveedit.models.tiny import tiny
from liveedit.registry import resolve
from liveedit.train import TrainConfig
from liveedit.types import Case, Probe, Query

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "published"))

import estimate
import methods
import run
from backbones import BACKBONES, Backbone, Vision

DEVICE = estimate.Device(400, 141, 4.8, {"step": 0.5, "edit": 0.5, "query": 0.5})
TINY = Backbone("tiny", 4, 32, 64, 360, 3, image_tokens=9, vision=Vision(0, 0, ()), cached=True)


def parsed(command):
    """The options of a `liveedit` command, alone or under `accelerate launch`, parsed as the
    command line does.
    """
    words = command[command.index("liveedit") + 1 :]
    group = typer.main.get_command(app)
    with group.make_context("liveedit", list(words)) as context:
        name = words[0]
        with group.get_command(context, name).make_context(
            name, list(words[1:]), parent=context
        ) as parsed:
            return parsed.params


def planned(backbone, data, out, processes=1, labels=methods.LABELS):
    table = run.Table(backbone, data, out, "the/model", processes)
    return table, run.plan(table, labels, DEVICE)


@pytest.mark.one_in(5)
@pytest.mark.parametrize("backbone", sorted(BACKBONES))
@pytest.mark.parametrize("data", estimate.BENCHMARKS)
@pytest.mark.parametrize("processes", [1, 4])
def test_every_command_of_a_plan_can_be_parsed(added, tmp_path, backbone, data, processes):
    _, steps = planned(backbone, data, tmp_path / "out", processes)
    trained = []
    for step in steps[:-1]:
        options = parsed(step.command)
        assert options["data"] in KNOWN
        assert (options["model"], options["dtype"]) == ("the/model", "bfloat16")
        assert (options["split"], options["prompts"], options["prompt_format"]) == (
            "paper",
            "paper",
            "raw",
        )
        assert step.hours > 0
        if "config" in options:
            assert options["config"].is_file()
            assert options["editor"] in EDITORS
            assert options["cache"] is (None if BACKBONES[backbone].cached else False)
            trained.append(options["out"])
        else:
            tested = parse_specs(options["editors"])
            assert {Path(one.source).parent for one in tested} == {tmp_path / "out" / "editors"}
            assert {path for path in trained if path.name in {one.label for one in tested}} <= {
                *map(Path, trained)
            }
    assert [path.name for path in trained] == ["liveedit", "mend", "serac", "recipe", "ke", "lte"]
    assert parsed(steps[-1].command) == {"out": tmp_path / "out"}
    tests = [parsed(step.command) for step in steps if step.what.startswith("test")]
    assert (tests[0]["edits"], tests[0]["max_cases"]) == (
        "1,10,100,1000",
        {"e-vqa": 2093, "e-ic": 1000, "vlkeb": 3174}[data],
    )
    both = [
        "vlkeb",
        "vlkeb",
        "vlkeb-onehop",
        "vlkeb-onehop-edited",
    ]  # multihop is not among the test records
    assert [options["data"] for options in tests] == (both if data == "vlkeb" else [data])


def test_a_training_takes_no_more_processes_than_its_batch_has_cases(added, tmp_path):
    _, steps = planned("llava-1.5-7b", "vlkeb", tmp_path, processes=4)
    counts = {
        step.what: step.command[3] if step.command[0] == "accelerate" else "1"
        for step in steps
        if step.what.startswith("train")
    }
    assert (counts["train liveedit"], counts["train mend"], counts["train ke"]) == ("4", "2", "1")


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
@pytest.mark.parametrize("label", methods.LABELS)
def test_settings_are_ones_that_exist(label, backbone):
    chosen = methods.method(label, backbone, "vlkeb", 5000)
    editor = resolve("editor", chosen.name, EDITORS)
    editor.settings(chosen.editor)
    TrainConfig(**chosen.training)
    assert bool(chosen.training) is bool(chosen.steps) is hasattr(editor, "from_pretrained")
    assert label in estimate.COSTS


def test_steps_are_the_published_epochs():
    steps = {
        cases: methods.method("liveedit", "llava-1.5-7b", "", cases).steps
        for cases in (6345, 2849, 5000)
    }
    assert steps == {6345: 39_700, 2849: 17_850, 5000: 31_250}


def test_settings_of_methods_without_training_are_found_by_the_evaluation(added, tmp_path):
    table, _ = planned("llava-1.5-7b", "vlkeb", tmp_path)
    run.untrained(table, ["ft-llm", "ike", "liveedit"])
    assert sorted(path.name for path in table.editors.iterdir()) == ["ft-llm", "ike"]
    stored = json.loads((table.editors / "ft-llm" / "config.json").read_text())
    assert (stored["editor"], stored["config"]["weights"], stored["config"]["steps"]) == (
        "ft-l",
        "mlp",
        10,
    )
    assert (
        json.loads((table.editors / "ike" / "config.json").read_text())["config"]["demonstrations"]
        == "vlkeb"
    )


def test_without_data_one_line_says_what_to_do(published, tmp_path, capsys):
    assert run.main(["llava-1.5-7b", "vlkeb", "--out", str(tmp_path), "--plan"]) == 1
    said = capsys.readouterr()
    assert "liveedit data add vlkeb" in said.err
    assert not said.out


def test_a_plan_is_printed_and_nothing_is_run(added, tmp_path, capsys):
    out = tmp_path / "out"
    assert run.main(["llava-1.5-7b", "e-vqa", "--out", str(out), "--plan", "--memory", "141"]) == 0
    said = capsys.readouterr().out
    assert "liveedit train" in said
    assert "lte is left out" in said
    assert not out.exists()


def test_a_backbone_without_an_id_needs_a_folder(added, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run.main(["qwen-vl-7b", "vlkeb", "--out", str(tmp_path / "out"), "--plan"])
    assert "give the folder, --model FOLDER" in capsys.readouterr().err
    assert (
        run.main(
            ["qwen-vl-7b", "vlkeb", "--out", str(tmp_path / "out"), "--plan", "--model", "a/folder"]
        )
        == 0
    )
    assert "--model a/folder" in capsys.readouterr().out


def test_an_unknown_method_is_refused(added, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run.main(["llava-1.5-7b", "e-vqa", "--out", str(tmp_path), "--editors", "rome"])
    assert "there is no method rome" in capsys.readouterr().err


def test_a_failed_step_stops_the_run_and_is_named(tmp_path, capsys):
    fails = run.Step("train mend", [sys.executable, "-c", "import sys; sys.exit(3)"])
    never = run.Step("report", [sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'w')"])
    assert run.run([fails, never], run.Console()) == 3
    assert "stopped at 'train mend'" in capsys.readouterr().out
    assert not (tmp_path / "ran").exists()


def test_a_training_that_is_done_is_not_repeated(tmp_path, capsys):
    (tmp_path / "mend").mkdir()
    (tmp_path / "mend" / run.FINISHED).touch()
    assert (
        run.run(
            [run.Step("train mend", ["no such command", "train", str(tmp_path / "mend")])],
            run.Console(),
        )
        == 0
    )
    assert "done already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "decoder", "whole"),
    [
        ("llava-1.5-7b", 6_738_939_904, 7_063_427_072),
        ("blip2-opt-2.7b", 2_651_678_720, 3_744_761_856),
    ],
)
def test_parameters_are_those_of_the_checkpoints(name, decoder, whole):
    assert (BACKBONES[name].decoder, BACKBONES[name].parameters) == (decoder, whole)


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("llava-1.5-7b", 103_135_232),
        ("blip2-opt-2.7b", 58_365_952),
        ("minigpt4-vicuna-7b", 100_907_008),
    ],
)
def test_the_parameters_of_liveedit_are_those_of_the_released_code(name, trained):
    assert estimate.liveedit(estimate.Load(BACKBONES[name], 1, 1, 20, 2)).trained == trained


def test_flops_of_a_layer_by_hand():
    llava = BACKBONES["llava-1.5-7b"]
    assert llava.forward(600, 1) == 2 * 600 * 202_375_168 + 4 * 600 * 600 * 4096
    assert llava.head(3) == 3 * 2 * 4096 * 32064


def test_memory_of_a_training_by_hand():
    at = estimate.Load(BACKBONES["llava-1.5-7b"], 5000, 3174, 24, 4)
    cost = estimate.lte(at)
    held = 2 * 7_063_427_072 + 20 * 6_476_267_520 + 7 * 624 * 32 * 34 * 4096 + 12 * 7 * 4 * 32064
    assert estimate.train_bytes(at, cost, 1) == held
    assert held > 141e9  # so one H200 does not do


def test_the_edits_of_the_windows_are_those_of_the_protocol():
    at = estimate.Load(BACKBONES["llava-1.5-7b"], 1, 2093, 24, 4)
    cases = [Case(str(number), (Query("?", "!"),), ()) for number in range(2093)]
    edits = 0
    evaluated = 0
    for sequence in Windows(max_cases=2093).sequences(cases):
        edits += len(sequence.cases)
        evaluated += sum(len(point.evaluated) for point in sequence.points)
    assert estimate.windows(at, (1, 10, 100, 1000)) == (edits, evaluated)
    assert (edits, evaluated) == (2000 + 1800 + 1890 + 1884, 8183)


def case(number):
    image = Image.new("RGB", (24, 24), (number * 20, 80, 90))
    edit = Query("What is the country with this flag?", "answer", image)
    probes = (
        Probe("text_generality", Query("Which of the countries is it?", "answer", image)),
        Probe("image_generality", edit),
        Probe("text_locality", Query("Who sang the song?", "Elvis"), "before"),
        Probe("image_locality", Query("Which film is this?", "Rain", image), "before"),
    )
    return Case(f"case-{number}", (edit,), probes)


@pytest.mark.parametrize("name", ["mend", "ke", "lte"])
def test_parameters_trained_and_flops_are_those_of_the_editors(name):
    editor = new_editor(tiny("llava"), name)
    cases = [case(0), case(1)]
    examples = editor.prepare(cases)
    rows = [*examples[0].rows.values(), *examples[1].rows.values()]
    text = max(row.hidden.shape[1] for row in rows) - TINY.image_tokens
    answer = sum(int(row.answer_positions().sum()) for row in rows) / len(rows)
    text = text / 2 if name == "lte" else text  # whose rows hold the edit, too
    cost = estimate.COSTS[name](estimate.Load(TINY, 2, 2, text, answer))
    own = sum(parameter.numel() for parameter in editor.networks().parameters())
    assert cost.trained == own - (name == "ke")  # its multiplier is not counted
    with FlopCounterMode(display=False) as counter:
        loss, _ = editor.loss(examples, torch.Generator().manual_seed(0))
        torch.autograd.backward(loss)
    assert 0.6 < len(cases) * cost.step / counter.get_total_flops() < 1.8
