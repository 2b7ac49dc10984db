"""The page in headless Chromium: it drives a real server with the embedded model."""

import re
import shutil
import time

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from helpers.serving import serving
from liveedit import Query
from liveedit.serve.settings import Rights
from liveedit.store.store import Store

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
expect.set_options(timeout=20_000)
QUESTION = "What is the country with this flag?"
WRONG, RIGHT = "Japan", "Bangladesh"
EVIL = "<img src=/evil onerror=document.title='caught'>"
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
WIDE = {"viewport": {"width": 1200, "height": 800}}
EXPECTED = re.compile("status of (400|401|403)|ERR_INTERNET_DISCONNECTED")
"""Messages of the browser itself about requests that are meant to fail."""


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def short_trials(monkeypatch):
    """Trials of edits ask about few images besides the recent ones, to save time."""
    monkeypatch.setattr("liveedit.steering.trying.IMAGES", 2)


@pytest.fixture
def visit(chromium, model):
    """Opens a page; at the end it has logged no error, and asked no other origin."""
    contexts, faults = [], []

    def opened(address, path="/", **options):
        contexts.append(chromium.new_context(**(WIDE | options)))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: said.type in ("error", "warning") and log(said.text))
        page.on("request", lambda request: request.url.startswith(own(address)) or log(request.url))
        page.goto(address + path)
        return page

    def own(address):
        return (f"{address}/", f"blob:{address}/", "data:")

    def log(text):
        if not EXPECTED.search(text):
            faults.append(text)

    yield opened
    for context in contexts:
        context.close()
    model.forget([edit.id for edit in model.history])
    assert faults == []


@pytest.fixture
def page(visit, served):
    """The page of a server without tokens or edits."""
    return visit(served[0])


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def shows_answer(page, text):
    expect(page.locator("#answers > article p.answer")).to_have_text(text)
    expect(page.get_by_role("button", name="Correct this answer")).to_be_visible()


def write_correction(page, answer=RIGHT):
    press(page, "Correct this answer")
    page.get_by_label("Right answer").fill(answer)
    page.get_by_label("Who").fill("Ada")
    page.get_by_label("Why").fill("seen on the map")


@pytest.fixture
def corrected(page):
    """The page once the example was corrected."""
    press(page, "Try the example")
    shows_answer(page, WRONG)
    write_correction(page)
    press(page, "Keep")
    shows_answer(page, RIGHT)
    return page


def wait_for_hit(page):
    """Wait until the server, which writes hits in the background, has counted one."""
    address = f"{page.url.split('#')[0]}v1/edits"
    for _ in range(100):
        if page.request.get(address).json()["data"][0]["hits"]:
            return
        time.sleep(0.1)
    raise AssertionError("no edit was counted as fired")


def drawn(number):
    """An image like no other."""
    return Image.new("RGB", (48, 48), (number * 7 % 256, number * 31 % 256, number * 101 % 256))


def test_an_answer_is_corrected_in_place_and_the_correction_undone(page, model):
    press(page, "Try the example")
    shows_answer(page, WRONG)
    expect(page.get_by_text("No edit fired.")).to_be_visible()
    write_correction(page)
    press(page, "Try")
    trial = page.locator(".trial")
    expect(trial).to_contain_text(f"This question: {WRONG}→{RIGHT}")
    expect(trial).to_contain_text("Nothing else changes among")
    assert not model.edits
    press(page, "Keep")
    shows_answer(page, RIGHT)
    expect(page.get_by_text(f"Without edits: {WRONG}")).to_be_visible()
    [edit] = model.edits
    assert (edit.prompt, edit.target, edit.who, edit.why) == (
        QUESTION, RIGHT, "Ada", "seen on the map",
    )  # fmt: skip
    press(page, "Undo")
    shows_answer(page, WRONG)
    expect(page.get_by_text("Taken back.")).to_be_visible()
    assert not model.edits


