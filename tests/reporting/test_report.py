"""report.json and the table: the benchmark is the denominator, and nothing drops out."""

import contextlib
import json
import random
import subprocess
import sys
import time

import pytest

from toolgenesis_sft.config import Report
from toolgenesis_sft.errors import Outcome, UserError
from toolgenesis_sft.records import FigureScore, RunReport
from toolgenesis_sft.reporting import page, published, report
from toolgenesis_sft.runs import write_json

FAST = Report(bootstrap_resamples=200)


def group(summary, model="trained", scenarios="all", strategy="direct"):
    return next(
        g
        for g in summary.groups
        if (g.model, g.scenarios, g.strategy) == (model, scenarios, strategy)
    )


def test_a_server_that_never_launches_counts_as_zero_in_every_figure(make_world):
    world = make_world(4)
    world.scored("server-0")
    for slug in world.slugs[1:]:
        world.failed(slug)
    world.written()
    found = group(report.report_folder(world.benchmark, world.out, FAST))
    assert found.figures["launch"].mean_all == 0.25
    assert found.figures["ut_hard"].mean_all == 0.25
    assert found.figures["ut_hard"].mean_reached == 1.0
    assert found.figures["ut_hard"].n == 4
    assert found.figures["ut_hard"].outcomes == {Outcome.SCORED: 1, Outcome.NOT_REACHED: 3}


def test_what_a_run_has_no_answer_to_is_owed_by_the_harness_and_no_zero(make_world):
    world = make_world(3)
    world.scored("server-2")
    run = world.written()
    summary = report.report_run(world.recipe(), run)
    assert summary.headline_blocked
    assert [line.partition(":")[0] for line in summary.harness_faults] == [
        "trained/direct server-0 sample 0",
        "trained/direct server-1 sample 0",
    ]
    found = group(summary)
    assert (found.figures["launch"].mean_all, found.missing_slugs) == (None, ())
    assert found.figures["launch"].outcomes == {Outcome.SCORED: 1, Outcome.HARNESS_FAULT: 2}
    assert "Run generate and score again, then report" in " ".join(report.table(summary).split())
    faults = [(f["where"], f["at_fault"], f["kind"], f["count"]) for f in summary.extra["faults"]]
    assert faults == [("program", "harness", "unanswered", 2)]
    world.failed("server-0")
    world.failed("server-1")
    summary = report.report_run(world.recipe(), world.written())
    assert not summary.headline_blocked
    assert group(summary).figures["launch"].mean_all == pytest.approx(1 / 3)


def test_a_run_in_which_nobody_answered_names_who_was_asked(make_world):
    world = make_world(2)
    run = world.written()
    write_json(run.provenance, {"generate": {"models": {"gpt-4.1": {"digest": "x"}}}})
    summary = report.report_run(world.recipe(), run)
    assert [(g.model, g.strategy) for g in summary.groups] == [("gpt-4.1", "direct")]
    assert len(summary.harness_faults) == 2


def test_what_a_submission_leaves_out_is_a_fault_of_the_model(make_world):
    world = make_world(4)
    world.scored("server-2")
    world.written()
    found = group(report.report_folder(world.benchmark, world.out, FAST))
    assert found.figures["launch"].outcomes == {Outcome.SCORED: 1, Outcome.MODEL_FAULT: 3}
    assert found.missing_slugs == ("server-0", "server-1", "server-3")


def test_a_sample_that_a_submission_leaves_out_is_listed_and_counts_as_zero(make_world):
    world = make_world(2)
    scored = {"launch": FigureScore(value=1.0, outcome=Outcome.SCORED)}
    for slug, sample in (("server-0", 0), ("server-0", 1), ("server-1", 0)):
        world.add(slug, "trained", scored, sample=sample)
    world.written()
    summary = report.report_folder(world.benchmark, world.out, FAST)
    found = group(summary)
    assert (found.figures["launch"].mean_all, found.missing_slugs) == (0.75, ("server-1",))
    table = report.table(summary)
    assert "2 samples a server" in table
    assert "1 left out, count as 0" in table
    assert any("server-1" in note for note in summary.extra["notes"])


