"""Is every node fit for a training? Names the ones that are not, before hours are spent.

    python -m toolgenesis_sft.training.preflight RUN_FOLDER --ranks N    once a node
      the same, one a device, under torch's own launcher

Checked on each node: its devices compute and have their memory free, the disk has room, the
versions are those of the other nodes. Then bandwidth: an all-reduce among the ranks of each node,
and among neighbouring nodes; a node is unfit at less than half of the others' median. Not
checked: the network under full load, and the devices for longer than a second.

What travels before devices are known to be sound goes through gloo on the CPU.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from toolgenesis_sft.records import Record
from toolgenesis_sft.runs import provenance
from toolgenesis_sft.training.launch import ATTEMPT_VARIABLE
from toolgenesis_sft.training.machines import Machine

TIMEOUT_S = 180  # until every node has answered; a collective may take a third of it
MIN_FREE_DEVICE_SHARE = 0.9  # less means that another process sits on the device
MIN_BANDWIDTH_SHARE = 0.5  # of the median of the others
PAYLOAD_BYTES = {"cuda": 256 * 2**20, "cpu": 4 * 2**20}
GIB = 2**30


class RankFacts(Record):
    """What one rank found on its node. Bandwidth in GB/s, none while not measured."""

    node: str
    versions: dict[str, str]
    free_gib: float
    faults: tuple[str, ...] = ()
    node_gb_s: float | None = None
    neighbour_gb_s: tuple[float, ...] = ()


class Verdict(Record):
    """`problems` is one line each and begins with the node's name; empty where all are fit, and
    then `fit` says for each node what was measured."""

    problems: tuple[str, ...]
    fit: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m toolgenesis_sft.training.preflight")
    parser.add_argument("run", type=Path, help="the run folder, whose disk is checked")
    parser.add_argument("--ranks", type=int, required=True, help="ranks of each node")
    parser.add_argument("--min-free-gib", type=float, default=0.0, help="room the run needs")
    parser.add_argument("--gpus", action="store_true", help="each rank has a GPU of its own")
    options = parser.parse_args(arguments)
    verdict_path = Path(os.environ[ATTEMPT_VARIABLE]) / "preflight.json"
    if "RANK" in os.environ:
        return rank_main(options.run, options.min_free_gib, options.gpus, verdict_path)
    return node_main(Machine.here(), options.ranks, sys.argv[1:], verdict_path)


def node_name() -> str:
    """As Slurm calls it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def node_main(machine: Machine, ranks: int, arguments: list[str], verdict_path: Path) -> int:
    """Start this node's ranks and say what they agreed on. The leading node speaks for all."""
    place = ["--standalone"]
    if machine.number > 1:
        place = [f"--nnodes={machine.number}", f"--node-rank={machine.rank}"]
        place += [f"--master-addr={machine.main_address}", f"--master-port={machine.main_port}"]
    launcher = [sys.executable, "-m", "torch.distributed.run", *place, f"--nproc-per-node={ranks}"]
    command = [*launcher, "-m", "toolgenesis_sft.training.preflight", *arguments]
    log = verdict_path.with_name("preflight_ranks.log")
    try:
        with log.open("wb") as file:
            subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, timeout=2 * TIMEOUT_S, check=False
            )
    except subprocess.TimeoutExpired:
        pass  # then there is no verdict either
    if not verdict_path.exists():
        print(
            f"preflight: {node_name()}: heard nothing from the other ranks; see {log}", flush=True
        )
        return 1
    verdict = Verdict.from_line(verdict_path.read_bytes())
    if not machine.leads:
        return 0
    for node, measured in verdict.fit.items():
        print(f"preflight: {node}: fit{measured}")
    for problem in verdict.problems:
        print(f"preflight: {problem}")
    sys.stdout.flush()
    return 1 if verdict.problems else 0


def rank_main(run: Path, min_free_gib: float, gpus: bool, verdict_path: Path) -> int:
    """Look, tell the others, judge together. Each node's first rank writes the verdict down."""
    import torch.distributed as dist

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the job's script ignores it
    facts = look_around(run, gpus)
    verdict_path.with_name("looked").touch()  # the job's script names the nodes that did not
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=TIMEOUT_S))
    everyone = gather(facts)
    verdict = Verdict(problems=unfit(everyone, min_free_gib), fit={})
    if not verdict.problems:
        everyone = gather(measure(facts, everyone, "cuda" if gpus else "cpu"))
        verdict = judge_bandwidth(everyone)
    if int(os.environ["LOCAL_RANK"]) == 0:
        verdict_path.write_text(verdict.to_line())
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # a collective that hangs on a device would hold the process here


def look_around(run: Path, gpus: bool) -> RankFacts:
    versions = provenance()["versions"]
    fault = device_fault(int(os.environ["LOCAL_RANK"])) if gpus else ""
    return RankFacts(
        node=node_name(),
        versions={str(name): str(version) for name, version in versions.items()},
        free_gib=shutil.disk_usage(run).free / GIB,
        faults=(fault,) if fault else (),
    )


