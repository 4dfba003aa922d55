"""report.html without a browser: self-contained, and no text of a model ever becomes markup."""

import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser

import pytest

from toolgenesis_sft.errors import Outcome
from toolgenesis_sft.records import FigureScore, Message
from toolgenesis_sft.reporting import page, report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!-- \u2028 &amp;"


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]


def parsed(html):
    tags = Tags()
    tags.feed(html)
    return tags


def hostile_world(make_world):
    """Hostile text wherever a model, or the benchmark's text, can put some."""
    world = make_world(2)
    items = json.loads(world.benchmark.read_text())
    items[0] |= {"primary_label": HOSTILE, "agent_input_prompt": HOSTILE, "sandbox_level": HOSTILE}
    world.benchmark.write_text(json.dumps(items))
    figures = {"launch": FigureScore(value=0.0, outcome=Outcome.MODEL_FAULT, reason=HOSTILE)}
    figures["compliance"] = FigureScore(outcome=Outcome.HARNESS_FAULT, reason=HOSTILE)
    evidence = {
        "tools": [{"name": HOSTILE, "description": HOSTILE, "inputSchema": {}}],
        "match": {"add": HOSTILE},
        "compliance_faults": [HOSTILE],
        "unit_tests": [{"tool": HOSTILE, "expected": HOSTILE, "actual": HOSTILE, "score": 0.0}],
        "tasks": [{"prompt": HOSTILE, "score": 0, "calls": [], "checks": []}],
        "capabilities": [{"kind": HOSTILE, "line": 1, "what": HOSTILE, "authorised": False}],
        "observed": [HOSTILE],
        "stderr": HOSTILE,
    }
    world.add("server-0", "trained", figures, completion=HOSTILE, evidence=evidence)
    world.predictions[0] = world.predictions[0].model_copy(
        update={"turns": (Message(role="assistant", content=HOSTILE),)}
    )
    world.add("server-1", HOSTILE.replace("/", ""), figures, completion=HOSTILE)
    return world


def test_hostile_text_adds_no_element_and_no_attribute_to_the_page(make_world):
    world = hostile_world(make_world)
    run = world.written()
    report.report_run(world.recipe(score={"layers": ["L1"]}), run)
    found = parsed(run.report_html.read_text())
    assert found.tags.count("script") == 4
    assert "img" not in found.tags
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]


def test_the_page_names_nothing_on_a_network(make_world):
    world = make_world(2)
    world.scored("server-0")
    run = world.written()
    report.report_run(world.recipe(), run)
    html = run.report_html.read_text()
    assert "http://" not in html
    assert "https://" not in html
    loading = [(tag, name) for tag, name, _ in parsed(html).attributes if name in ("src", "srcset")]
    assert loading == []


def test_the_policy_admits_this_script_and_this_style_and_nothing_else(make_world):
    world = make_world(1)
    world.scored("server-0")
    run = world.written()
    report.report_run(world.recipe(), run)
    html = run.report_html.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html).group(1)
    policy = policy.replace("&#39;", "'")
    assert policy.startswith("default-src 'none'")
    for tag in ("script", "style"):
        inline = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_no_element_carries_a_style_of_its_own_which_the_policy_would_drop(make_world):
    world = make_world(1)
    world.scored("server-0")
    run = world.written()
    report.report_run(world.recipe(), run)
    assert "style" not in [name for _, name, _ in parsed(run.report_html.read_text()).attributes]


def test_embedded_json_survives_and_cannot_end_its_block():
    text = page.embedded({"a": HOSTILE})
    assert json.loads(text) == {"a": HOSTILE}
    assert not set("<>&") & set(text)
    assert "\u2028" not in text


def test_packed_details_come_back_whole():
    value = {"code": HOSTILE, "n": [1, 2.5, None]}
    assert json.loads(zlib.decompress(base64.b64decode(page.packed(value)))) == value