def test_an_empty_submission_scores_zero_with_all_servers_counted(make_world):
    world = make_world(5)
    world.written()
    summary = report.report_folder(world.benchmark, world.out, FAST)
    (found,) = summary.groups
    for figure in ("compliance", "launch", "schema_f1", "ut_soft", "ut_hard"):
        assert found.figures[figure].mean_all == 0.0
        assert found.figures[figure].outcomes == {Outcome.MODEL_FAULT: 5}
    assert len(found.missing_slugs) == 5


def test_a_harness_fault_blocks_the_headline_and_is_listed(make_world):
    world = make_world(3)
    world.scored("server-0")
    world.scored("server-1")
    world.unscored("server-2")
    summary = report.report_run(world.recipe(), world.written())
    assert summary.headline_blocked
    assert summary.harness_faults == (
        "trained/direct server-2 sample 0: judge_down: connection refused",
    )
    figure = group(summary).figures["launch"]
    assert figure.mean_all is None
    assert figure.ci95 is None
    assert figure.mean_reached == 1.0
    assert "No headline" in report.table(summary)
    assert "blocked" in report.table(summary)


def test_a_prediction_that_was_not_scored_yet_blocks_the_headline(make_world):
    world = make_world(2)
    world.scored("server-0")
    world.scored("server-1")
    world.scores.pop()
    summary = report.report_run(world.recipe(), world.written())
    assert summary.harness_faults == ("trained/direct server-1 sample 0: not_scored",)


def test_the_training_rows_of_the_trained_model_are_called_memorisation(make_world):
    world = make_world(6, num_train=4)
    world.trained_on(["server-0", "server-1"])
    for slug in ("server-0", "server-1", "server-4", "server-5"):
        world.scored(slug)
        world.failed(slug, model="before_training")
    recipe = world.recipe(generate={"scenarios": "train_and_held_out"})
    summary = report.report_run(recipe, world.written())
    assert group(summary, scenarios="train").memorisation
    assert not group(summary, scenarios="held_out").memorisation
    assert not group(summary, "before_training", "train").memorisation
    assert "memorisation" in report.table(summary)
    sets = {g.scenarios: g.num_servers for g in summary.groups if g.model == "trained"}
    assert list(sets.items()) == [("held_out", 2), ("train", 2), ("all", 4)]


def test_a_checkpoint_of_the_run_memorises_too_and_a_foreign_model_does_not(make_world):
    world = make_world(4, num_train=2)
    world.trained_on(world.slugs[:2])
    own, foreign = str(world.out / "checkpoints/step_000030"), "gpt-4.1"
    for model in (own, foreign):
        for slug in world.slugs:
            world.scored(slug, model=model)
    summary = report.report_run(world.recipe(), world.written())
    assert group(summary, own, "train").memorisation
    assert not group(summary, foreign, "train").memorisation


def test_what_the_model_was_not_trained_on_is_no_training_scenario(make_world):
    world = make_world(6, num_train=4)
    world.trained_on(["server-0"])
    world.scored("server-0")
    summary = report.report_run(world.recipe(), world.written())
    assert group(summary, scenarios="train").num_servers == 1
    assert group(summary, scenarios="held_out").num_servers == 2
    assert group(summary, scenarios="all").num_servers == 6


def test_samples_are_averaged_within_their_server_first(make_world):
    world = make_world(2)
    for sample, value in enumerate([1.0, 1.0, 0.0, 0.0]):
        figures = {"launch": FigureScore(value=value, outcome=Outcome.SCORED)}
        world.add("server-0", "trained", figures, sample=sample)
        zero = {"launch": FigureScore(value=0.0, outcome=Outcome.MODEL_FAULT, reason="spawn")}
        world.add("server-1", "trained", zero, sample=sample)
    recipe = world.recipe(generate={"num_samples": 4}, score={"layers": ["L1"]})
    for index, score in enumerate(world.scores):
        compliance = {"compliance": FigureScore(value=1.0, outcome=Outcome.SCORED)}
        world.scores[index] = score.model_copy(update={"figures": score.figures | compliance})
    summary = report.report_run(recipe, world.written())
    assert group(summary).figures["launch"].mean_all == 0.25
    assert group(summary).figures["launch"].n == 2
    (row,) = (r for r in summary.extra["passes_at_k"] if r["figure"] == "launch")
    assert row["pass_at_k"]["4"] == 0.5
    assert row["pass_at_k"]["1"] == 0.25
    assert row["pass_hat_k"]["4"] == 0.0


