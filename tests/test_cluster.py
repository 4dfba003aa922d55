from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from toolgenesis_sft.cli import main
from toolgenesis_sft.cluster import Cluster, jobs, load_cluster
from toolgenesis_sft.config import load_recipe
from toolgenesis_sft.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
TINY = str(ROOT / "recipes" / "tiny_cpu.yaml")
CLUSTERS = {
    "example": (ROOT / "launch" / "cluster.example.yaml").read_text(encoding="utf-8"),
    "everything": """
partition: gpu
cpu_partition: cpu
account: a project's
ranks_per_node: 8
setup: ["module load cuda", "source /opt/env/bin/activate"]
container: apptainer exec --nv image.sif
scratch: /local/scratch of mine
network_interface: ib0
sbatch: ["--mem=0", "--exclusive"]
score_array: 4
""",
    "nothing": "gpus: false\n",
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def printed(capsys: pytest.CaptureFixture[str], cluster: str, *arguments: str) -> str:
    Path("cluster.yaml").write_text(cluster, encoding="utf-8")
    assert main(["submit", *arguments, "--print"]) == 0
    return capsys.readouterr().out


def script(text: str, job: str) -> str:
    """One job's script out of what --print shows."""
    return next(part for part in re.split(r"^(?=#!/)", text, flags=re.M) if f"# {job} of" in part)


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_scripts_of_every_recipe_pass_shellcheck(
    recipe: Path, cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = ("generate.endpoint_model=it's; a $(name)", "--run", "it's mine")
    text = printed(capsys, cluster, str(recipe), *odd)
    shellcheck = shutil.which("shellcheck")
    assert shellcheck, "run launch/setup.sh dev, which installs shellcheck"
    for part in (text, *(script(text, job) for job in ("train", "generate", "score", "report"))):
        done = subprocess.run(
            [shellcheck, "-"], input=part, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_printing_needs_no_slurm_no_data_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert "#SBATCH" in printed(capsys, "{}", str(ROOT / "recipes" / "qwen3_8b_sft.yaml"))
    assert [path.name for path in Path().iterdir()] == ["cluster.yaml"]


@pytest.mark.parametrize(
    ("ranks", "nodes", "ranks_of_a_node"), [(1, 1, 1), (8, 1, 8), (32, 4, 8), (6, 1, 6)]
)
def test_nodes_follow_from_the_recipes_ranks(ranks: int, nodes: int, ranks_of_a_node: int) -> None:
    recipe = load_recipe(Path(TINY), (f"train.num_processes={ranks}",))
    train = jobs(recipe, Cluster(ranks_per_node=8))[0]
    assert (train.nodes, train.gpus, train.cpus) == (nodes, ranks_of_a_node, ranks_of_a_node * 8)


def test_ranks_that_do_not_fill_their_nodes_are_refused() -> None:
    recipe = load_recipe(Path(TINY), ("train.num_processes=12",))
    with pytest.raises(UserError, match=r"train.num_processes = 12.*whole nodes of 8"):
        jobs(recipe, Cluster())


def test_scoring_and_reporting_take_no_gpu() -> None:
    chain = {job.name: job for job in jobs(load_recipe(Path(TINY)), Cluster(cpu_partition="cpu"))}
    assert [job.gpus for job in chain.values()] == [2, 1, 0, 0]
    assert {chain["score"].partition, chain["report"].partition} == {"cpu"}


def test_an_array_scores_in_shards_and_the_last_job_puts_them_together(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = printed(capsys, "gpus: false\nscore_array: 4\n", TINY, "--run", "r")
    score, report = script(text, "score"), script(text, "report")
    assert "#SBATCH --array=1-4\n" in score
    assert "score_%A_%a.log" in score
    shown = score[score.rindex("\nsrun") :].replace("srun --kill-on-bad-exit=1", "printf '%s\\n'")
    echoed = subprocess.run(
        ["bash", "-uc", shown],
        env={"SLURM_ARRAY_TASK_ID": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    arguments = echoed.stdout.splitlines()[3:]
    assert arguments == ["score", TINY, "score.workers=16", "score.shard=3/4", "--run", "r"]
    verbs = re.findall(r"toolgenesis_sft\.cli (\w+) .*", report)
    assert verbs == ["score", "report"]
    assert "--array" not in report
    assert "score.shard" not in report


@pytest.mark.parametrize(
    ("job", "fails", "begun"),
    [
        ("generate", "export", ["export"]),
        ("generate", "generate", ["export", "generate"]),
        ("report", "score", ["score", "report"]),
        ("report", "report", ["score", "report"]),
        ("report", "nothing", ["score", "report"]),
    ],
)
def test_a_stage_that_fails_ends_its_job_but_scores_that_are_owed_do_not_end_the_report(
    job: str,
    fails: str,
    begun: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    srun = Path("bin/srun")
    srun.parent.mkdir()
    srun.write_text(f'#!/bin/bash\necho "$5"\n[ "$5" != {fails} ]\n', encoding="utf-8")
    srun.chmod(srun.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{srun.parent.absolute()}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    text = script(printed(capsys, CLUSTERS["nothing"], TINY), job)
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False)
    assert done.stdout.split() == begun
    assert done.returncode == (fails != "nothing")


def test_an_endpoint_elsewhere_takes_no_gpu_here() -> None:
    recipe = load_recipe(
        Path(TINY), ("generate.engine=endpoint", "generate.endpoint_url=http://host/v1")
    )
    assert jobs(recipe, Cluster())[1].gpus == 0


def test_a_training_asks_for_its_signal_and_its_place_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    train = script(printed(capsys, CLUSTERS["everything"], TINY), "train")
    for line in ("--requeue", "--signal=USR1@300", "--account='a project'\"'\"'s'", "--mem=0"):
        assert f"#SBATCH {line}\n" in train
    assert "set -euo pipefail" in train
    assert train.count("srun --kill-on-bad-exit=1") == 1
    assert "NCCL_SOCKET_IFNAME=ib0" in train


def test_overrides_arrive_as_they_were_given(capsys: pytest.CaptureFixture[str]) -> None:
    override = "generate.endpoint_model=it's; a $(name)"
    text = script(printed(capsys, CLUSTERS["nothing"], TINY, override, "--run", "r"), "generate")
    shown = text[text.rindex("\nsrun") :].replace("srun --kill-on-bad-exit=1", "printf '%s\\n'")
    echoed = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True)
    assert echoed.stdout.splitlines()[3:] == ["generate", TINY, override, "--run", "r"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("partitoin: gpu\n", "partitoin.*did you mean partition"),
        ("ranks_per_node: none\n", "cluster.yaml: ranks_per_node = none"),
        ("", "must be a YAML mapping"),
        ("account: 0123\n", "account = 83: must be text; put it in quotes"),
        ("time: {train: 12:00:00}\n", "time.train = 43200: must be text; put it in quotes"),
        ("time: {train: tomorrow}\n", "time.train = tomorrow: String should match"),
        ("time: 60\n", "time = 60: must be a section"),
        ("setup: module load cuda\n", "setup = module load cuda: must be a list"),
        ("sbatch: [mem=0]\n", "sbatch.0 = mem=0: String should match"),
        ('partition: "gpu\\n#SBATCH --hold"\n', "partition = .*String should match"),
        ("score_array: 0\n", "score_array = 0: Input should be greater"),
        ("time: {trian: 1}\n", "time.trian.*did you mean time.train"),
        ("- a\n", "must be a YAML mapping"),
    ],
)
def test_a_broken_cluster_file_is_one_clear_line(text: str, says: str) -> None:
    Path("cluster.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=says):
        load_cluster(Path("cluster.yaml"))


def test_a_missing_cluster_file_names_one_that_is_there_to_be_copied(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["submit", TINY, "--print"]) == 2
    found = re.search(r"copy (.+) to cluster.yaml", capsys.readouterr().err)
    assert found
    assert load_cluster(Path(found[1])).partition == "gpu"


@pytest.mark.parametrize("name", ["a b; $(c)", "an/inner one"])
def test_a_run_of_any_name_is_found_again_by_each_job(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "{}", TINY, "--run", name)
    wanted = name if "/" not in name else str(Path("runs", name).absolute())
    runs = [line.partition("--run ")[2] for line in text.splitlines() if "--run " in line]
    assert {tuple(shlex.split(re.sub(r"; then$| \|\| status=\$\?$", "", run))) for run in runs} == {
        (wanted,)
    }
    for option in re.findall("^#SBATCH (.*)", text, flags=re.M):
        assert len(shlex.split(option)) == 1, option


def test_a_dry_run_checks_the_cluster_file_too(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cluster.yaml").write_text("partitoin: gpu\n", encoding="utf-8")
    assert main(["submit", TINY, "--dry-run"]) == 2
    assert "did you mean partition" in capsys.readouterr().err


def test_installing_accelerates_configuration_loses_none_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    folder = tmp_path / "accelerate"
    folder.mkdir()
    (folder / "default_config.yaml").write_text("mine: 1\n", encoding="utf-8")
    install = ROOT / "launch" / "install_accelerate_config.sh"
    missing = subprocess.run([install, "nowhere.yaml"], capture_output=True, check=False)
    assert missing.returncode == 2
    assert (folder / "default_config.yaml").read_text(encoding="utf-8") == "mine: 1\n"
    for name in ("accelerate_cpu.yaml", "accelerate_zero3.yaml"):
        subprocess.run([install, ROOT / "launch" / name], check=True)
    kept = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.before*")}
    assert kept["default_config.yaml.before.~1~"] == "mine: 1\n"
    assert "num_processes: 2" in kept["default_config.yaml.before"]


# What sbatch answers, from a stand-in that writes down how it was called and refuses the third job.
SBATCH = """#!/bin/bash
echo "$(basename "$0") $*" >>calls
[[ "$*" == *score.sh ]] && [ -e refuse ] && { echo "Invalid partition" >&2; exit 1; }
echo "$((100 + $(wc -l <calls)));cluster"
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sbatch", "scancel"):
        program = Path("bin") / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(SBATCH, encoding="utf-8")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{Path('bin').absolute()}:{os.environ['PATH']}")
    Path("cluster.yaml").write_text("gpus: false\n", encoding="utf-8")
    manifest = Path("runs/tiny-cpu/data/manifest.json")
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}", encoding="utf-8")


def test_each_job_waits_for_the_one_before_it_and_the_report_only_for_its_end(
    stand_in: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", TINY]) == 0
    assert capsys.readouterr().out == "train 101\ngenerate 102\nscore 103\nreport 104\n"
    calls = Path("calls").read_text(encoding="utf-8").splitlines()
    waits = [re.findall(r"--dependency=(\S+) --kill-on-invalid-dep=yes", call) for call in calls]
    assert waits == [[], ["afterok:101"], ["afterok:102"], ["afterok:102,afterany:103"]]


def test_a_dry_run_submits_nothing(stand_in: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", TINY, "--dry-run"]) == 0
    assert "would submit train, generate, score, report" in capsys.readouterr().err
    assert not Path("calls").exists()


def test_a_chain_is_submitted_whole_or_not_at_all(
    stand_in: None, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("refuse").touch()
    assert main(["submit", TINY]) == 2
    assert "score.sh: sbatch refused it (Invalid partition)" in capsys.readouterr().err
    calls = Path("calls").read_text(encoding="utf-8").splitlines()
    assert calls[-2:] == ["scancel 101", "scancel 102"]


def test_a_run_without_data_is_not_submitted(
    stand_in: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", TINY, "--run", "other"]) == 2
    assert "toolgenesis-sft build" in capsys.readouterr().err
    assert not Path("calls").exists()
