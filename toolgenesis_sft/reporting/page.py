"""report.html: one self-contained file that opens without a server and without a network.

Text of models under test reaches it in two ways only: through jinja2 with autoescape on, and
inside JSON blocks whose angle brackets are escaped and which the script inserts as text. A content
security policy admits this page's own script and style by digest and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from toolgenesis_sft.records import BEFORE, FIGURES, FigureName, GroupSummary, Json, RunReport
from toolgenesis_sft.reporting import charts, evidence
from toolgenesis_sft.reporting.analysis import Analysis
from toolgenesis_sft.reporting.breakdown import SideFigure
from toolgenesis_sft.reporting.study import LAYERS, Study
from toolgenesis_sft.runs import write_text

TEMPLATES = Path(__file__).parent / "templates"
TITLES: dict[str, str] = {
    "program": "Program",
    "compliance": "Compliance",
    "launch": "Launch",
    "schema_f1": "Schema F1",
    "ut_soft": "UT soft",
    "ut_hard": "UT hard",
    "capability_boundary": "Boundary",
    "task_utility": "Task utility",
}
MEANINGS: dict[str, str] = {
    "program": "The completion holds a whole Python program.",
    "compliance": "The live tools/list follows the MCP schema and JSON Schema 2020-12.",
    "launch": "The server starts and lists at least one tool.",
    "schema_f1": "Its tools and arguments match the reference tools.",
    "ut_soft": "Recorded calls: mean agreement of the answers.",
    "ut_hard": "Recorded calls: share of answers that agree.",
    "capability_boundary": "It can do, and tries, nothing that its task does not call for.",
    "task_utility": "Whole tasks, replayed on the server, end as they should.",
}
MODELS = {BEFORE: "before training"}
STRATEGIES: dict[str, str] = {
    "direct": "direct",
    "direct_two_calls": "direct, schema first",
    "coder_agent": "coder agent",
    "oracle": "oracle schema",
    "imported": "imported",
}
SETS: dict[str, str] = {
    "held_out": "held-out",
    "train": "training",
    "all": "all",
}
OUTCOMES = ("scored", "model_fault", "not_reached", "harness_fault")


def write(study: Study, report: RunReport, analysis: Analysis) -> None:
    # A benchmark file may hold half of a surrogate pair, which UTF-8 has no bytes for.
    html = render(study, report, analysis).encode("utf-8", errors="replace").decode()
    write_text(study.folder.report_html, html)


def render(study: Study, report: RunReport, analysis: Analysis) -> str:
    """The whole page. The same run gives the same bytes."""
    rows, details = server_rows(study)
    return render_template(
        "report.html.j2",
        script="report.js",
        report=report,
        analysis=analysis,
        headline=headline(report),
        sections=table_sections(report),
        groups=[(group_key(group), group_title(group)) for group in report.groups],
        default_group=group_key(leading_group(report)),
        rows_json=embedded(rows),
        details_json=embedded(details),
        scenarios_json=embedded(
            {slug: packed(shown) for slug, shown in evidence.scenario_detail(study).items()}
        ),
        num_rows=len(details),
        judged=judged(analysis),
        key_of=group_key,
        rated_by_judge=bool(report.provenance.get("score", {}).get("agent")),
    )


def judged(analysis: Analysis) -> dict[str, SideFigure]:
    """The LLM judge's column of the capability boundary, by the key of its row."""
    return {
        f"{side.model}/{side.strategy}/{side.scenarios}": side
        for side in analysis.side_figures
        if side.name == "boundary_judged"
    }


def render_template(name: str, script: str | None, **context: object) -> str:
    """A template with the shared style, its script and the policy that admits just those two."""
    style = _asset("report.css")
    code = _asset(script) if script else ""
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:;"
        f" style-src '{_digest(style)}'; script-src {_quoted_digest(code)}"
    )
    return (
        _environment()
        .get_template(name)
        .render(policy=policy, style=Markup(style), script=Markup(code), **context)
    )


def _quoted_digest(code: str) -> str:
    return f"'{_digest(code)}'" if code else "'none'"


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        charts=charts,
        figures=FIGURES,
        layers=LAYERS,
        titles=TITLES,
        meanings=MEANINGS,
        strategies=STRATEGIES,
        sets=SETS,
        num_scenarios=num_scenarios,
        outcomes=OUTCOMES,
    )
    environment.filters.update(
        score=score_text, points=points_text, words=words, model=model_title, row=row_title
    )
    return environment


def score_text(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.3f}"


def points_text(value: float) -> str:
    """A difference in points of 100, with its sign."""
    points = round(100 * value, 1) + 0.0  # adding 0 takes the sign from a rounded -0.04
    return f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")


def num_scenarios(count: int, scenarios: str) -> str:
    kind = {"held_out": "held-out ", "train": "training ", "all": ""}[scenarios]
    return f"{count} {kind}scenario{'' if count == 1 else 's'}"


def strategy_title(name: str) -> str:
    return STRATEGIES.get(name, name)