def test_a_sample_that_a_run_has_no_answer_to_is_owed(make_world):
    world = make_world(1)
    world.scored("server-0")
    summary = report.report_run(world.recipe(generate={"num_samples": 2}), world.written())
    assert group(summary).figures["launch"].mean_all is None
    [fault] = summary.harness_faults
    assert fault.startswith("trained/direct server-0 sample 1: unanswered")


def test_outcomes_count_predictions_and_the_report_says_how_many_a_server_has(make_world):
    world = make_world(2)
    for slug in world.slugs:
        for sample in range(4):
            scored = FigureScore(value=1.0, outcome=Outcome.SCORED)
            world.add(slug, "trained", {"compliance": scored, "launch": scored}, sample=sample)
    recipe = world.recipe(generate={"num_samples": 4}, score={"layers": ["L1"]})
    run = world.written()
    summary = report.report_run(recipe, run)
    figure = group(summary).figures["launch"]
    assert (figure.n, figure.outcomes) == (2, {Outcome.SCORED: 8})
    assert "4 samples a server" in report.table(summary)
    html = run.report_html.read_text()
    assert '<span class="range">4 samples each</span>' in html
    assert '<th scope="colgroup" class="num" colspan="4">Predictions</th>' in html


def test_a_figure_that_the_benchmark_has_no_data_for_is_not_in_the_table(make_world):
    world = make_world(2)
    for slug in world.slugs:
        world.scored(slug)
    summary = report.report_run(world.recipe(), world.written())
    assert "task_utility" not in group(summary).figures
    assert summary.extra["not_applicable"] == {"task_utility": 2}


def test_servers_without_data_for_a_figure_are_not_in_its_n_whether_they_launch_or_not(make_world):
    world = make_world(3)
    task = {
        "prompt": "Add.",
        "plan": [{"tool": "add", "arguments": {"a": 1}}],
        "outcome": [{"call": 0, "equals": 2}],
    }
    write_json(world.root / "tasks.json", {"server-0": [task]})
    world.scored("server-0", task_utility=0.5)
    world.scored("server-1")
    world.failed("server-2")
    figure = group(report.report_run(world.recipe(), world.written())).figures["task_utility"]
    assert (figure.n, figure.mean_all) == (1, 0.5)


def test_report_json_is_the_report_and_the_same_scores_give_the_same_bytes(make_world):
    world = make_world(4)
    for slug in world.slugs:
        world.scored(slug, ut_soft=0.3)
    run = world.written()
    first = report.report_run(world.recipe(), run)
    text, html = run.report_json.read_bytes(), run.report_html.read_bytes()
    assert RunReport.model_validate_json(text) == first
    report.report_run(world.recipe(), run)
    assert run.report_json.read_bytes() == text
    assert run.report_html.read_bytes() == html


def test_a_summary_writes_nothing(make_world):
    world = make_world(2)
    world.scored("server-0")
    world.failed("server-1")
    run = world.written()
    before = sorted(path.name for path in run.root.iterdir())
    summary = report.summarise_run(world.recipe(), run)
    assert sorted(path.name for path in run.root.iterdir()) == before
    assert group(summary).figures["launch"].mean_all == 0.5


def test_before_and_after_training_stand_side_by_side_paired_by_server(make_world):
    world = make_world(6, num_train=3)
    world.trained_on(world.slugs[:3])
    for slug in world.slugs:
        world.failed(slug, model="before_training")
        world.scored(slug)
    summary = report.report_run(world.recipe(), world.written())
    held_out, train = summary.extra["before_and_after"]
    assert train["memorisation"]
    assert not held_out["memorisation"]
    launch = next(d for d in held_out["differences"] if d["figure"] == "launch")
    assert (launch["difference"], launch["wins"], launch["losses"]) == (1.0, 3, 0)


