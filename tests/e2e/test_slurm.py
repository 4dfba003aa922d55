"""A training on a real Slurm: two nodes on this machine, with a configuration of the test's own.

Needs root and Debian's slurm-wlm and munge (`make test-slurm` installs them).
"""

from __future__ import annotations

import getpass
import json
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toolgenesis_sft.runs import RunFolder, sha256_file

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
TINY = str(ROOT / "recipes" / "tiny_cpu.yaml")
NUM_STEPS = 12
SMALLER = (
    "data.max_scenarios=4",
    f"train.epochs={NUM_STEPS}",
    "train.global_batch_size=4",
    "train.checkpoint_every_steps=1000",
    "train.validate_every_steps=1000",
    "model.random={hidden_size: 64, num_layers: 2, intermediate_size: 128}",
    "generate.scenarios=train",
    "generate.max_tokens=32",
    "generate.compare_before_training=false",
    "score.layers=[L1]",
)
CLUSTER = """
ranks_per_node: 1
gpus: false
cpus_per_rank: 1
score_cpus: 1
score_array: 2
min_free_gib: 0.1
time: {train: "20:00", generate: "20:00", score: "20:00", report: "20:00"}
"""
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
JobRequeue=1
NodeName=node0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 State=UNKNOWN
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 State=UNKNOWN
PartitionName=all Nodes=node0,node1 Default=YES State=UP
"""


def eventually(
    what: str, condition: Callable[[], bool], timeout_s: float = 300, job_id: str = ""
) -> None:
    """Wait for it; no longer than the job that brings it about lives."""
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, f"never seen: {what}"
        assert not job_id or job(job_id)["JobState"] not in ("FAILED", "CANCELLED"), (
            f"job {job_id} failed before {what}; its logs are below {Path.cwd()}"
        )
        time.sleep(0.2)


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def harness(*arguments: str) -> str:
    return run(sys.executable, "-m", "toolgenesis_sft.cli", *arguments)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """A running Slurm of two nodes, its logs in tmp_path. Yields whether both are idle."""
    for program in ("munged", "slurmctld", "slurmd"):
        assert shutil.which(program), f"{program} is missing: run `make test-slurm`"
    # Not tmp_path: a socket's path has at most 108 characters.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(256))
    key.chmod(0o400)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            ports=free_ports(3),
            folder=folder,
            user=getpass.getuser(),
        )
    )
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "seed", "log")]
    daemons = []

    def start(name: str, *command: str) -> None:
        with (tmp_path / f"{name}.log").open("wb") as log:
            daemons.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))

    try:
        start(
            "munged", "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge
        )
        eventually("munge's socket", (folder / "munge.socket").exists, 30)
        start("slurmctld", "slurmctld", "-D", "-c")
        for node in ("node0", "node1"):
            start(node, "slurmd", "-D", "-N", node)

        def idle() -> bool:
            listed = subprocess.run(
                ["sinfo", "-h", "-N", "-o", "%T"], capture_output=True, text=True, check=False
            )
            return listed.stdout.split() == ["idle", "idle"]

        eventually("two idle nodes", idle, 60)
        yield idle
        run("scancel", "--user", getpass.getuser())
        eventually("an empty queue", lambda: run("squeue", "-h") == "", 60)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(30)
    shutil.rmtree(folder)


def job(job_id: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S*)", run("scontrol", "--oneliner", "show", "job", job_id)))


def num_steps(folder: RunFolder) -> int:
    return folder.metrics.read_bytes().count(b"\n") if folder.metrics.exists() else 0


def test_a_training_on_two_nodes_is_stopped_requeued_resumed_and_equals_one_undisturbed(
    slurm: Callable[[], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cluster.yaml").write_text(CLUSTER)
    submitted, undisturbed = RunFolder(Path("runs/submitted")), RunFolder(Path("runs/undisturbed"))
    harness("build", TINY, *SMALLER, "--run", "submitted")
    shutil.copytree(submitted.root, undisturbed.root)

    chain = dict(
        line.split()
        for line in harness("submit", TINY, *SMALLER, "--run", "submitted").splitlines()
    )
    assert list(chain) == ["train", "generate", "score", "report"]
    train = chain["train"]

    eventually("three steps", lambda: num_steps(submitted) >= 3, job_id=train)
    run("scancel", "--signal=USR1", train)
    eventually("the requeue", lambda: job(train)["Restarts"] == "1")
    eventually("the place in the queue", lambda: job(train)["JobState"] == "PENDING")
    saved_at = num_steps(submitted)
    assert 3 <= saved_at < NUM_STEPS
    assert job(chain["generate"])["JobState"] == "PENDING"
    # Slurm waits two minutes, lest a node takes the second attempt for what is left of the first:
    # it compares whole seconds. Here both nodes are seen to be idle, and some seconds do.
    eventually("two idle nodes", slurm)
    run("scontrol", "update", f"JobId={train}", "StartTime=now+5")

    eventually("the trained model", lambda: job(train)["JobState"] == "COMPLETED", job_id=train)
    facts = json.loads(submitted.provenance.read_bytes())["train"]
    assert (facts["world_size"], facts["resumed_from_step"]) == (2, saved_at)
    lines = [json.loads(line) for line in submitted.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
    attempts = sorted(path.name for path in (submitted.root / "logs").glob("train_job_*"))
    assert attempts == [f"train_job_{train}_attempt_1", f"train_job_{train}_attempt_2"]
    for attempt in attempts:
        folder = submitted.root / "logs" / attempt
        assert (folder / "node1" / "launcher.log").exists()
        assert "node1: fit" in (folder / "preflight_0.log").read_text()

    eventually(
        "the report",
        lambda: job(chain["report"])["JobState"] == "COMPLETED",
        job_id=chain["report"],
    )
    assert submitted.report_html.exists()

    for task in (1, 2):
        log = submitted.root / "logs" / "slurm" / f"score_{chain['score']}_{task}.log"
        assert re.search(r"score: (\d+)/\1 servers", log.read_text())
    of_the_array = submitted.scores.read_bytes()
    assert not list(submitted.root.glob("scores_*"))
    submitted.scores.unlink()
    harness("score", TINY, *SMALLER, "--run", "submitted")
    assert submitted.scores.read_bytes() == of_the_array

    harness("train", TINY, *SMALLER, "--run", "undisturbed")
    harness("export", TINY, *SMALLER, "--run", "undisturbed")
    weights = sorted(path.name for path in undisturbed.export.glob("*.safetensors"))
    assert weights
    for name in weights:
        assert sha256_file(submitted.export / name) == sha256_file(undisturbed.export / name)


def test_a_node_that_is_not_fit_is_named_and_the_chain_is_ended(
    slurm: Callable[[], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cluster.yaml").write_text(CLUSTER.replace("0.1", "1000000"))
    harness("build", TINY, *SMALLER)
    chain = dict(line.split() for line in harness("submit", TINY, *SMALLER).splitlines())
    eventually("the end", lambda: job(chain["train"])["JobState"] == "FAILED")
    log = Path("runs/tiny-cpu/logs/slurm") / f"train_{chain['train']}.log"
    assert re.search(
        r"preflight: node1: \d+ GiB free for the run, 1000000 are needed", log.read_text()
    )
    eventually("the chain's end", lambda: job(chain["generate"])["JobState"] == "CANCELLED")
    assert not RunFolder(Path("runs/tiny-cpu")).checkpoints.exists()
