"""`toolgenesis-sft submit`: a recipe's stages as dependent Slurm jobs.

The scripts are templates in launch/slurm; a job's size comes from the recipe, its place from a
cluster file (launch/cluster.example.yaml). `--print` shows the scripts and needs no Slurm.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jinja2
from pydantic import Field

from toolgenesis_sft.config import Recipe, resolve_path
from toolgenesis_sft.errors import EXIT_REQUEUE, UserError
from toolgenesis_sft.runs import RunFolder, write_text
from toolgenesis_sft.sections import Section, check_keys, checked
from toolgenesis_sft.yaml_text import read_yaml

TEMPLATES = "launch/slurm"
EXAMPLE = "launch/cluster.example.yaml"


# A line break would end the script's line, and what follows it would be a line of its own.
Line = Annotated[str, Field(pattern=r"^[^\n]+$")]
Option = Annotated[str, Field(pattern=r"^-[^\n]+$")]
# Minutes, or [days-]hours:minutes:seconds.
Time = Annotated[str, Field(pattern=r"^((\d+-)?\d+(:\d+){0,2}|UNLIMITED|INFINITE)$")]


class Times(Section):
    """In Slurm's spelling, and in quotes: YAML reads a bare 12:00:00 as the number 43200."""

    train: Time = Field("12:00:00", description="one attempt; a longer training is requeued")
    generate: Time = Field("04:00:00", description="export and generation")
    score: Time = Field("04:00:00", description="scoring")
    report: Time = Field("00:30:00", description="the report")


class Cluster(Section):
    """What a recipe does not know: where its jobs run."""

    partition: Line | None = Field(None, description="partition of the jobs with GPUs")
    cpu_partition: Line | None = Field(
        None, description="partition of scoring and reporting; default: partition"
    )
    account: Line | None = Field(None, description="account that is charged")
    ranks_per_node: int = Field(8, ge=1, description="most ranks, and GPUs, of one node")
    gpus: bool = Field(True, description="whether each rank has a GPU of its own")
    cpus_per_rank: int = Field(8, ge=1, description="CPU cores beside each rank")
    score_cpus: int = Field(
        16, ge=1, description="CPU cores, and servers scored at once, of a task"
    )
    score_array: int = Field(
        1, ge=1, description="tasks of the job array that scores; each has its share of the servers"
    )
    time: Times = Times()
    setup: tuple[str, ...] = Field(
        (), description="shell lines that each job begins with, such as module load"
    )
    container: Line | None = Field(
        None,
        description="shell words that run a command in a container, such as apptainer exec IMAGE",
    )
    scratch: Line | None = Field(
        None, description="node-local folder for temporary files; default: the system's"
    )
    network_interface: Line | None = Field(
        None, description="interface between nodes; default: NCCL and gloo choose"
    )
    min_free_gib: float = Field(
        250, ge=0, description="disk that the run folder must have free; a full checkpoint is 115"
    )
    sbatch: tuple[Option, ...] = Field((), description="further options of sbatch, --name=value")


@dataclass(frozen=True)
class Job:
    """One Slurm job: a template and the size that fills it.

    verbs: stages of the command line that it runs, in order, with overrides of their own.
    ranks, gpus, cpus: of each node.
    array: tasks of this size that share the work by score.shard.
    in_any_case: it begins however the job before it ended, and each verb however the last one did.
    """

    name: str
    template: str
    verbs: tuple[str, ...]
    partition: str | None
    time: str
    gpus: int
    cpus: int
    nodes: int = 1
    ranks: int = 1
    overrides: tuple[str, ...] = ()
    array: int = 1
    in_any_case: bool = False


def submit(
    recipe: Recipe,
    recipe_path: Path,
    overrides: tuple[str, ...],
    run: RunFolder,
    cluster_path: Path,
    *,
    print_only: bool,
    dry_run: bool,
) -> int:
    """Render the chain; print it, or hand it to sbatch, each job after the one before it. A dry
    run checks all that this needs and does neither.

    Prints `name job-id` lines on stdout. Raises UserError for a cluster file that does not fit
    the recipe, for data that is not built, and where sbatch refuses (then nothing is submitted).
    """
    cluster = load_cluster(resolve_path(str(cluster_path)))
    chain = jobs(recipe, cluster)
    resolved = resolve_path(str(recipe_path)).absolute()
    scripts = {job.name: render(job, cluster, resolved, overrides, run) for job in chain}
    if print_only:
        print("\n".join(scripts.values()), end="")
        return 0
    if shutil.which("sbatch") is None:
        raise UserError(
            "submit", "sbatch", "is not on the PATH", "go to a login node, or add --print"
        )
    if not (run.data / "manifest.json").exists():
        raise UserError(
            "--run",
            str(run.root),
            "has no training set yet",
            f"toolgenesis-sft build {recipe_path}",
        )
    if dry_run:
        print(f"submit: would submit {', '.join(scripts)} of {run.root}", file=sys.stderr)
        return 0
    folder = run.root / "logs" / "slurm"
    for name, script in scripts.items():
        write_text(folder / f"{name}.sh", script)
    for name, job_id in hand_in(chain, folder):
        print(name, job_id)
    print(f"submit: logs will be in {run.root / 'logs'}", file=sys.stderr)
    return 0