def unpacked(html):
    """The details of each prediction, read as strictly as a browser reads them."""

    def refuse(word):
        raise ValueError(word)

    blocks = dict(re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', html))
    for text in blocks.values():
        json.loads(text, parse_constant=refuse)
    packed = json.loads(blocks["data-details"])
    return [
        json.loads(zlib.decompress(base64.b64decode(text)), parse_constant=refuse)
        for text in packed
    ]


def test_numbers_that_json_does_not_have_are_shown_by_their_names(make_world):
    world = make_world(1)
    test = {"tool": "a", "arguments": {"x": float("nan")}, "actual": float("-inf"), "score": 0.0}
    fine = FigureScore(value=1.0, outcome=Outcome.SCORED)
    figures = {"compliance": fine, "launch": fine}
    evidence = {"unit_tests": [test]}
    world.add("server-0", "trained", figures, evidence=evidence, details={"f1": float("inf")})
    run = world.written()
    report.report_run(world.recipe(score={"layers": ["L1"]}), run)
    (shown,) = unpacked(run.report_html.read_text())
    assert shown["unit_tests"][0]["arguments"] == {"x": "nan"}
    assert shown["unit_tests"][0]["actual"] == "-inf"


def test_half_a_surrogate_pair_in_a_benchmark_is_no_reason_to_fail(make_world):
    world = make_world(1)
    items = json.loads(world.benchmark.read_text())
    items[0]["primary_label"] = "half \ud800"
    world.benchmark.write_text(json.dumps(items))
    world.scored("server-0")
    run = world.written()
    report.report_run(world.recipe(), run)
    assert "half ?" in run.report_html.read_text()


def test_names_of_models_and_folders_keep_their_underscores(make_world):
    world = make_world(1)
    world.scored("server-0", model="my_model/v_2")
    run = world.written()
    report.report_run(world.recipe(), run)
    html = run.report_html.read_text()
    assert '<span class="who">my_model/v_2</span>' in html
    assert page.row_title("before_training/direct") == "before training, direct"


def test_the_row_to_reproduce_is_marked_among_the_published(make_world):
    world = make_world(1)
    world.scored("server-0")
    run = world.written()
    report.report_run(world.recipe(), run)
    (row,) = re.findall(
        r"<tr class=\"published\">(?:(?!</tr>).)*the run to reproduce",
        run.report_html.read_text(),
        re.S,
    )
    assert "Qwen3-8B-SFT" in row


def test_every_prediction_has_a_row_and_its_details(make_world):
    world = make_world(3)
    world.scored("server-0")
    run = world.written()
    report.report_run(world.recipe(), run)
    html = run.report_html.read_text()
    blocks = dict(re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', html))
    rows, details = json.loads(blocks["data-rows"]), json.loads(blocks["data-details"])
    assert [row[0] for row in rows["rows"]] == world.slugs
    assert len(details) == 3
    assert "FastMCP" in json.loads(zlib.decompress(base64.b64decode(details[0])))["code"]


def test_evidence_outside_the_run_is_not_read(make_world):
    world = make_world(1)
    world.scored("server-0")
    (world.root / "secret.json").write_text('{"code": "the answer key"}')
    world.scores[0] = world.scores[0].model_copy(update={"evidence": "../secret.json"})
    run = world.written()
    report.report_run(world.recipe(), run)
    html = run.report_html.read_text()
    details = json.loads(re.search(r'id="data-details">(.*?)</script>', html).group(1))
    shown = json.loads(zlib.decompress(base64.b64decode(details[0])))
    assert shown["unreadable"] == "the path leaves the run folder"
    assert "answer key" not in json.dumps(shown)


def test_the_headline_speaks_of_held_out_scenarios_and_names_memorisation(make_world):
    world = make_world(4, num_train=2)
    world.trained_on(world.slugs[:2])
    for slug in world.slugs[:3]:
        world.scored(slug)
    world.failed(world.slugs[3])
    summary = report.report_run(world.recipe(), world.written())
    told = page.headline(summary)
    assert "on 2 held-out scenarios 50 % of the servers launch" in told
    assert "On the 2 it was trained on, 100 % launch: memorisation" in told


@pytest.mark.parametrize("model", ["before_training", "trained"])
def test_the_page_shows_both_models_and_the_word_memorisation(make_world, model):
    world = make_world(4, num_train=2)
    world.trained_on(world.slugs[:2])
    for slug in world.slugs:
        world.scored(slug)
        world.failed(slug, model="before_training")
    run = world.written()
    report.report_run(world.recipe(), run)
    html = run.report_html.read_text()
    assert page.words(model) in html
    assert '<span class="tag memory">memorisation</span>' in html