def test_a_model_that_should_have_been_asked_before_training_and_was_not_is_owed(make_world):
    world = make_world(2)
    for slug in world.slugs:
        world.scored(slug)
    recipe = world.recipe(generate={"compare_before_training": True})
    summary = report.report_run(recipe, world.written())
    assert group(summary).figures["launch"].mean_all == 1.0
    assert group(summary, "before_training").figures["launch"].mean_all is None
    assert len(summary.harness_faults) == 2


def test_the_funnel_loses_each_server_once_where_it_first_fails(make_world):
    world = make_world(4)
    world.scored("server-0")
    world.scored("server-1", schema_f1=0.2, ut_hard=0.0)
    world.failed("server-2", reason="import_error: no module named requests")
    world.failed("server-3", reason="syntax_error")
    summary = report.report_run(world.recipe(), world.written())
    (funnel,) = summary.extra["funnels"]
    lost = {step["gate"]: step["failed_here"] for step in funnel["steps"]}
    assert lost == {
        "program": 1,
        "launch": 1,
        "compliance": 0,
        "schema_f1": 1,
        "ut_hard": 0,
        "capability_boundary": 0,
    }
    assert funnel["steps"][-1]["passed"] == 1


def test_faults_are_counted_by_kind_and_side_with_examples(make_world):
    world = make_world(3)
    world.failed("server-0", reason="import_error: no module named a")
    world.failed("server-1", reason="import_error: no module named b")
    tests = [
        {"tool": "add", "score": 0.0, "fault": "no_tool"},
        {"tool": "add", "score": 0.4},
        {"tool": "add", "score": 0.0, "fault": "broken_arguments_in_benchmark"},
        {"tool": "add", "score": 0.0, "unanswerable": True},
    ]
    figures = {
        n: FigureScore(value=1.0, outcome=Outcome.SCORED)
        for n in ("compliance", "launch", "schema_f1", "ut_soft", "ut_hard", "capability_boundary")
    }
    world.add("server-2", "trained", figures, evidence={"unit_tests": tests})
    summary = report.report_run(world.recipe(), world.written())
    found = {(f["where"], f["kind"], f["at_fault"]): f["count"] for f in summary.extra["faults"]}
    assert found == {
        ("launch", "import_error", "model"): 2,
        ("unit test", "no_tool", "model"): 1,
        ("unit test", "different_answer", "model"): 1,
        ("unit test", "broken_arguments_in_benchmark", "benchmark"): 1,
        ("unit test", "unanswerable", "benchmark"): 1,
    }
    html = (world.out / "report.html").read_text()
    assert html.count('<span class="tag benchmark_fault">benchmark</span>') == 2


def test_a_fault_counts_once_for_each_sample_however_many_figures_it_ends(make_world):
    world = make_world(2)
    broken = FigureScore(outcome=Outcome.MODEL_FAULT, reason="syntax_error")
    late = FigureScore(outcome=Outcome.MODEL_FAULT, reason="no_answer")
    for sample in range(3):
        world.add("server-0", "trained", {"compliance": broken, "launch": broken}, sample=sample)
        world.add("server-1", "trained", {"compliance": late, "launch": late}, sample=sample)
    recipe = world.recipe(score={"layers": ["L1"]}, generate={"num_samples": 3})
    faults = report.report_run(recipe, world.written()).extra["faults"]
    assert {(f["where"], f["kind"], f["count"]) for f in faults} == {
        ("program", "syntax_error", 3),
        ("compliance", "no_answer", 3),
        ("launch", "no_answer", 3),
    }


def test_a_torn_or_foreign_line_of_the_metrics_is_named(make_world):
    world = make_world(1)
    world.scored("server-0")
    run = world.written()
    for line in ("not json", "[1]", '{"loss": 1}'):
        run.metrics.write_text(f'{{"step": 1, "loss": 1}}\n{line}\n')
        with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 = .* is no JSON object"):
            report.report_run(world.recipe(), run)


