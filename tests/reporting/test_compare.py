"""Comparisons: paired, honest about chance, honest about what could not have been seen."""

import json

import numpy as np
import pytest

from toolgenesis_sft.config import Report
from toolgenesis_sft.errors import Outcome, UserError
from toolgenesis_sft.records import FigureScore
from toolgenesis_sft.reporting import compare, report, stats
from toolgenesis_sft.runs import write_json

FAST = Report(bootstrap_resamples=100)
NUM_SERVERS = 86
NUM_FIGURES = 7


def scored_folder(world, make_values, name):
    """A `score --out` folder where server i has the figures that make_values(i) gives."""
    world.out = world.root / name
    world.predictions, world.scores = [], []
    for index, slug in enumerate(world.slugs):
        world.scored(slug, **make_values(index))
    world.written()
    report.report_folder(world.benchmark, world.out, FAST)
    return world.out


def simulated_run(rng, difficulty, lift=0.0):
    """Seven figures of 86 servers: each server has its own difficulty, a run draws around it, and
    what does not launch has 0 in all figures. [servers, figures]"""
    launched = rng.random(NUM_SERVERS) < np.clip(difficulty + lift, 0, 1)
    noise = rng.normal(0, 0.1, (NUM_SERVERS, NUM_FIGURES - 1))
    graded = np.clip(difficulty[:, None] + lift + noise, 0, 1) * launched[:, None]
    return np.column_stack([launched.astype(float), graded])


def test_runs_that_differ_by_chance_alone_find_nothing_in_95_of_100_cases():
    quiet = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        difficulty = rng.beta(1.2, 1.2, NUM_SERVERS)
        a, b = simulated_run(rng, difficulty), simulated_run(rng, difficulty)
        p_values = compare.significance(list((b - a).T))
        quiet += min(p_values) >= stats.ALPHA
    assert quiet >= 95


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.45])
def test_a_planted_difference_of_10_points_on_86_servers_is_found_or_declared_possible(
    make_world, spread
):
    world = make_world(NUM_SERVERS)
    rng = np.random.default_rng(7)
    before = np.clip(rng.normal(0.45, 0.2, NUM_SERVERS), 0, 1)
    noise = rng.normal(0, spread, NUM_SERVERS)
    after = before + 0.10 + noise - noise.mean()
    a = scored_folder(world, lambda i: {"schema_f1": float(before[i])}, "a")
    b = scored_folder(world, lambda i: {"schema_f1": float(after[i])}, "b")
    comparison = compare.compare([a, b], force=False)
    row = next(f for f in comparison.pairs[0].figures if f.figure == "schema_f1")
    assert row.difference == pytest.approx(0.10)
    if row.verdict == "not_shown":
        assert row.smallest_detectable > 0.10
        assert row.ci_family[0] < 0.10 < row.ci_family[1]
        assert "remain possible" in compare.sentence(row)
    else:
        assert row.verdict == "better"
        assert row.ci_family[0] > 0
    assert (row.verdict == "better") == (spread <= 0.2)


def test_a_true_difference_of_10_points_is_found_or_stays_within_what_is_called_possible():
    num_found = num_wrong = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        difference = rng.normal(0.10, [0.1, 0.3, 0.5][seed % 3], NUM_SERVERS)
        found = stats.sign_flip_p(difference) * NUM_FIGURES < stats.ALPHA
        level = 1 - stats.ALPHA / NUM_FIGURES
        low, high = stats.intervals(difference[:, None], 2000, level)[0]
        num_found += found
        num_wrong += not found and not low < 0.10 < high
    assert 15 <= num_found <= 45  # both answers occur
    assert num_wrong <= 1  # the interval's own level: 1 - ALPHA / NUM_FIGURES


def test_a_difference_that_is_not_shown_leaves_equality_possible(make_world):
    world = make_world(12)
    a = scored_folder(world, lambda i: {"ut_hard": 0.0}, "a")
    b = scored_folder(world, lambda i: {"ut_hard": 1.0 if i < 5 else 0.0}, "b")
    row = next(
        f for f in compare.compare([a, b], force=False).pairs[0].figures if f.figure == "ut_hard"
    )
    assert row.ci95[0] > 0  # the bootstrap alone would call five servers enough
    assert row.verdict == "not_shown"
    assert row.ci_family[0] <= 0


def test_wins_and_losses_name_the_servers_largest_change_first(make_world):
    world = make_world(4)
    a = scored_folder(world, lambda i: {"ut_hard": [0.0, 0.5, 0.5, 0.5][i]}, "a")
    b = scored_folder(world, lambda i: {"ut_hard": [1.0, 0.6, 0.5, 0.1][i]}, "b")
    row = next(
        f for f in compare.compare([a, b], force=False).pairs[0].figures if f.figure == "ut_hard"
    )
    assert row.won == ("server-0", "server-1")
    assert row.lost == ("server-3",)
    assert (row.wins, row.losses, row.ties) == (2, 1, 1)


