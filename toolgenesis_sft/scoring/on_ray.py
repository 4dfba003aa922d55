"""Scoring on a Ray cluster: a worker a core, each with a sandbox of its own.

Workers are sent what they need (settings, scenarios, keys) and send back records and evidence,
which this process writes: they share no folder with it. A worker's machine must have bubblewrap
and the same environments, this package's and the servers'; each says so before it begins.

The unit of work is a server with all of its predictions. A worker that has none left helps with
the server that has most left, so that one slow server does not keep a cluster waiting. What a
lost worker was at is done again by another.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import traceback
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from toolgenesis_sft import __version__
from toolgenesis_sft.config import Score
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.records import Json, LayerScores, ServerPrediction
from toolgenesis_sft.runs import RunFolder
from toolgenesis_sft.sandbox.jail import runtime_digest, self_test
from toolgenesis_sft.scoring.job import Key
from toolgenesis_sft.scoring.worker import Kit, Scored, Worker, given_up, keep_evidence

KNOCK_S = 10.0  # until a cluster's address accepts a connection
START_TIMEOUT_S = 600.0  # until the first of the cluster's cores is free for a worker
MAX_STILLBORN = 20  # workers that end before they began: some machines go, not all of them
LOST = (RayActorError, ObjectLostError)  # a worker, or its machine with an answer still on it


class RemoteWorker:
    """A worker in a process of Ray's, on any machine."""

    def __init__(self, kit: Kit, keys_of_models: dict[str, str]) -> None:
        os.environ.update(keys_of_models)
        self.kit = kit

    def begin(self) -> dict[str, Json]:
        """Open the sandbox. Returns the machine and what must be the same on all of them."""
        needed = {"score.server_python": self.kit.interpreter}
        if self.kit.agent is not None:  # its reference runs are kept in the run folder
            needed["--run"] = self.kit.job.run.root
        for field_name, path in needed.items():
            if not path.exists():
                raise UserError(
                    field_name,
                    str(path),
                    f"is not there on {platform.node()}",
                    "a Ray worker needs it at the same path",
                )
        self_test(self.kit.interpreter)
        self.worker = Worker(self.kit)
        return {"machine": platform.node(), **facts(self.kit)}

    def score(self, prediction: ServerPrediction) -> Scored:
        return self.worker.score(prediction)


def facts(kit: Kit) -> dict[str, Json]:
    return {"scorer": __version__, "server_runtime": runtime_digest(kit.interpreter)}


Server = deque[ServerPrediction]
"""What is left to score of one server."""


def score_all(
    kit: Kit, todo: Iterator[ServerPrediction]
) -> Generator[tuple[LayerScores, str], None, None]:
    """As `pool.score_all`. Holds the predictions that are to be scored in memory."""
    servers = by_server(todo)
    if not servers:
        return
    job = replace(kit.job, run=RunFolder(kit.job.run.root.absolute()))
    crew = Crew(Kit.of(job, kit.keys, kit.interpreter), servers)
    with connected(job.settings), contextlib.closing(crew.work()) as finished:
        for prediction, result in finished:
            if isinstance(result, UserError):
                raise result
            if isinstance(result, Scored):
                yield keep_evidence(job.run, result), ""
            else:
                note = "".join(traceback.format_exception(result))
                yield given_up(kit, prediction, result), note


def by_server(todo: Iterable[ServerPrediction]) -> deque[Server]:
    servers: defaultdict[str, Server] = defaultdict(deque)
    for prediction in todo:
        servers[prediction.slug].append(prediction)
    return deque(servers.values())


@contextlib.contextmanager
def connected(settings: Score) -> Iterator[None]:
    """To the cluster that the recipe or RAY_ADDRESS names; else a Ray of this machine, for now."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's 15 would have servers run into their time limits beside anything else that works here.
    os.environ.setdefault("RAY_worker_niceness", "0")
    address = settings.ray_address or os.environ.get("RAY_ADDRESS")
    if address is None:
        own = {"address": "local", "num_cpus": settings.workers, "include_dashboard": False}
    else:
        knock(address)
        own = {"address": address}
    ray.init(**own, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


def knock(address: str) -> None:
    """Ray itself would wait minutes for an address where nobody is."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()
    except (OSError, ValueError) as error:
        raise UserError(
            "score.ray_address",
            address,
            f"no Ray cluster answers there ({error})",
            "give the host:port that `ray start --head` said, or unset it and RAY_ADDRESS",
        ) from error