def plain(text: str) -> str:
    """Without control characters: a model's name must not steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def words(name: str) -> str:
    """Of our own names; a model's or a folder's keeps its underscores."""
    return name.replace("_", " ")


def model_title(model: str) -> str:
    return MODELS.get(model, model)


def row_title(name: str) -> str:
    """Of a row's name, `model/strategy`."""
    model, _, strategy = name.rpartition("/")
    return f"{model_title(model)}, {strategy_title(strategy)}"


def embedded(value: Json) -> Markup:
    """JSON for a <script type="application/json"> block: no character of it can end the block."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def packed(value: Json) -> str:
    """zlib in base64: details of thousands of servers stay small, and are unpacked when opened."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    data = text.encode("utf-8", errors="replace")
    return base64.b64encode(zlib.compress(data, 6)).decode()


def server_rows(study: Study) -> tuple[dict[str, Json], list[str]]:
    """The list of servers (compact rows, columns named once) and, beside it, each one's details."""
    set_of = {slug: name for name in ("train", "held_out") for slug in study.sets.get(name, ())}
    scenario = {s.slug: s for s in study.benchmark.scenarios}
    rows, details = [], []
    for contestant, key in evidence.keys_in_order(study):
        slug, sample = key[2], key[3]
        scores = {
            figure: study.figure(contestant, slug, figure)[sample]
            for figure in study.figures
            if study.applies(slug, figure)
        }
        reasons = [s.reason for s in scores.values() if s.reason and s.outcome != "not_reached"]
        shown = evidence.detail(study, key)
        shown["reasons"] = {f: s.reason for f, s in scores.items() if s.reason}
        rows.append(
            [
                slug,
                contestant.model,
                contestant.strategy,
                sample,
                set_of.get(slug, "all"),
                scenario[slug].primary_label,
                scenario[slug].server_class,
                [scores[f].value if f in scores else None for f in study.figures],
                "".join(
                    OUTCOME_CODES[scores[f].outcome] if f in scores else "-" for f in study.figures
                ),
                reasons[0].partition(":")[0] if reasons else "",
            ]
        )
        details.append(packed(shown))
    head: dict[str, Json] = {
        "figures": list(study.figures),
        "titles": TITLES,
        "models": MODELS,
        "sets": SETS,
        "strategies": STRATEGIES,
        "samples": max(study.num_samples.values()),
        "trained_on": sorted(study.trained_on),
        "trained": [c.model for c in study.contestants if study.memorised(c, "train")],
        "rows": rows,
    }
    return head, details


OUTCOME_CODES = {"scored": "s", "model_fault": "m", "not_reached": "n", "harness_fault": "h"}


def group_key(group: GroupSummary) -> str:
    return f"{group.model}/{group.strategy}/{group.scenarios}"


def group_title(group: GroupSummary) -> str:
    memorised = " (memorisation)" if group.memorisation else ""
    return (
        f"{model_title(group.model)} · {STRATEGIES[group.strategy]} ·"
        f" {SETS[group.scenarios]} scenarios{memorised}"
    )


def table_sections(report: RunReport) -> list[tuple[str, list[GroupSummary]]]:
    """The measured rows by set of scenarios: skill first, memorisation after it."""
    titles = {
        "held_out": "Held-out scenarios",
        "train": "Training scenarios",
        "all": "All scenarios that were asked for",
    }
    if any(group.memorisation for group in report.groups):
        titles["train"] += ": memorisation, the trained model saw these answers"
    return [
        (title, [group for group in report.groups if group.scenarios == name])
        for name, title in titles.items()
        if any(group.scenarios == name for group in report.groups)
    ]


def leading_group(report: RunReport) -> GroupSummary:
    """The row that the page speaks about first: the trained model on held-out scenarios."""

    def order(group: GroupSummary) -> tuple[bool, bool]:
        return (group.model != BEFORE, group.scenarios == "held_out")

    return max(report.groups, key=order)


def headline(report: RunReport) -> str:
    """One sentence: what the leading row scores, and beside it what was memorised."""
    group = leading_group(report)
    if report.headline_blocked:
        return "No headline: some predictions could not be scored, through no fault of the model."
    told: tuple[tuple[FigureName, str], ...] = (
        ("launch", "of the servers launch"),
        ("ut_hard", "of a server's recorded calls are answered rightly (mean over servers)"),
    )
    said = " and ".join(
        f"{100 * summary.mean_all:.0f} % {phrase}"
        for figure, phrase in told
        if (summary := group.figures.get(figure)) is not None and summary.mean_all is not None
    )
    who = row_title(f"{group.model}/{group.strategy}")
    sentence = f"{who}: on {num_scenarios(group.num_servers, group.scenarios)} {said}."
    sentence = sentence[0].upper() + sentence[1:]
    for other in report.groups:
        if (other.model, other.strategy) == (group.model, group.strategy) and other.memorisation:
            launch = other.figures.get("launch")
            if launch is not None and launch.mean_all is not None:
                sentence += (
                    f" On the {other.num_servers} it was trained on, {100 * launch.mean_all:.0f} %"
                    " launch: memorisation."
                )
    return sentence
