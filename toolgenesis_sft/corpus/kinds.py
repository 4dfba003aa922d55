"""One verified server -> samples of every kind, each asked as the model will be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from toolgenesis_sft.corpus.repairs import MAX_REPAIRS_PER_SERVER, Repair, Repairer
from toolgenesis_sft.corpus.servers import Server
from toolgenesis_sft.corpus.splits import largest_mixture, take
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.prompts import (
    TrialCall,
    agent_answer,
    agent_messages,
    agent_report,
    direct_messages,
    schema_messages,
    schema_text,
    schema_to_server_messages,
    server_answer,
)
from toolgenesis_sft.records import ChatSample, Message, SampleKind


def samples_of(
    servers: Sequence[Server], shares: Mapping[SampleKind, float], repairer: Repairer, seed: int
) -> list[ChatSample]:
    """As many samples as the shares allow, server by server. Of a kind that gives fewer samples
    than there are servers, the digest chooses which. Raises UserError where servers give none of
    a kind at all, for then its share cannot hold."""
    if not servers:
        return []

    def agent(server: Server) -> ChatSample:
        return agent_sample(server, repairer.calls_for(server.pair))

    makers: dict[SampleKind, Callable[[Server], ChatSample]] = {**MAKERS, "agent": agent}
    sources: dict[SampleKind, Sequence[Server]] = dict.fromkeys(makers, servers)
    if {"agent", "repair"} & shares.keys():
        sources["agent"] = sources["repair"] = repairer.passing(servers)
    most = {
        kind: len(sources[kind]) * (MAX_REPAIRS_PER_SERVER if kind == "repair" else 1)
        for kind in shares
    }
    refuse_impossible(most, shares, repairer)
    quota = largest_mixture(most, shares)
    repairs: list[Repair] = []
    if quota.get("repair"):
        repairs = repairer.find(sources["repair"], quota["repair"], seed)
        if len(repairs) < quota["repair"]:
            most["repair"] = len(repairs)
            refuse_impossible(most, shares, repairer)
            quota = largest_mixture(most, shares)
            repairs = repairs[: quota["repair"]]
    chosen = {
        kind: take([f"{kind} {s.pair.id}" for s in sources[kind]], quota.get(kind, 0), seed)
        for kind in makers
    }
    samples: list[ChatSample] = []
    for server in servers:
        for kind, make in makers.items():
            if f"{kind} {server.pair.id}" in chosen[kind]:
                samples.append(make(server))
        samples += [repair_sample(r) for r in repairs if r.server.pair.id == server.pair.id]
    return samples


def refuse_impossible(
    most: Mapping[SampleKind, int], shares: Mapping[SampleKind, float], repairer: Repairer
) -> None:
    for kind, share in shares.items():
        if share > 0 and not most[kind]:
            raise UserError(
                "data.kinds",
                f"{kind}: {share:g}",
                f"no server gives a sample of this kind (dropped: {repairer.drops.line()})",
                "give servers examples or unit tests, or leave the kind out",
            )


def server_sample(server: Server) -> ChatSample:
    """The model card's kind: scenario -> server."""
    asked = direct_messages(server.pair.scenario())
    return _sample(server, "server", (*asked, server_answer(server.pair.code)))


def schema_sample(server: Server) -> ChatSample:
    """The first of two calls: scenario -> the tools that the server really lists."""
    asked = schema_messages(server.pair.scenario())
    answer = Message(role="assistant", content=schema_text(server.tools) + "\n")
    return _sample(server, "schema", (*asked, answer))


def schema_to_server_sample(server: Server) -> ChatSample:
    """The second of two calls, with the right schema given (oracle materialisation)."""
    asked = schema_to_server_messages(server.pair.scenario(), schema_text(server.tools))
    return _sample(server, "schema_to_server", (*asked, server_answer(server.pair.code)))


def agent_sample(server: Server, calls: tuple[TrialCall, ...]) -> ChatSample:
    """The coder agent's first program, with calls that try it and that it passes."""
    asked = agent_messages(server.pair.scenario(), schema_text(server.tools))
    return _sample(server, "agent", (*asked, agent_answer(server.pair.code, calls)))


def repair_sample(repair: Repair) -> ChatSample:
    """The coder agent's talk: a broken server, what the sandbox said, the mended server. Only
    the last turn is supervised."""
    server = repair.server
    messages = (
        *agent_messages(server.pair.scenario(), schema_text(server.tools)),
        agent_answer(repair.broken, repair.calls),
        agent_report(repair.report),
        agent_answer(server.pair.code),
    )
    return _sample(server, "repair", messages, f"/{repair.breakage}", last_turn_only=True)


MAKERS: dict[SampleKind, Callable[[Server], ChatSample]] = {
    "server": server_sample,
    "schema": schema_sample,
    "schema_to_server": schema_to_server_sample,
}


def _sample(
    server: Server,
    kind: SampleKind,
    messages: tuple[Message, ...],
    detail: str = "",
    last_turn_only: bool = False,
) -> ChatSample:
    pair = server.pair
    return ChatSample(
        id=pair.id if kind == "server" else f"{pair.id}/{kind}{detail}",
        messages=messages,
        kind=kind,
        last_turn_only=last_turn_only,
        source=pair.source,
        licence=pair.licence,
        scenario=pair.slug,
        scenario_digest=pair.scenario().digest,
    )