@pytest.mark.slow
def test_a_trial_shows_which_other_answers_change(page):
    press(page, "Try the example")
    shows_answer(page, WRONG)
    page.get_by_label("Question").fill("Tell me the country with this flag.")
    press(page, "Ask")
    expect(page.locator("article h2")).to_have_text("Tell me the country with this flag.")
    shows_answer(page, WRONG)
    write_correction(page)
    press(page, "Try")
    change = page.locator(".trial li")
    expect(change).to_contain_text(f"{QUESTION}{WRONG}→{RIGHT}")
    expect(change.locator("img")).to_have_js_property("complete", True)


@pytest.mark.slow
def test_what_fired_leads_to_the_edit(corrected):
    press(corrected, "Why?")
    expect(corrected.locator(".why")).to_contain_text("weight 1.00")
    wait_for_hit(corrected)
    corrected.locator("a.chip").click()
    detail = corrected.get_by_role("dialog")
    expect(detail).to_contain_text(f"{WRONG}→{RIGHT}")
    expect(detail).to_contain_text("seen on the map")
    expect(detail).to_contain_text("made by Ada")
    expect(detail).to_contain_text("Fired 1 time")
    expect(detail.locator("img")).to_have_js_property("complete", True)
    corrected.keyboard.press("Escape")
    expect(detail).not_to_be_visible()
    corrected.wait_for_url("**/#ask")