def test_confidence_is_held_against_the_outcome(make_world):
    world = make_world(4)
    for slug, value, logprob in zip(
        world.slugs, [0.0, 0.2, 0.8, 1.0], [-4, -3, -2, -1], strict=True
    ):
        figures = {
            "compliance": FigureScore(value=value, outcome=Outcome.SCORED),
            "launch": FigureScore(value=value, outcome=Outcome.SCORED),
        }
        world.add(slug, "trained", figures, logprob=float(logprob))
    summary = report.report_run(world.recipe(score={"layers": ["L1"]}), world.written())
    row = next(r for r in summary.extra["alignments"] if r["figure"] == "launch")
    assert (row["auroc"], row["spearman"], row["num_passed"]) == (1.0, 1.0, 2)


def test_a_stated_probability_stands_beside_the_log_probability_and_no_answer_is_no_half(
    make_world,
):
    world = make_world(5)
    said = ["90%", "0.5", "0.7", "0.6", "I cannot say"]
    for slug, value, words in zip(world.slugs, [0.0, 0.2, 0.8, 1.0, 1.0], said, strict=True):
        scored = FigureScore(value=value, outcome=Outcome.SCORED)
        world.add(slug, "trained", {"compliance": scored, "launch": scored}, stated=words)
    summary = report.report_run(world.recipe(score={"layers": ["L1"]}), world.written())
    [row] = [r for r in summary.extra["alignments"] if r["figure"] == "launch"]
    assert row["signal"] == "stated_probability"
    assert (row["num_predictions"], row["num_not_stated"], row["num_passed"]) == (4, 1, 2)
    assert row["auroc"] == 0.5
    assert row["spearman"] == pytest.approx(-0.4)
    page = (world.out / "report.html").read_text()
    assert "<td>stated probability</td>" in page


def test_a_model_that_never_states_its_confidence_is_shown_as_such(make_world):
    world = make_world(3)
    for slug in world.slugs:
        scored = FigureScore(value=1.0, outcome=Outcome.SCORED)
        world.add(slug, "trained", {"compliance": scored, "launch": scored}, stated="")
    summary = report.report_run(world.recipe(score={"layers": ["L1"]}), world.written())
    row = summary.extra["alignments"][0]
    assert (row["num_predictions"], row["num_not_stated"], row["auroc"]) == (0, 3, None)


def test_the_oracle_gap_is_what_the_gold_schema_would_add(make_world):
    world = make_world(3)
    for slug in world.slugs:
        for strategy, value in (("direct_two_calls", 0.25), ("oracle", 0.75)):
            figures = {
                "compliance": FigureScore(value=1.0, outcome=Outcome.SCORED),
                "launch": FigureScore(value=value, outcome=Outcome.SCORED),
            }
            world.add(slug, "trained", figures, strategy=strategy)
    recipe = world.recipe(
        score={"layers": ["L1"]}, generate={"strategies": ["direct_two_calls", "oracle"]}
    )
    summary = report.report_run(recipe, world.written())
    (gap,) = summary.extra["strategy_gaps"]
    assert (gap["a"], gap["b"]) == ("trained/direct_two_calls", "trained/oracle")
    assert next(d for d in gap["differences"] if d["figure"] == "launch")["difference"] == 0.5


def test_side_figures_count_servers_that_were_not_reached_as_zero(make_world):
    world = make_world(2)
    figures = dict.fromkeys(
        ("compliance", "launch", "schema_f1", "ut_soft", "ut_hard", "capability_boundary"),
        FigureScore(value=1.0, outcome=Outcome.SCORED),
    )
    world.add("server-0", "trained", figures, details={"tool_f1": 0.5})
    world.failed("server-1")
    summary = report.report_run(world.recipe(), world.written())
    row = next(r for r in summary.extra["side_figures"] if r["name"] == "tool_f1")
    assert (row["mean_all"], row["mean_reached"], row["num_reached"]) == (0.25, 0.5, 1)


def test_published_rows_are_named_as_published_and_not_as_ours(make_world):
    world = make_world(2)
    world.scored("server-0")
    text = report.table(report.report_run(world.recipe(), world.written()))
    ours, published = text.split("Published, not measured here", 1)
    assert "Qwen3-8B-SFT" not in ours
    assert "Qwen3-8B-SFT, direct" in published
    assert "0.047" in published