def test_runs_on_different_benchmarks_are_refused_unless_told(make_world):
    world = make_world(3)
    a = scored_folder(world, lambda i: {}, "a")
    items = json.loads(world.benchmark.read_text())
    items[0]["agent_input_prompt"] += " And it subtracts."
    world.benchmark.write_text(json.dumps(items))
    b = scored_folder(world, lambda i: {}, "b")
    with pytest.raises(UserError, match="benchmark_digest"):
        compare.compare([a, b], force=False)
    forced = compare.compare([a, b], force=True)
    assert [s.name for s in forced.settings if s.blocking] == ["benchmark_digest"]
    assert "incomparable" in compare.table(forced)


def test_runs_with_different_profiles_are_refused_unless_told(make_world):
    world = make_world(2)
    folders = []
    for profile in ("strict", "tg-compat"):
        folder = world.root / profile
        write_json(folder / "score.json", {"profile": profile})
        write_json(folder / "provenance.json", {"score": {"profile": profile}})
        folders.append(scored_folder(world, lambda i: {}, profile))
    with pytest.raises(UserError, match="profile"):
        compare.compare(folders, force=False)
    assert compare.compare(folders, force=True).num_tests > 0


def test_other_settings_that_differ_are_said_and_do_not_block(make_world):
    world = make_world(2)
    folders = []
    for attempts in (1, 3):
        folder = world.root / f"attempts-{attempts}"
        write_json(folder / "score.json", {"launch_attempts": attempts})
        write_json(folder / "provenance.json", {"score": {"commit": "abc"}})
        folders.append(scored_folder(world, lambda i: {}, folder.name))
    (setting,) = compare.compare(folders, force=False).settings
    assert (setting.name, setting.values, setting.blocking) == (
        "launch_attempts",
        ("1", "3"),
        False,
    )


def test_a_run_with_harness_faults_is_refused_and_with_force_leaves_those_servers_out(make_world):
    world = make_world(3)
    a = scored_folder(world, lambda i: {}, "a")
    world.out = world.root / "b"
    world.predictions, world.scores = [], []
    world.scored("server-0")
    world.scored("server-1")
    world.unscored("server-2")
    world.written()
    report.report_folder(world.benchmark, world.out, FAST)
    with pytest.raises(UserError, match="did not score"):
        compare.compare([a, world.out], force=False)
    pair = compare.compare([a, world.out], force=True).pairs[0]
    assert pair.num_unscored == 1
    assert {f.num_servers for f in pair.figures} == {2}


def test_a_folder_without_a_report_says_what_to_run(make_world):
    world = make_world(1)
    world.scored("server-0")
    world.written()
    with pytest.raises(UserError, match="toolgenesis-sft report"):
        compare.compare([world.out, world.out], force=False)


def test_a_report_older_than_its_scores_is_refused(make_world):
    world = make_world(2)
    a = scored_folder(world, lambda i: {}, "a")
    (a / "scores.jsonl").write_text(world.scores[0].to_line())
    with pytest.raises(UserError, match="scored again after its report"):
        compare.compare([a, a], force=False)


def test_one_run_is_compared_with_itself_before_and_after_training(make_world):
    world = make_world(14, num_train=4)
    world.trained_on(world.slugs[:4])
    for slug in world.slugs:
        world.failed(slug, model="before_training")
        world.scored(slug)
    run = world.written()
    report.report_run(world.recipe(), run)
    comparison = compare.compare([run.root], force=False)
    tested = [pair for pair in comparison.pairs if pair.tested]
    assert [(pair.scenarios, pair.num_servers) for pair in tested] == [("held_out", 10)]
    assert tested[0].a.endswith("before_training/direct")
    assert {f.verdict for f in tested[0].figures} == {"better"}
    memorised = next(pair for pair in comparison.pairs if pair.scenarios == "train")
    assert memorised.memorisation
    assert {f.verdict for f in memorised.figures} == {"described"}


def test_scenarios_that_either_side_was_trained_on_are_called_memorisation(make_world):
    world = make_world(4, num_train=2)
    world.trained_on(world.slugs[:2])
    for slug in world.slugs:
        world.scored(slug)
    trained = world.written()
    report.report_run(world.recipe(generate={"scenarios": "train"}), trained)
    world.out = world.root / "other"
    report.report_folder(world.benchmark, world.written().root, FAST)
    for folders in ([trained.root, world.out], [world.out, trained.root]):
        pairs = compare.compare(folders, force=False).pairs
        assert [(pair.scenarios, pair.memorisation) for pair in pairs] == [
            ("train", True),
            ("all", True),
        ]