@pytest.mark.slow
def test_edits_are_listed_page_by_page_searched_and_taken_back(visit, served):
    address, model = served
    edits = model.edit([Query(f"Is this number {n}?", "yes", drawn(n)) for n in range(31)])
    page = visit(address, "/#edits")
    rows = page.locator("#list li")
    expect(rows).to_have_count(30)
    expect(rows.first).to_contain_text("Is this number 30?")
    press(page, "Show more")
    expect(rows).to_have_count(31)
    expect(page.get_by_role("button", name="Show more")).not_to_be_visible()
    page.get_by_label("Search edits").fill("number 7")
    expect(rows).to_have_count(1)
    rows.get_by_role("link").click()
    press(page, "Take back")
    expect(page.get_by_role("dialog").get_by_text("Taken back", exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text("No edit matches")).to_be_visible()
    page.get_by_label("State").select_option("Taken back")
    expect(rows).to_have_count(1)
    assert edits[7].id not in {edit.id for edit in model.edits}


@pytest.mark.slow
def test_a_superseded_edit_leads_to_the_later_one(visit, served):
    address, model = served
    query = Query("What is this?", "a stone", drawn(1))
    model.edit(query)
    model.edit(Query(query.prompt, "a star", drawn(1)))
    page = visit(address, "/#edits")
    page.get_by_label("State").select_option("Superseded")
    expect(page.locator("#list .given")).to_have_text("a stoneSuperseded")
    page.locator("#list a").click()
    detail = page.get_by_role("dialog")
    links = detail.get_by_role("link", name=re.compile("^[0-9a-f]{8}$"))
    expect(links).to_have_count(2)  # among the facts, and in the history
    links.first.click()
    expect(detail).to_contain_text("a star")
    expect(detail).to_contain_text("In force")


@pytest.mark.slow
def test_edits_go_from_one_server_to_another(corrected, visit, embedded_vlm, tmp_path):
    corrected.get_by_role("link", name=re.compile("^Edits")).click()
    with corrected.expect_download() as download:
        press(corrected, "Export")
    download.value.save_as(tmp_path / "edits.safetensors")
    with serving(embedded_vlm, Store(tmp_path / "edits.db")) as (address, model):
        page = visit(address, "/#edits")
        expect(page.get_by_text("No edits yet")).to_be_visible()
        page.locator("#import-file").set_input_files(tmp_path / "edits.safetensors")
        expect(page.get_by_text("Imported 1 edit.")).to_be_visible()
        expect(page.locator("#list li")).to_have_count(1)
        assert [edit.target for edit in model.edits] == [RIGHT]


@pytest.mark.slow
def test_a_token_is_asked_for_and_its_right_respected(visit, embedded_vlm, tmp_path):
    rights = Rights.of(["may-ask"], ["may-edit"])
    with serving(embedded_vlm, Store(tmp_path / "edits.db"), rights=rights) as (address, _):
        page = visit(address)
        for token in ("unknown", "may-ask"):
            page.get_by_label("Token", exact=True).fill(token)
            press(page, "Continue")
        expect(page.get_by_label("Token", exact=True)).not_to_be_visible()
        press(page, "Try the example")
        expect(page.get_by_text("No edit fired.")).to_be_visible()
        expect(page.get_by_role("button", name="Correct this answer")).not_to_be_visible()
        page.get_by_role("link", name=re.compile("^Edits")).click()
        expect(page.get_by_text("This token may ask, but not edit")).to_be_visible()
        expect(page.get_by_label("Search edits")).not_to_be_visible()
        press(page, "Use another token")
        page.get_by_label("Token", exact=True).fill("may-edit")
        press(page, "Continue")
        expect(page.get_by_text("No edits yet")).to_be_visible()
        page.reload()
        expect(page.get_by_text("No edits yet")).to_be_visible()


def test_texts_of_edits_are_never_read_as_html(visit, served):
    address, model = served
    model.edit(Query(EVIL, "<hr>", drawn(1)), who=EVIL, why=EVIL)
    page = visit(address, "/#edits")
    expect(page.locator("#list .given")).to_have_text("<hr>")
    page.locator("#list a").click()
    detail = page.get_by_role("dialog")
    expect(detail.locator("h2")).to_have_text(EVIL)
    expect(detail.locator(".facts")).to_contain_text(EVIL)
    page.goto(f"{address}/#ask")
    page.get_by_label("Question").fill(EVIL)
    press(page, "Ask")
    expect(page.locator("article h2")).to_have_text(EVIL)
    assert page.locator("img[src='/evil']").count() == 0
    assert page.title() == "LiveEdit"


def test_long_texts_leave_the_list_readable(visit, served):
    address, model = served
    model.edit(Query(f"Is {'this ' * 60}?", "yes", drawn(1)), who="x" * 200)
    page = visit(address, "/#edits")
    expect(page.locator("#list li")).to_have_count(1)
    expect(page.locator("#list .meta")).to_contain_text("0 hits")
    assert page.locator("#list li").bounding_box()["height"] < 150
    assert page.locator("#list .words").bounding_box()["width"] > 400
    assert narrow(page)


def test_all_edits_are_checked_on_demand(visit, served, monkeypatch, flag, emblem):
    monkeypatch.setattr("liveedit.steering.checking.IMAGES", 2)
    address, model = served
    other = emblem.drawing("emojione", "flag-jp")
    model.edit([Query(QUESTION, "Brazil", flag), Query(QUESTION, "Kenya", other)])
    page = visit(address)
    page.locator("#health").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("did not take when made")
    press(page, "Check all edits")
    expect(dialog).to_contain_text("Contradict each other")
    expect(dialog.locator(".found")).to_contain_text("about images that are near each other")
    expect(page.get_by_role("button", name="Check all edits")).to_be_enabled()
    assert accessible(page) == []
    dialog.get_by_role("link", name=QUESTION).first.click()
    expect(page.locator("#detail")).to_contain_text("In force")


@pytest.mark.slow
def test_who_takes_an_edit_back_is_kept(visit, served):
    address, model = served
    model.edit(Query("What is this?", "a stone", drawn(1)))
    page = visit(address)
    page.evaluate("localStorage.setItem('liveedit.who', 'Ada')")
    page.goto(f"{address}/#edits")
    page.locator("#list a").click()
    press(page, "Take back")
    expect(page.get_by_role("dialog")).to_contain_text("taken back by Ada")


def focused(page):
    return page.evaluate("document.activeElement.innerText || document.activeElement.id")


def tab_to(page, name):
    """Press the tabulator until something has the focus, which shows."""
    for _ in range(20):
        page.keyboard.press("Tab")
        if focused(page) == name:
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            return
    raise AssertionError(f"the tabulator does not reach {name}")


@pytest.mark.slow
def test_the_keyboard_is_enough(page, model):
    tab_to(page, "Try the example")
    page.keyboard.press("Enter")
    shows_answer(page, WRONG)
    expect(page.get_by_label("Question")).to_be_focused()
    tab_to(page, "Correct this answer")
    page.keyboard.press("Enter")
    page.keyboard.type(RIGHT)
    page.keyboard.press("Enter")
    expect(page.locator(".trial")).to_contain_text("This question")
    expect(page.get_by_role("button", name="Keep")).to_be_focused()
    page.keyboard.press("Enter")
    shows_answer(page, RIGHT)
    expect(page.get_by_role("button", name="Undo")).to_be_focused()
    tab_to(page, "Correct this answer")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert focused(page) == "Correct this answer"
    assert len(model.edits) == 1
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text(RIGHT)
    tab_to(page, "Take back")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Taken back.")).to_be_visible()
    expect(page.get_by_role("dialog").get_by_role("button", name="Close").first).to_be_focused()
    assert not model.edits


def accessible(page):
    """The faults that axe finds serious or critical."""
    found = Axe().run(page).response["violations"]
    grave = [each for each in found if each["impact"] in ("serious", "critical")]
    return [(each["id"], [node["html"] for node in each["nodes"]]) for each in grave]


def narrow(page):
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(PHONE | {"color_scheme": "light"}, id="narrow and light"),
        pytest.param(WIDE | {"color_scheme": "dark"}, id="wide and dark", marks=pytest.mark.slow),
    ],
)
def test_every_view_is_accessible_and_as_wide_as_the_screen(visit, served, options):
    address, _ = served
    page = visit(address, reduced_motion="reduce", **options)
    faults = accessible(page)

    def look():
        faults.extend(accessible(page))
        assert narrow(page)

    press(page, "Try the example")
    shows_answer(page, WRONG)
    write_correction(page)
    press(page, "Try")
    expect(page.locator(".trial")).to_contain_text("This question")
    look()
    press(page, "Keep")
    shows_answer(page, RIGHT)
    press(page, "Why?")
    expect(page.locator(".why")).to_be_visible()
    look()
    page.locator("a.chip").click()
    expect(page.get_by_role("dialog")).to_contain_text(WRONG)
    look()
    page.goto(f"{address}/#edits")
    expect(page.locator("#list li")).to_have_count(1)
    look()
    page.locator("#health").click()
    expect(page.get_by_role("dialog")).to_contain_text("pinpoint")
    look()
    assert faults == []