def test_the_table_fits_a_terminal_of_80_columns(make_world, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    world = make_world(2)
    world.scored("server-0", model="a-model/with-a-very-long-name-that-goes-on-and-on")
    summary = report.report_run(world.recipe(), world.written())
    assert max(len(line) for line in report.table(summary).splitlines()) <= 80


def test_a_model_name_cannot_steer_the_terminal(make_world):
    world = make_world(1)
    world.scored("server-0", model="evil\x1b[2J")
    world.written()
    assert "\x1b" not in report.table(report.report_folder(world.benchmark, world.out, FAST))


def test_the_published_curve_stands_beside_ours_only_for_the_published_start(make_world):
    world = make_world(1)
    world.scored("server-0")
    run = world.written()
    lines = [{"step": step, "loss": 1 / step} for step in (1, 2, 3, 2)]
    lines[-1]["loss"] = 9.0
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo')
    ours = report.report_run(world.recipe(), run).extra["loss"]
    assert ours["train"] == [[1, 1.0], [2, 9.0], [3, pytest.approx(1 / 3)]]
    assert ours["published"] is None
    recipe = world.recipe()
    card = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"name_or_path": "Qwen/Qwen3-8B"})}
    )
    published = report.report_run(card, run).extra["loss"]["published"]
    assert published["points"][0] == [1, 0.763]


def test_scores_of_scenarios_that_were_not_asked_for_are_left_out_and_named(make_world):
    world = make_world(3, num_train=1)
    world.trained_on(["server-0"])
    for slug in world.slugs:
        world.scored(slug)
    summary = report.report_run(world.recipe(generate={"scenarios": "held_out"}), world.written())
    assert group(summary).num_servers == 2
    assert any("server-0" in note for note in summary.extra["notes"])


@pytest.mark.parametrize(("missing", "stage"), [("predictions", "generate"), ("scores", "score")])
def test_a_report_before_its_stages_says_which_one_to_run(make_world, missing, stage):
    world = make_world(1)
    world.scored("server-0")
    run = world.written()
    getattr(run, missing).unlink()
    with pytest.raises(UserError, match=f"toolgenesis-sft {stage}"):
        report.report_run(world.recipe(), run)


def test_a_folder_scored_on_another_benchmark_is_refused(make_world):
    world = make_world(1)
    world.scored("server-0")
    world.written()
    write_json(world.out / "score.json", {"benchmark_digest": "other", "benchmark": "v2.json"})
    with pytest.raises(UserError, match=r"v2\.json"):
        report.report_folder(world.benchmark, world.out, FAST)


def test_a_folder_that_was_not_scored_to_the_end_is_refused(make_world):
    world = make_world(1)
    world.scored("server-0")
    world.written()
    write_json(world.out / "score.json", {"profile": "strict"})
    with pytest.raises(UserError, match="it continues"):
        report.report_folder(world.benchmark, world.out, FAST)


def test_broken_published_scores_name_the_row(make_world, tmp_path):
    world = make_world(1)
    world.scored("server-0")
    path = tmp_path / "rows.yaml"
    path.write_text("rows: [{model: x, strategy: direct}]")
    recipe = world.recipe(report={"published_scores": str(path)})
    with pytest.raises(UserError, match=r"rows\.yaml"):
        report.report_run(recipe, world.written())


def test_reporting_imports_no_torch():
    code = "import sys, toolgenesis_sft.reporting.report, toolgenesis_sft.reporting.compare;"
    code += "sys.exit('torch' in sys.modules or 'mcp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_installation_without_the_published_file_says_so_in_the_report(
    make_world, tmp_path, monkeypatch
):
    monkeypatch.setattr(published, "resolve_path", lambda text: tmp_path / "nowhere" / text)
    world = make_world(1)
    world.scored("server-0")
    summary = report.report_run(world.recipe(), world.written())
    assert summary.extra["published"] == []
    assert any("No published rows" in note for note in summary.extra["notes"])