def load_cluster(path: Path) -> Cluster:
    example = resolve_path(EXAMPLE)
    if not path.exists():
        raise UserError(
            "--cluster", str(path), "is not there", f"copy {example} to cluster.yaml and edit it"
        )
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise UserError("--cluster", str(path), "must be a YAML mapping", f"start from {example}")
    check_keys(path.name, tree, Cluster)
    return checked(Cluster, tree, f"{path.name}: ")


def jobs(recipe: Recipe, cluster: Cluster) -> tuple[Job, ...]:
    """train -> export and generate -> score -> report, with what each asks of a node."""
    ranks = recipe.train.num_processes
    ranks_here = min(ranks, cluster.ranks_per_node)
    if ranks % ranks_here:
        raise UserError(
            "train.num_processes",
            ranks,
            f"must fill whole nodes of {ranks_here} ranks",
            f"give a multiple of {ranks_here}, or set ranks_per_node in the cluster file",
        )
    serves_here = recipe.generate.engine != "endpoint"
    serving_gpus = recipe.generate.tensor_parallel if cluster.gpus and serves_here else 0
    cpu_partition = cluster.cpu_partition or cluster.partition
    time = cluster.time
    return (
        Job(
            name="train",
            template="train.sh.j2",
            verbs=("train",),
            partition=cluster.partition,
            time=time.train,
            nodes=ranks // ranks_here,
            ranks=ranks_here,
            gpus=ranks_here if cluster.gpus else 0,
            cpus=ranks_here * cluster.cpus_per_rank,
        ),
        Job(
            name="generate",
            template="stages.sh.j2",
            verbs=("export", "generate"),
            partition=cluster.partition,
            time=time.generate,
            gpus=serving_gpus,
            cpus=max(1, serving_gpus) * cluster.cpus_per_rank,
        ),
        Job(
            name="score",
            template="stages.sh.j2",
            verbs=("score",),
            partition=cpu_partition,
            time=time.score,
            gpus=0,
            cpus=cluster.score_cpus,
            overrides=(f"score.workers={cluster.score_cpus}",),
            array=cluster.score_array,
        ),
        Job(
            name="report",
            template="stages.sh.j2",
            # Once more without a shard: it puts an array's shards together and tries again what
            # the harness owes. The report names what it still owes.
            verbs=("score", "report"),
            partition=cpu_partition,
            time=time.report,
            gpus=0,
            cpus=1,
            overrides=("score.workers=1",),
            in_any_case=True,
        ),
    )


def render(
    job: Job, cluster: Cluster, recipe_path: Path, overrides: tuple[str, ...], run: RunFolder
) -> str:
    """The job's script. All that comes from a person is quoted, but for `setup`, `container` and
    `sbatch`, which are the script's own lines and words."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resolve_path(TEMPLATES)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["sh"] = lambda value: shlex.quote(str(value))
    root = run.root.absolute()
    arguments = [str(recipe_path), *overrides, *job.overrides]
    # A run beside the others goes by its name, as a person would write it.
    run_argument = root.name if run.root.parent == Path("runs") else root
    return environment.get_template(job.template).render(
        job=job,
        cluster=cluster,
        run_name=root.name,
        run_argument=run_argument,
        run=root,
        folder=Path.cwd(),
        python="python" if cluster.container else sys.executable,
        arguments=shlex.join(arguments),
        exit_requeue=EXIT_REQUEUE,
    )


def hand_in(chain: tuple[Job, ...], scripts: Path) -> list[tuple[str, str]]:
    """Submit a chain, each job after the ones before it. Returns (name, job id) of each.

    A job for any case waits for the end of the one before it, and for the success of the one
    before that. If one is refused, none stays.
    """
    submitted: list[tuple[str, str]] = []
    for job in chain:
        command = ["sbatch", "--parsable"]
        if submitted:
            *earlier, last = [job_id for _, job_id in submitted]
            waits = (
                f"afterok:{earlier[-1]},afterany:{last}" if job.in_any_case else f"afterok:{last}"
            )
            command += [f"--dependency={waits}", "--kill-on-invalid-dep=yes"]
        command.append(str(scripts / f"{job.name}.sh"))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            for _, job_id in submitted:
                subprocess.run(["scancel", job_id], check=False)
            raise UserError(
                "submit",
                f"{job.name}.sh",
                f"sbatch refused it ({done.stderr.strip()})",
                "mend the cluster file; nothing was submitted",
            )
        submitted.append((job.name, done.stdout.strip().split(";")[0]))
    return submitted
