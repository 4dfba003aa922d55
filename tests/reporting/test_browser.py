"""report.html in a real browser: loads without errors or network, sorts, searches, opens a server.

Needs Playwright (`pip install playwright`) and a Chromium: the one on the PATH (Debian:
`apt-get install chromium`) or Playwright's own (`playwright install chromium`).
"""

import json
import shutil
import time

import pytest

from tests.reporting.test_page import hostile_world
from toolgenesis_sft.errors import Outcome
from toolgenesis_sft.records import FigureScore
from toolgenesis_sft.reporting import compare, report

pytestmark = pytest.mark.browser
FIGURES = ("compliance", "launch", "schema_f1", "ut_soft", "ut_hard", "capability_boundary")
CODE = '@mcp.tool()\ndef add(a):  # <b>note</b>\n    """Text."""\n    return f"{a}" + 1\n'
TEST = {
    "tool": "add",
    "live_tool": "add_one",
    "arguments": {"a": 1},
    "expected": '{"total": 2, "unit": "kg"}',
    "actual": {"total": 3, "unit": "kg"},
    "score": 0.5,
}


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox"],
        )
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Open a file; the test fails on any error of the page and on any request beyond it."""
    pages = []

    def open_file(path, fragment="", **options):
        tab = browser.new_page(**options)
        complaints = []
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
        tab.on(
            "request",
            lambda request: (
                request.url.startswith(path.as_uri()) or complaints.append(f"request {request.url}")
            ),
        )
        tab.goto(path.as_uri() + fragment)
        pages.append((tab, complaints))
        return tab

    yield open_file
    for tab, complaints in pages:
        tab.close()
        assert complaints == []


def small_report(make_world, num_servers=6):
    world = make_world(num_servers, num_train=2)
    world.trained_on(world.slugs[:2])
    for index, slug in enumerate(world.slugs):
        world.failed(slug, model="before_training", reason="import_error: no module named x")
        value = FigureScore(value=round(1 - index / num_servers, 3), outcome=Outcome.SCORED)
        evidence = {
            "tools": [{"name": "add_one", "inputSchema": {"properties": {"value": {}}}}],
            "match": {"add": "add_one"},
            "arguments": {"add": {"a": "value"}},
            "unit_tests": [TEST, {**TEST, "score": 1.0}],
            "capabilities": [{"kind": "files", "line": 2, "what": "open", "authorised": False}],
            "judged": [{"tool": "add_one", "within": False, "reason": "It <b>guesses</b>."}],
        }
        world.add(
            slug, "trained", dict.fromkeys(FIGURES, value), evidence=evidence, completion=CODE
        )
    run = world.written()
    report.report_run(world.recipe(), run)
    return run


def names(tab):
    return tab.locator("#servers-body .open").all_inner_texts()


def test_the_list_sorts_by_a_figure_and_says_so_to_a_screen_reader(make_world, open_page):
    tab = open_page(small_report(make_world).report_html)
    tab.get_by_role("button", name="UT hard").click()
    assert names(tab)[:3] == ["server-0", "server-1", "server-2"]
    head = tab.locator("#servers-head th", has_text="UT hard")
    assert head.get_attribute("aria-sort") == "descending"
    tab.get_by_role("button", name="UT hard").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert names(tab)[-1] == "server-0"


def test_the_list_is_searched_and_filtered(make_world, open_page):
    tab = open_page(small_report(make_world).report_html)
    assert len(names(tab)) == 12
    tab.get_by_label("Search servers").fill("server-3 trained")
    assert names(tab) == ["server-3"]
    assert tab.locator("#count").inner_text() == "1 of 12 predictions"
    tab.get_by_label("Search servers").fill("held-out before training import_error")
    assert names(tab) == ["server-2", "server-3", "server-4", "server-5"]
    tab.get_by_label("Search servers").fill("")
    tab.get_by_label("State").select_option("failed")
    assert names(tab) == [f"server-{index}" for index in range(6)]


def test_what_the_harness_failed_on_is_not_called_a_server_that_does_not_launch(
    make_world, open_page
):
    world = make_world(2)
    world.unscored("server-0")
    world.failed("server-1")
    run = world.written()
    report.report_run(world.recipe(), run)
    tab = open_page(run.report_html)
    for state, found in (("failed", ["server-1"]), ("harness", ["server-0"]), ("launched", [])):
        tab.get_by_label("State").select_option(state)
        assert names(tab) == found


def test_a_server_opens_with_its_code_tools_tests_and_capabilities(make_world, open_page):
    tab = open_page(small_report(make_world).report_html)
    tab.get_by_label("Model and strategy").select_option("trained/direct")
    tab.get_by_role("button", name="server-1").click()
    drawer = tab.get_by_role("dialog")
    drawer.wait_for()
    assert drawer.locator(".code .ln").count() == 4
    assert drawer.locator(".code .tk", has_text="return").count() == 1
    assert drawer.locator(".code .tc").inner_text() == "# <b>note</b>"
    assert "a → value" in drawer.inner_text()
    assert "beyond add_one It <b>guesses</b>." in drawer.inner_text()
    drawer.locator(".test summary").first.click()
    diff = drawer.locator(".diff").first
    assert diff.locator(".del").inner_text() == '-   "total": 2,'
    assert diff.locator(".add").inner_text() == '+   "total": 3,'
    drawer.get_by_label("only those that differ").check()
    assert drawer.locator(".test:visible").count() == 1
    drawer.get_by_role("button", name="line 2").click()
    assert drawer.locator(".ln.mark").inner_text().startswith("def add")


def test_what_a_layer_was_not_reached_by_is_said_in_words(make_world, open_page):
    world = make_world(1)
    world.failed("server-0", reason="import_error: no module named my_tool")
    run = world.written()
    report.report_run(world.recipe(), run)
    tab = open_page(run.report_html)
    tab.get_by_role("button", name="server-0").click()
    drawer = tab.get_by_role("dialog")
    drawer.wait_for()
    assert drawer.locator(".chip small").all_inner_texts() == [
        "not reached, counts as 0",
        "import error: no module named my_tool",
        *["not reached, counts as 0"] * 4,
    ]


def test_evidence_of_a_foreign_shape_is_shown_as_it_is(make_world, open_page):
    world = make_world(1)
    fine = dict.fromkeys(FIGURES, FigureScore(value=1.0, outcome=Outcome.SCORED))
    world.add("server-0", "trained", fine, evidence={"unit_tests": [None], "observed": "x"})
    run = world.written()
    report.report_run(world.recipe(), run)
    tab = open_page(run.report_html)
    tab.get_by_role("button", name="server-0").click()
    drawer = tab.get_by_role("dialog")
    drawer.wait_for()
    assert "The evidence cannot be drawn" in drawer.inner_text()
    assert '"observed": "x"' in drawer.inner_text()


def test_a_keyboard_alone_opens_pages_through_and_closes_servers(make_world, open_page):
    tab = open_page(small_report(make_world).report_html)
    tab.get_by_label("Model and strategy").select_option("trained/direct")
    tab.locator("#servers-body .open").first.focus()
    tab.keyboard.press("Enter")
    title = tab.locator("#drawer-title")
    tab.locator("#drawer-title", has_text="server-0").wait_for()
    tab.keyboard.press("j")
    tab.locator("#drawer-title", has_text="server-1").wait_for()
    tab.keyboard.press("k")
    tab.locator("#drawer-title", has_text="server-0").wait_for()
    tab.keyboard.press("Escape")
    assert not title.is_visible()
    assert tab.evaluate("document.activeElement.textContent") == "server-0"


def test_the_address_of_an_open_server_opens_it_again(make_world, open_page):
    run = small_report(make_world)
    tab = open_page(run.report_html)
    tab.locator("#servers-body .open").nth(3).click()
    tab.get_by_role("dialog").wait_for()
    fragment = tab.evaluate("location.hash")
    again = open_page(run.report_html, fragment)
    again.get_by_role("dialog").wait_for()
    assert again.locator("#drawer-title").inner_text() == tab.locator("#drawer-title").inner_text()


def test_hostile_text_is_shown_as_text_wherever_it_comes_from(make_world, open_page):
    world = hostile_world(make_world)
    run = world.written()
    report.report_run(world.recipe(score={"layers": ["L1"]}), run)
    tab = open_page(run.report_html)
    for place in range(tab.locator("#servers-body .open").count()):
        tab.locator("#servers-body .open").nth(place).click()
        tab.get_by_role("dialog").wait_for()
        for box in tab.locator("#drawer summary").all():
            box.click()
        opened = tab.locator("#drawer-title").inner_text(), tab.locator("#drawer-line").inner_text()
        if opened[0] == "server-0" and opened[1].startswith("trained"):
            shown = tab.locator("#drawer-body").inner_text()
            assert shown.count("<img src=x onerror=alert(2)>") >= 10
        tab.keyboard.press("Escape")
    assert tab.locator("img").count() == 0
    assert tab.locator("script").count() == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_colour_schemes(make_world, open_page, scheme):
    tab = open_page(small_report(make_world).report_html, color_scheme=scheme)
    tab.locator("#servers-body .open").nth(1).click()
    tab.get_by_role("dialog").wait_for()
    contrasts = tab.evaluate(CONTRASTS)
    assert len(contrasts) > 30
    assert {where: ratio for where, ratio in contrasts.items() if ratio < 4.5} == {}


def test_the_theme_button_switches_colours_and_names_what_it_does(make_world, open_page):
    tab = open_page(small_report(make_world).report_html, color_scheme="light")
    before = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.get_by_role("button", name="Switch to dark colours").click()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert tab.get_by_role("button", name="Switch to light colours").is_visible()


def test_the_chooser_shows_one_row_of_the_breakdowns_at_a_time(make_world, open_page):
    tab = open_page(small_report(make_world).report_html)
    assert tab.locator(".panel:visible").count() == 3
    tab.get_by_label("Row shown in this").select_option("before_training/direct/train")
    assert "before training" in tab.locator(".panel:visible caption").first.inner_text()


def test_nothing_is_wider_than_a_small_screen(make_world, open_page):
    tab = open_page(small_report(make_world).report_html, viewport={"width": 390, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.locator("#servers-body .open").first.click()
    tab.get_by_role("dialog").wait_for()
    title, close = (tab.locator(f"#{name}").bounding_box() for name in ("drawer-title", "close"))
    assert close["y"] < title["y"] + title["height"]  # beside the title, not below it


def test_ten_thousand_predictions_are_drawn_as_they_are_scrolled_to(make_world, open_page):
    world = make_world(10_000)
    fine = dict.fromkeys(FIGURES, FigureScore(value=1.0, outcome=Outcome.SCORED))
    for slug in world.slugs:
        world.add(slug, "trained", fine)
    run = world.written()
    report.report_run(world.recipe(), run)
    started = time.monotonic()
    tab = open_page(run.report_html)
    print(f"opened in {time.monotonic() - started:.2f} s")
    assert tab.locator("#count").inner_text() == "10000 predictions"
    assert len(names(tab)) < 500
    lag = tab.evaluate(
        """() => { const box = document.getElementById('search'), start = performance.now();
        box.value = 'server-99'; box.dispatchEvent(new Event('input'));
        return performance.now() - start; }"""
    )
    print(f"filtered in {lag:.1f} ms")
    assert tab.locator("#count").inner_text() == "111 of 10000 predictions"
    tab.get_by_label("Search servers").fill("")
    tab.locator(".servers-scroll").evaluate("box => box.scrollTo(0, box.scrollHeight)")
    tab.locator("#servers-body tr").nth(200).wait_for(state="attached")


def test_a_comparison_opens_without_errors(make_world, open_page):
    world = make_world(3)
    for slug in world.slugs:
        world.scored(slug)
    run = world.written()
    report.report_run(world.recipe(), run)
    comparison = compare.compare([run.root, run.root], force=False)
    compare.write(comparison, world.root / "out")
    assert json.loads((world.root / "out/comparison.json").read_text())["num_tests"] == 6
    tab = open_page(world.root / "out/comparison.html")
    assert tab.get_by_role("heading", name="Comparison", exact=True).is_visible()


CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = {};
  for (const node of document.querySelectorAll('body *')) {
    const text = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!text || node.closest('script, noscript, svg, option') || !node.checkVisibility()) continue;
    if (node.matches(':disabled')) continue;
    const style = getComputedStyle(node);
    const [a, b] = [light(parse(style.color)), light(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const where = `${node.tagName}.${node.className} in ${node.parentElement.className}`;
    found[where] = Math.min(found[where] ?? 99, Math.round(ratio * 100) / 100);
  }
  return found;
}"""