def judged_world(make_world, **details):
    world = make_world(4)
    for slug in world.slugs:
        value = FigureScore(value=0.5, outcome=Outcome.SCORED)
        figures = dict.fromkeys(("compliance", "launch", "capability_boundary"), value)
        evidence = {"judged": [{"tool": "add", "within": False, "reason": "<b>It guesses.</b>"}]}
        world.add(slug, "trained", figures, details=details, evidence=evidence)
    return world


def test_the_judges_column_stands_apart_and_changes_no_figure(make_world):
    layers = {"layers": ["L1", "L3"]}
    world = judged_world(make_world, boundary_judged=0.25)
    run = world.written()
    write_json(run.provenance, {"score": {"judge": "judge-8b", "agent": None}})
    summary = report.report_run(world.recipe(score=layers), run)
    assert summary.groups[0].figures["capability_boundary"].mean_all == 0.5
    page = run.report_html.read_text()
    assert page.count("Boundary, LLM judge") == 1
    assert '<td class="num judged">0.250<span class="range">4 judged</span></td>' in page
    assert any("LLM judge (judge-8b)" in note for note in summary.extra["notes"])


def test_without_a_judge_there_is_no_such_column(make_world):
    world = judged_world(make_world)
    run = world.written()
    report.report_run(world.recipe(score={"layers": ["L1", "L3"]}), run)
    assert "LLM judge</th>" not in run.report_html.read_text()


def test_a_judge_that_did_not_answer_is_open_and_not_zero(make_world):
    world = judged_world(make_world, boundary_judged=0.25)
    owed = world.scores[0]
    world.scores[0] = owed.model_copy(update={"details": {"boundary_judged_fault": "down"}})
    summary = report.report_run(world.recipe(score={"layers": ["L1", "L3"]}), world.written())
    [side] = [row for row in summary.extra["side_figures"] if row["name"] == "boundary_judged"]
    assert (side["mean_all"], side["mean_reached"], side["num_reached"]) == (None, 0.25, 3)


def test_task_utility_by_an_agent_is_marked_as_rated_by_a_judge(make_world):
    world = make_world(2)
    for slug in world.slugs:
        world.scored(slug)
    run = world.written()
    write_json(run.provenance, {"score": {"judge": "judge-8b", "agent": {"solver": "judge-8b"}}})
    report.report_run(world.recipe(), run)
    assert '<span class="tag">LLM-rated</span>' in run.report_html.read_text()


def test_killed_at_random_moments_and_written_again_gives_the_same_bytes(make_world):
    """And a report that is there is whole, at every moment."""
    world = make_world(40)
    for slug in world.slugs:
        world.scored(slug, ut_hard=0.5)
    run = world.written()
    line = [sys.executable, "-m", "toolgenesis_sft.cli", "report"]
    line += ["--benchmark", str(world.benchmark), "--out", str(run.root)]
    started = time.monotonic()
    subprocess.run(line, check=True, capture_output=True)
    whole_s = time.monotonic() - started
    files = (run.report_json, run.report_html)
    whole = [path.read_bytes() for path in files]
    chance = random.Random(7)
    for _ in range(6):
        for path in files:
            path.unlink(missing_ok=True)
        child = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(chance.uniform(0.5, 1.0) * whole_s)
        child.kill()
        child.wait()
        for path, content in zip(files, whole, strict=True):
            assert not path.exists() or path.read_bytes() == content
    subprocess.run(line, check=True, capture_output=True)
    assert [path.read_bytes() for path in files] == whole


AGENT = {
    "judge_url": "http://localhost:1/v1",
    "judge_model": "judge-8b",
    "utility": "agent",
    "oracle": "servers",
}


def by_agent(world, run):
    return report.report_run(world.recipe(score=AGENT), run)


def test_a_server_that_does_not_launch_stays_in_the_denominator_of_an_agents_task_utility(
    make_world,
):
    world = make_world(3)
    unreached = FigureScore(outcome=Outcome.NOT_REACHED, reason="launch: syntax_error")
    at_fault = FigureScore(value=0.0, outcome=Outcome.MODEL_FAULT, reason="empty_completion")
    world.scored("server-0", task_utility=1.0)
    for slug, score in (("server-1", unreached), ("server-2", at_fault)):
        failed = world.failed(slug)
        world.scores[-1] = failed.model_copy(
            update={"figures": {**failed.figures, "task_utility": score}}
        )
    summary = by_agent(world, world.written())
    figure = group(summary).figures["task_utility"]
    assert (figure.n, figure.mean_all) == (3, pytest.approx(1 / 3))
    assert summary.extra["not_applicable"] == {}
    assert not any("have no tasks" in note for note in summary.extra["notes"])


