"""Scoring on a Ray cluster.

The unit of work is a server with all of its predictions. A place that has none left helps with
the server that has most left, so that one slow server does not keep a cluster waiting.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from functools import partial

from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import LayerScores, ServerPrediction
from toolgenesis_sft.runs import RunFolder
from toolgenesis_sft.sandbox.on_ray import Crew, connected
from toolgenesis_sft.scoring.worker import Kit, Scored, Worker, given_up, keep_evidence

Server = deque[ServerPrediction]
"""What is left to score of one server."""


def score_all(
    kit: Kit, todo: Iterator[ServerPrediction]
) -> Generator[tuple[LayerScores, str], None, None]:
    """As `pool.score_all`. Holds the predictions that are to be scored in memory.

    Raises UserError where a machine is not fit for it, HarnessFault where the cluster has no place
    for a worker or ends each one.
    """
    servers = by_server(todo)
    if not servers:
        return
    settings = kit.job.settings
    with connected(settings), contextlib.closing(crew_of(kit)) as crew:
        at_work: dict[Future[Scored], tuple[ServerPrediction, Server]] = {}

        def give_work(own: Server) -> None:
            """The rest of its server, a new one, or a share in the one with most left."""
            if not own and servers:
                own = servers.popleft()
            source = own or max((other for _, other in at_work.values()), key=len, default=own)
            if source:
                prediction = source.popleft()
                at_work[crew.submit(Worker.score, prediction)] = prediction, own
            else:
                crew.dismiss_idle()

        for _ in range(settings.workers):
            give_work(Server())
        while at_work:
            for future in wait(at_work, return_when=FIRST_COMPLETED).done:
                prediction, own = at_work.pop(future)
                error = future.exception()
                fatal = error if isinstance(error, UserError) else crew.end
                if fatal is not None:
                    raise fatal
                give_work(own)
                if error is None:
                    yield keep_evidence(kit.job.run, future.result()), ""
                else:
                    note = "".join(traceback.format_exception(error))
                    yield given_up(kit, prediction, error), note


def by_server(todo: Iterable[ServerPrediction]) -> deque[Server]:
    servers: defaultdict[str, Server] = defaultdict(deque)
    for prediction in todo:
        servers[prediction.slug].append(prediction)
    return deque(servers.values())


def crew_of(kit: Kit) -> Crew[Worker]:
    """Workers with this kit, and with the keys of the models that it asks."""
    job = replace(kit.job, run=RunFolder(kit.job.run.root.absolute()))
    kit = Kit.of(job, kit.keys, kit.interpreter)
    settings = job.settings
    variables = (settings.judge_key_variable, settings.solver_key_variable)
    return Crew(
        kit.interpreter,
        settings.workers,
        partial(Worker, kit),
        # an agent's reference runs are kept in the run folder
        needed={} if kit.agent is None else {"--run": job.run.root},
        secrets={name: os.environ[name] for name in variables if name is not None},
    )
