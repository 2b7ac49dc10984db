"""The docs hold: their code and commands run, and what they point to exists.

A block of Python or of shell commands is run as it stands, page by page and in order, in an empty
folder. A comment on the line above may say otherwise:

    <!-- file: NAME -->       the block is the content of a file
    <!-- with: OPTIONS -->    options added to each `liveedit` command, for a run that is short
    <!-- not run: REASON -->  Python is compiled, commands are parsed by their own parsers
    <!-- output -->           the block is what the one before printed; `…` stands for anything
"""

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from posixpath import normpath

import pytest
import yaml

from liveedit.data import load_cases

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
WINGS = ("tutorials", "how-to", "reference", "explanation")
LANGUAGES = {"python", "sh", "text", "json", "toml"}

BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
MARK = re.compile(r"(file|with|not run): .+|output|quickstart: .+")
INDENTED = re.compile(r"^ {4}(?:liveedit|make|python|pip|accelerate) ", re.MULTILINE)


def name_of(page):
    return str(page.relative_to(ROOT))


def content(page):
    return page.read_text(encoding="utf-8")


def load_hook():
    """The module that generates the reference."""
    spec = importlib.util.spec_from_file_location("reference", DOCS / "hooks" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generated():
    """The generated pages by their paths within docs."""
    return load_hook().pages()


# Blocks


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the comment above it."""

    mark: str
    language: str
    code: str

    def marked(self, kind):
        """The rest of a mark of this kind; ``None`` for another."""
        found, _, rest = self.mark.partition(":")
        return rest.strip() if found == kind else None


def blocks(page):
    return [
        Block(found["mark"] or "", found["language"], found["code"])
        for found in BLOCK.finditer(content(page))
    ]


WITH_CODE = [
    page for page in TEXTS if any(block.language in ("python", "sh") for block in blocks(page))
]

LONG = {
    "docs/explanation/benchmarks.md",
    "docs/how-to/add-a-benchmark.md",
    "docs/how-to/add-a-score.md",
    "docs/how-to/elsewhere.md",
    "docs/how-to/steer.md",
    "docs/tutorials/compare-methods.md",
    "docs/tutorials/your-own-data.md",
    "docs/tutorials/your-own-model.md",
}
"""Pages whose code trains or evaluates, which takes many seconds."""
RUN = [
    pytest.param(page, id=name_of(page), marks=[pytest.mark.slow] * (name_of(page) in LONG))
    for page in WITH_CODE
]


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_every_block_says_its_language(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, block.code
        assert not block.mark or MARK.fullmatch(block.mark), block.mark
    assert not INDENTED.search(content(page)), "commands stand in ```sh blocks"


@cache
def load_once(*which, **how):
    """The cases of a benchmark, drawn once for all pages."""
    return load_cases(*which, **how)


def tables(module):
    """The registries of a module."""
    public = (getattr(module, name) for name in module.__all__)
    return [value for value in public if isinstance(value, dict)]


@pytest.fixture
def apart(tmp_path, monkeypatch):
    """An empty folder to run a page in; what the page registers is forgotten afterwards."""
    from liveedit import data, editors, models

    monkeypatch.setattr(data, "load_cases", load_once)
    registries = [*tables(data), *tables(editors), *tables(models)]
    kept = [(table, dict(table)) for table in registries]
    modules = set(sys.modules)
    monkeypatch.setenv("LIVEEDIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for table, before in kept:
        table.clear()
        table.update(before)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", RUN)
def test_the_code_of_a_page_runs(page, apart, monkeypatch, capfd):
    names = {"__name__": "page"}
    printed = ""
    for block in blocks(page):
        if block.mark == "output":
            assert re.fullmatch(pattern(block.code), tidy(printed), re.DOTALL), printed
        elif file := block.marked("file"):
            (apart / file).parent.mkdir(parents=True, exist_ok=True)
            (apart / file).write_text(block.code, encoding="utf-8")
        elif block.language == "sh":
            printed = run_commands(block, monkeypatch, capfd)
        elif block.language == "python" and block.marked("not run"):
            ast.parse(block.code)
        elif block.language == "python":
            exec(compile(block.code, f"{page.name}", "exec"), names)
            printed = capfd.readouterr().out


def pattern(expected):
    """The pattern that the output of a block must match."""
    return re.escape(tidy(expected)).replace("…", ".*")


def tidy(text):
    """A text without the width of its spaces, without blank lines and rules."""
    lines = (" ".join(line.strip(" ─").split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


# Commands


def run_commands(block, monkeypatch, capfd):
    """Run or check each command of a block; what they print."""
    capfd.readouterr()
    extra = shlex.split(block.marked("with") or "")
    for line in lines_of(block.code):
        words = shlex.split(line, comments=True)
        if words[:1] == ["liveedit"]:
            parse(words[1:])
            if not block.marked("not run"):
                run(monkeypatch, [*words[1:], *extra])
        elif words:
            check(words)
    return capfd.readouterr().out


def lines_of(code):
    """The commands of a block, each on one line."""
    return code.replace("\\\n", " ").splitlines()


def run(monkeypatch, words):
    """Run the command line; it ends well."""
    from liveedit.cli import main

    status = None
    monkeypatch.setattr(sys, "argv", ["liveedit", *words])
    try:
        main()
    except SystemExit as end:
        status = end.code
    assert not status, words


LEFT_OUT = ("MissingParameter", "BadParameter", "BadOptionUsage")
"""Errors of parsing where a value is left out, or is a name such as N."""


def parse(words, *, loose=False):
    """Parse a command line without running it; ``loose`` lets values be left out or be names."""
    import typer

    from liveedit.cli import app

    command = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands") and rest:
        assert rest[0] in command.commands, words
        command = command.commands[rest.pop(0)]
    try:
        command.make_context("liveedit", rest)
    except Exception as error:
        if not loose or type(error).__name__ not in LEFT_OUT:
            pytest.fail(f"{words}: {error}")


def check_lmms_eval(model, options):
    """Check a command of lmms-eval: its model is an entry point, which takes the arguments."""
    project = tomllib.loads(content(ROOT / "pyproject.toml"))["project"]
    assert model in project["entry-points"]["lmms_eval.models"]
    source = content(ROOT / "src" / "liveedit" / "integrations" / "lmms_eval.py")
    given = options[options.index("--model_args") + 1].split(",")
    assert all(f"        {argument.partition('=')[0]}: " in source for argument in given)


def check_vllm(settings):
    """Check the environment of a command of vLLM: its plug-ins and the names of the variables."""
    points = tomllib.loads(content(ROOT / "pyproject.toml"))["project"]["entry-points"]
    known = [*points["vllm.general_plugins"], *points["vllm.endpoint_plugins"]]
    assert set(settings.pop("VLLM_PLUGINS").split(",")) <= set(known)
    variables = content(ROOT / "src" / "liveedit" / "integrations" / "vllm" / "variables.py")
    assert all(f'"{name}"' in variables for name in settings)


def check(words):
    """Check a command that is not `liveedit`: its target, script, extras or options exist."""
    match words:
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", content(ROOT / "Makefile"), re.MULTILINE), target
        case ["pip", "install", *parts]:
            check_extras(parts)
        case ["python", script, *options] if script.endswith(".py"):
            check_script(script, options)
        case ["python", "-m", "pytest", folder, *_]:
            assert (ROOT / folder).exists(), folder
        case ["accelerate", "launch", *rest]:
            parse(rest[rest.index("liveedit") + 1 :])
        case ["lmms-eval", "--model", model, *options]:
            check_lmms_eval(model, options)
        case [*settings, "vllm", "serve", _] | [*settings, "vllm", "serve", _, "--host", _]:
            check_vllm(dict(setting.split("=", 1) for setting in settings))
        case ["git", "clone", *_] | ["cd", _]:
            pass
        case _:
            pytest.fail(f"say how to check this command: {words}")


def check_extras(parts):
    """Check the extras of this package that a call of pip names."""
    project = tomllib.loads(content(ROOT / "pyproject.toml"))["project"]
    for part in parts:
        named = re.match(r"(?:liveedit|\.)\[([\w,]+)\]", part)
        for extra in named[1].split(",") if named else ():
            assert extra in project["optional-dependencies"], extra


def check_script(script, options):
    """Check that a script exists and knows its options."""
    text = content(ROOT / script)
    for option in options:
        if option.startswith("--"):
            assert f'"{option.partition("=")[0]}"' in text, f"{script} has no {option}"


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_commands_within_the_text_exist(page):
    prose = "" if page.stem == "odd-inputs" else BLOCK.sub("", content(page))
    for command in re.findall(r"`((?:liveedit|make) [^`\n]+)`", prose):
        words = [word for word in shlex.split(command) if "…" not in word]
        if words[0] == "make":
            check(words)
        elif words[1:] and "|" not in words:
            parse(words[1:], loose=True)


# Links


def anchors(text):
    """The anchors of a page: its headings, as MkDocs names them, and those set by hand."""
    text = BLOCK.sub("", text)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {slug(title) for title in titles} | set(re.findall(r'<a id="([^"]+)">', text))


def slug(title):
    """The anchor of a heading."""
    title = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
    plain = title.encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def links(page):
    """The links of a page that stay within the repository, as (path, anchor)."""
    prose = re.sub(r"`[^`\n]*`", "", BLOCK.sub("", content(page)))
    found = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", prose)
    found += [(source, "") for source in re.findall(r'(?:src|srcset)="(?!https?:)([^"]+)"', prose)]
    return found


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_links_and_anchors_exist(page, generated):
    for target, anchor in links(page):
        place = page.parent / target if target else page
        inside = normpath(place.relative_to(ROOT).as_posix()).removeprefix("docs/")
        assert place.exists() or inside in generated, target
        if anchor:
            text = generated[inside] if inside in generated else content(place)
            assert anchor in anchors(text), f"{target}#{anchor}"


def defined(tree, dotted):
    """Whether a class, function or constant, or a member of a class, is defined in a module."""
    for name in dotted.split("."):
        found = [node for node in tree.body if name in named(node)]
        if not found:
            return False
        tree = found[0]
    return True


def named(node):
    """The names that a statement defines."""
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return {getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)}


def found(path, name):
    """Whether a file exists, and defines a name if one is given."""
    file = ROOT / path
    return file.exists() and (not name or defined(ast.parse(content(file)), name))


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_files_and_names_that_a_page_cites_exist(page):
    cited = r"`((?:src|tests|recipes|docs|tools)/[\w./-]+)(?:::([\w.]+))?`"
    lost = [each for each in re.findall(cited, content(page)) if not found(*each)]
    assert not lost


# The whole


def listed(nav):
    """The pages that a navigation names."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return list(chain.from_iterable(map(listed, parts)))


def test_the_navigation_names_every_page(generated):
    nav = yaml.safe_load(content(ROOT / "mkdocs.yml"))["nav"]
    pages = {page.relative_to(DOCS).as_posix() for page in PAGES}
    assert sorted(listed(nav)) == sorted(pages | set(generated))


@pytest.mark.parametrize("wing", WINGS)
def test_the_index_of_a_wing_leads_to_its_pages(wing, generated):
    index = DOCS / wing / "index.md"
    led_to = {normpath(target) for target, _ in links(index)}
    pages = {page.relative_to(DOCS / wing).as_posix() for page in (DOCS / wing).rglob("*.md")}
    pages |= {path.removeprefix(f"{wing}/") for path in generated if path.startswith(f"{wing}/")}
    assert pages - {"index.md"} <= led_to


def test_the_map_of_the_package_names_every_folder_and_module():
    text = content(DOCS / "explanation" / "where-to-find-what.md")
    package = ROOT / "src" / "liveedit"
    for path in package.rglob("*.py"):
        inside = path.relative_to(package)
        name = f"{inside.parent.as_posix()}/" if inside.name == "__init__.py" else inside.name
        if inside.name == "__init__.py" or len(inside.parts) == 1:
            assert name == "./" or f"`{name}`" in text, name


def test_the_page_about_families_names_all_that_families_override():
    from liveedit.models import FAMILIES
    from liveedit.models.families.generic import Generic
    from liveedit.models.vlm import VLM
    from liveedit.registry import resolve

    page = content(DOCS / "how-to" / "add-a-family.md")
    for name in FAMILIES:
        for kind in resolve("family", name, FAMILIES).mro():
            if issubclass(kind, VLM) and kind not in (VLM, Generic):
                own = {member for member in vars(kind) if member in dir(VLM) and member[0] != "_"}
                assert not {member for member in own if not re.search(rf"`{member}\b", page)}, kind


def test_every_setting_has_a_row(generated):
    from liveedit.editors import EDITORS

    method = load_hook().method
    sections = generated["reference/configs.md"].split("\n## ")
    by_name = {section.partition("\n")[0]: section for section in sections}
    for name in EDITORS:
        editor, _ = method(name)
        for field in editor.Config.__dataclass_fields__:
            assert f"| `{field}` |" in by_name[name], f"{name}: {field}"


def test_the_command_line_page_has_every_command(generated):
    page = generated["reference/command-line.md"]
    for command in ("edit", "ask", "train", "eval", "data add", "models check"):
        assert f"\n## liveedit {command}\n" in page
    assert "| `--cache`, `--no-cache` |" in page


def test_arguments_of_a_docstring_become_meanings():
    hook = load_hook()

    @dataclass
    class Base:
        """Settings.

        Arguments:
            layer: Layer to edit,
                counted from 0.
        """

        layer: int = 1

    @dataclass
    class Config(Base):
        """Settings of a method.

        Arguments:
            lr: Learning rate of :class:`Adam`.
        """

        lr: float = 0.1

    section = hook.fielded("method", Config)
    assert "Settings of a method.\n" in section
    assert "Arguments:" not in section
    assert "| `layer` | `int` | `1` | Layer to edit, counted from 0. |" in section
    assert "| `lr` | `float` | `0.1` | Learning rate of `Adam`. |" in section


@pytest.mark.slow
def test_the_example_editor_keeps_the_contract(tmp_path):
    for block in blocks(DOCS / "how-to" / "add-an-editor.md"):
        if file := block.marked("file"):
            (tmp_path / file).write_text(block.code, encoding="utf-8")
    register = (
        "from liveedit.editors import EDITORS, Method\n"
        "EDITORS['nudge'] = Method('nudge:Nudge', 'none')\n"
    )
    (tmp_path / "registered.py").write_text(register, encoding="utf-8")
    suite = str(ROOT / "tests" / "editors" / "test_contract.py")
    options = ["-c", str(ROOT / "pyproject.toml"), "-p", "registered", "-k", "nudge"]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", *options, suite]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