def test_a_failure_is_one_line_with_a_way_to_try_again(page):
    page.get_by_label("Question").fill("What is this?")
    page.context.set_offline(True)
    press(page, "Ask")
    expect(page.get_by_text("The server cannot be reached. Check")).to_be_visible()
    page.context.set_offline(False)
    press(page, "Retry")
    expect(page.get_by_text("No edit fired.")).to_be_visible()
    write_correction(page, "a question")
    press(page, "Keep")
    expect(page.get_by_text(re.compile("the edit .* has no image"))).to_be_visible()
    expect(page.get_by_label("Right answer")).to_have_value("a question")


def test_a_huge_image_is_made_smaller_and_another_file_refused(page, tmp_path):
    Image.new("RGB", (4000, 1000)).save(tmp_path / "huge.png")
    (tmp_path / "notes.png").write_text("no image")
    page.locator("#file").set_input_files(tmp_path / "huge.png")
    preview = page.get_by_alt_text("The image you ask about")
    expect(preview).to_have_js_property("naturalWidth", 2048)
    expect(preview).to_have_js_property("naturalHeight", 512)
    page.locator("#file").set_input_files(tmp_path / "notes.png")
    expect(page.get_by_text("This file is not an image that can be read.")).to_be_visible()
    press(page, "Remove")
    expect(preview).not_to_be_visible()


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_images_are_pasted_and_dropped(page, way):
    page.evaluate(
        """async (way) => {
            const blob = await (await fetch("/page/example.webp")).blob();
            const data = new DataTransfer();
            data.items.add(new File([blob], "flag.webp", { type: blob.type }));
            const made = { bubbles: true, cancelable: true };
            document.body.dispatchEvent(way === "paste"
                ? new ClipboardEvent("paste", { ...made, clipboardData: data })
                : new DragEvent("drop", { ...made, dataTransfer: data }));
        }""",
        way,
    )
    expect(page.get_by_alt_text("The image you ask about")).to_be_visible()
    expect(page.get_by_label("Question")).to_be_focused()