def test_a_fault_of_the_solver_or_the_judge_blocks_the_headline_and_is_listed(make_world):
    world = make_world(2)
    owed = FigureScore(outcome=Outcome.HARNESS_FAULT, reason="no_verdict: in 3 answers")
    for slug in world.slugs:
        scored = world.scored(slug)
        world.scores[-1] = scored.model_copy(
            update={"figures": {**scored.figures, "task_utility": owed}}
        )
    summary = by_agent(world, world.written())
    assert summary.headline_blocked
    assert summary.harness_faults == tuple(
        f"trained/direct {slug} sample 0: no_verdict: in 3 answers" for slug in world.slugs
    )
    assert group(summary).figures["task_utility"].mean_all is None


def test_a_server_of_whose_tasks_the_oracle_solves_none_measures_no_one(make_world):
    """The scorer leaves the figure out of its record; another sample of it may not launch."""
    world = make_world(2)
    world.scored("server-0", task_utility=0.5)
    world.scored("server-0", model="other", task_utility=1.0)
    world.scored("server-1")
    failed = world.failed("server-1", model="other")
    unreached = FigureScore(outcome=Outcome.NOT_REACHED, reason="launch: spawn")
    world.scores[-1] = failed.model_copy(
        update={"figures": {**failed.figures, "task_utility": unreached}}
    )
    run = world.written()
    write_json(run.provenance, {"score": {"agent": {"solver": "judge-8b"}}})
    summary = by_agent(world, run)
    assert not summary.headline_blocked
    for model, value in (("trained", 0.5), ("other", 1.0)):
        figure = group(summary, model).figures["task_utility"]
        assert (figure.n, figure.mean_all) == (1, value)
    assert any("none that the agent solves" in note for note in summary.extra["notes"])


def test_figures_that_tg_compat_has_no_judge_and_no_agent_for_are_absent_and_block_nothing(
    make_world,
):
    world = make_world(2)
    task = {"prompt": "Add.", "plan": [{"tool": "add", "arguments": {}}]}
    task["outcome"] = [{"call": 0, "equals": 2}]
    write_json(world.root / "tasks.json", {slug: [task] for slug in world.slugs})
    for slug in world.slugs:
        scored = world.scored(slug)
        figures = {n: s for n, s in scored.figures.items() if n != "capability_boundary"}
        world.scores[-1] = scored.model_copy(update={"figures": figures})
    run = world.written()
    write_json(
        run.root / "score.json", {"profile": "tg-compat", "layers": ["L1", "L2", "L3", "L4"]}
    )
    write_json(run.provenance, {"score": {}})
    summary = report.report_folder(world.benchmark, world.out, FAST)
    assert not summary.headline_blocked
    assert not {"capability_boundary", "task_utility"} & group(summary).figures.keys()


def test_the_headline_says_that_the_share_of_calls_is_a_mean_over_servers(make_world):
    """Four of twelve calls are a third; of servers with 10 and 2 calls, the mean is 40 %."""
    world = make_world(2)
    world.scored("server-0", ut_hard=0.3)
    world.scored("server-1", ut_hard=0.5)
    told = page.headline(report.report_run(world.recipe(), world.written()))
    assert "40 % of a server's recorded calls are answered rightly (mean over servers)" in told


def test_answers_that_a_content_filter_refused_are_named(make_world):
    world = make_world(2)
    world.scored("server-0")
    world.failed("server-1", reason="empty_completion")
    world.predictions[-1] = world.predictions[-1].model_copy(update={"finish_reason": "error"})
    summary = report.report_run(world.recipe(), world.written())
    [note] = [note for note in summary.extra["notes"] if "content filter" in note]
    assert note.endswith("server-1.")
    assert group(summary).figures["launch"].mean_all == 0.5