@dataclass
class Hand:
    """A worker as this process sees it. `at`: what it scores; None while it begins."""

    actor: Any
    server: Server = field(default_factory=deque)
    at: ServerPrediction | None = None


class Crew:
    """The workers, and what is left for them to do."""

    def __init__(self, kit: Kit, servers: deque[Server]) -> None:
        self.kit, self.servers = kit, servers
        self.num_left = sum(map(len, servers))
        self.hands: dict[ray.ObjectRef[Any], Hand] = {}  # by the answer that each one owes
        self.lost_once: set[Key] = set()
        self.num_stillborn = 0

    def work(self) -> Generator[tuple[ServerPrediction, Scored | BaseException], None, None]:
        """Each prediction with its score, or with what kept it from one.

        What a lost worker was at is tried once more. Raises UserError where a machine is not fit
        for it, HarnessFault where the cluster has no place for a worker or ends each one.
        """
        self.parcel = ray.put(self.kit)
        try:
            for _ in range(min(self.kit.job.settings.workers, self.num_left)):
                self.hire()
            while self.num_left:
                hand, answer = self.next_answer()
                is_lost = isinstance(answer, LOST)
                if is_lost:
                    self.replace(hand)
                if hand.at is None:
                    self.check(answer)
                elif is_lost and hand.at.key not in self.lost_once:
                    self.lost_once.add(hand.at.key)
                    self.servers.appendleft(deque([hand.at]))
                else:
                    self.num_left -= 1
                    yield hand.at, answer
                if not is_lost:
                    self.give_work(hand)
        finally:
            for hand in self.hands.values():
                ray.kill(hand.actor)

    def hire(self) -> None:
        """One more worker, as soon as the cluster has a core for it."""
        settings = self.kit.job.settings
        variables = (settings.judge_key_variable, settings.solver_key_variable)
        secrets = {name: os.environ[name] for name in variables if name is not None}
        actor = ray.remote(num_cpus=1)(RemoteWorker).remote(self.parcel, secrets)
        self.hands[actor.begin.remote()] = Hand(actor)

    def replace(self, hand: Hand) -> None:
        """Another worker for a lost one; its server is open to all."""
        ray.kill(hand.actor)
        if hand.server:
            self.servers.append(hand.server)
        self.hire()

    def next_answer(self) -> tuple[Hand, Any]:
        """Whoever answers first, with the answer or the exception in its place."""
        is_any_at_work = any(hand.at is not None for hand in self.hands.values())
        timeout_s = None if is_any_at_work else START_TIMEOUT_S
        answered, _ = ray.wait(list(self.hands), num_returns=1, timeout=timeout_s)
        if not answered:
            raise HarnessFault("ray", f"no core was free for a worker in {START_TIMEOUT_S:.0f} s")
        hand = self.hands.pop(answered[0])
        try:
            return hand, ray.get(answered[0])
        except LOST as error:
            return hand, error
        except RayTaskError as error:
            return hand, error.cause

    def check(self, answer: Any) -> None:
        """A worker that would score otherwise than this process does is refused."""
        if isinstance(answer, LOST):
            self.num_stillborn += 1
            if self.num_stillborn > MAX_STILLBORN:
                raise HarnessFault("ray", f"workers end before they begin: {answer}")
            return
        if isinstance(answer, BaseException):
            raise answer
        there, here = answer, facts(self.kit)
        for name, value in here.items():
            if there[name] != value:
                raise UserError(
                    f"{name} on {there['machine']}",
                    there[name],
                    f"must be that of this machine, {value}",
                    "install the same environments on all machines of the cluster",
                )

    def give_work(self, hand: Hand) -> None:
        """The rest of its server, a new one, or a share in the one with most left; else the end."""
        if not hand.server and self.servers:
            hand.server = self.servers.popleft()
        longest = max((other.server for other in self.hands.values()), key=len, default=Server())
        source = hand.server or longest
        if source:
            hand.at = source.popleft()
            self.hands[hand.actor.score.remote(hand.at)] = hand
        else:
            ray.kill(hand.actor)