def device_fault(index: int) -> str:
    """Why a GPU cannot be trusted: it is missing, taken, or computes wrongly. Empty if fit."""
    import torch

    found = torch.cuda.device_count()
    if index >= found:
        return f"GPU {index} is missing ({found} found)"
    try:
        torch.cuda.set_device(index)
        free, total = torch.cuda.mem_get_info()
        if free < MIN_FREE_DEVICE_SHARE * total:
            return f"GPU {index} has {free / GIB:.0f} of {total / GIB:.0f} GiB free"
        # Small whole numbers: exact in fp32 whatever the order of summation.
        left, right = (torch.arange(2048 * 2048).remainder(k).view(2048, 2048) for k in (7, 5))
        expected = (left[:64].double() @ right.double()).float()
        product = (left.float().cuda() @ right.float().cuda())[:64].cpu()
        if not torch.equal(product, expected):
            return f"GPU {index} computes wrongly"
    except RuntimeError as error:
        return f"GPU {index}: {str(error).splitlines()[0]}"
    return ""


def gather(facts: RankFacts) -> list[RankFacts]:
    """Every rank's facts, in rank order, on every rank."""
    import torch.distributed as dist

    everyone: list[RankFacts | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, facts)
    return [other for other in everyone if other is not None]


def unfit(everyone: Sequence[RankFacts], min_free_gib: float) -> tuple[str, ...]:
    """One line for each device, disk or version that is not as it must be."""
    problems = [f"{facts.node}: {fault}" for facts in everyone for fault in facts.faults]
    nodes = {facts.node: facts for facts in everyone}
    for node, facts in nodes.items():
        if facts.free_gib < min_free_gib:
            problems.append(
                f"{node}: {facts.free_gib:.0f} GiB free for the run, {min_free_gib:.0f} are needed"
            )
    for package in sorted({name for facts in nodes.values() for name in facts.versions}):
        found = {node: facts.versions.get(package, "none") for node, facts in nodes.items()}
        usual, _ = collections.Counter(found.values()).most_common(1)[0]
        problems += [
            f"{node}: {package} {version}, the other nodes have {usual}"
            for node, version in found.items()
            if version != usual
        ]
    return tuple(problems)


def measure(facts: RankFacts, everyone: Sequence[RankFacts], device: str) -> RankFacts:
    """Add this rank's bandwidth: inside its node, and (first ranks) to both neighbours."""
    import torch.distributed as dist

    backend = "nccl" if device == "cuda" else "gloo"
    ranks_of: dict[str, list[int]] = {}
    for rank, other in enumerate(everyone):
        ranks_of.setdefault(other.node, []).append(rank)
    firsts = [ranks[0] for ranks in ranks_of.values()]
    pairs = [sorted((rank, firsts[i - 1])) for i, rank in enumerate(firsts)]
    # Every rank takes part in making every group, also of those that it is not in.
    node_groups = [(ranks, dist.new_group(ranks, backend=backend)) for ranks in ranks_of.values()]
    pair_groups = [(p, dist.new_group(p, backend=backend)) for p in pairs if len(firsts) > 2]
    own, inside, neighbours = dist.get_rank(), None, []
    for ranks, group in node_groups:
        if own in ranks and len(ranks) > 1:
            inside = all_reduce_gb_s(group, len(ranks), device)
    for pair, group in pair_groups:
        if own in pair:
            neighbours.append(all_reduce_gb_s(group, 2, device))
    return facts.model_copy(update={"node_gb_s": inside, "neighbour_gb_s": tuple(neighbours)})


def all_reduce_gb_s(group: object, num_ranks: int, device: str) -> float:
    """Bus bandwidth: bytes x 2 (n - 1) / n over the time of one all-reduce, the best of three.

    0 where it hangs, or sums wrongly: the process can then do nothing more on the device.
    """
    import torch
    import torch.distributed as dist

    payload = torch.ones(PAYLOAD_BYTES[device] // 4, device=device)
    share = 2 * (num_ranks - 1) / num_ranks
    best = 0.0
    for _ in range(4):  # the first one connects
        payload.fill_(1)
        if device == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        work = dist.all_reduce(payload, group=group, async_op=True)
        while not work.is_completed():
            if time.perf_counter() - begin > TIMEOUT_S / 3:
                return 0.0
            time.sleep(0)
        best = max(best, share * payload.nbytes / (time.perf_counter() - begin) / 1e9)
    return best if bool((payload == num_ranks).all()) else 0.0


def judge_bandwidth(everyone: Sequence[RankFacts]) -> Verdict:
    """A node is unfit where it is slow inside, or towards both neighbours; 0 is a hang."""
    inside: dict[str, float] = {}
    outside: dict[str, float] = {}
    for facts in everyone:
        if facts.node_gb_s is not None:
            inside[facts.node] = min(facts.node_gb_s, inside.get(facts.node, facts.node_gb_s))
        if facts.neighbour_gb_s:
            outside[facts.node] = max(facts.neighbour_gb_s)
    problems = []
    fit = {facts.node: "" for facts in everyone}
    for what, found in (("among its ranks", inside), ("to its neighbours", outside)):
        for node, bandwidth in found.items():
            others = [value for other, value in found.items() if other != node]
            usual = statistics.median(others) if others else bandwidth
            if bandwidth == 0 or bandwidth < MIN_BANDWIDTH_SHARE * usual:
                problems.append(
                    f"{node}: all-reduce {what} at {bandwidth:.1f} GB/s, other nodes {usual:.1f}"
                )
            fit[node] += f"; all-reduce {what} {bandwidth:.1f} GB/s"
    return Verdict(problems=tuple(problems), fit={} if problems else fit)


if __name__ == "__main__":
    sys.exit(main())