def test_runs_of_one_name_are_told_apart_by_their_folders(make_world):
    world = make_world(2)
    folders = [scored_folder(world, lambda i: {}, f"{name}/run") for name in ("a", "b")]
    (pair,) = compare.compare(folders, force=False).pairs
    assert pair.a == f"{folders[0]}: trained/direct"
    assert pair.b == f"{folders[1]}: trained/direct"


def test_so_few_servers_that_nothing_could_show_are_said_to_be_so(make_world):
    world = make_world(3)
    a, b = (scored_folder(world, lambda i, v=v: {"launch": v}, f"{v}") for v in (0.0, 1.0))
    comparison = compare.compare([a, b], force=False)
    row = next(f for f in comparison.pairs[0].figures if f.figure == "launch")
    assert (row.verdict, row.smallest_detectable) == ("not_shown", None)
    assert "no difference could show on so few servers" in compare.sentence(row)
    assert "nothing  not shown" in compare.table(comparison)


def test_a_folder_without_a_recipe_differs_in_that_and_not_in_each_field(make_world):
    world = make_world(2)
    folders = [scored_folder(world, lambda i: {}, name) for name in ("a", "b", "c")]
    for folder, epochs in zip(folders[1:], (1, 3), strict=True):
        write_json(folder / "config.json", {"seed": 0, "train": {"epochs": epochs}})
    settings = compare.compare(folders, force=False).settings
    assert [(setting.name, setting.values) for setting in settings] == [
        ("train.epochs", ("none", "1", "3")),
        ("recipe", ("none", "config.json", "config.json")),
    ]


def test_long_settings_are_shown_from_where_they_differ(make_world):
    world = make_world(2)
    folders = [scored_folder(world, lambda i: {}, name) for name in ("a", "b")]
    for folder in folders:
        write_json(folder / "config.json", {"model": f"/{'deep/' * 12}{folder.name}/model"})
    table = compare.table(compare.compare(folders, force=False))
    assert "...ep/deep/a/model | ...ep/deep/b/model" in table


@pytest.mark.parametrize("report_json", ["{}", '{"name": 3}', "[]", '"text"'])
def test_a_report_of_another_version_is_one_line(make_world, report_json):
    folder = make_world(1).root
    (folder / "report.json").write_text(report_json)
    with pytest.raises(UserError, match="is not as this version writes it"):
        compare.compare([folder, folder], force=False)


def test_one_row_alone_cannot_be_compared(make_world):
    world = make_world(1)
    a = scored_folder(world, lambda i: {}, "a")
    with pytest.raises(UserError, match="one row only"):
        compare.compare([a], force=False)


def test_each_further_run_meets_the_first_and_all_their_tests_are_one_family(make_world):
    world = make_world(12)
    folders = [
        scored_folder(world, lambda i, v=value: {"ut_hard": v}, f"run-{value}")
        for value in (0.2, 0.4, 0.6)
    ]
    comparison = compare.compare(folders, force=False)
    assert [pair.a for pair in comparison.pairs] == ["run-0.2: trained/direct"] * 2
    assert comparison.num_tests == 2 * 6
    row = next(f for f in comparison.pairs[0].figures if f.figure == "ut_hard")
    assert row.p_holm == pytest.approx(min(1.0, row.p * 12))


def test_models_with_other_names_meet_where_their_strategies_agree(make_world):
    world = make_world(2)
    one = {"launch": FigureScore(value=1.0, outcome=Outcome.SCORED)}
    folders = []
    for model in ("model-a", "model-b"):
        world.out = world.root / model
        world.predictions, world.scores = [], []
        for slug in world.slugs:
            world.add(slug, model, one, strategy="coder_agent")
        world.written()
        report.report_folder(world.benchmark, world.out, FAST)
        folders.append(world.out)
    (pair,) = compare.compare(folders, force=False).pairs
    assert pair.b == "model-b: model-b/coder_agent"


def test_a_comparison_is_written_as_json_and_html_with_names_escaped(make_world):
    world = make_world(2)
    world.slugs = ["server-0", "server-1"]
    folders = []
    for name in ("a", "b"):
        world.out = world.root / name
        world.predictions, world.scores = [], []
        for slug in world.slugs:
            world.scored(slug, model="<script>alert(1)</script>".replace("/", ""))
        world.written()
        report.report_folder(world.benchmark, world.out, FAST)
        folders.append(world.out)
    comparison = compare.compare(folders, force=False)
    compare.write(comparison, world.root / "out")
    html = (world.root / "out/comparison.html").read_text()
    written = json.loads((world.root / "out/comparison.json").read_text())
    assert compare.Comparison.model_validate(written) == comparison
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "not shown" in compare.table(comparison)
