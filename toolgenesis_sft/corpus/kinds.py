"""One verified server -> samples of four kinds, each asked as the model will be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from toolgenesis_sft.config import SampleKind
from toolgenesis_sft.corpus.repairs import MAX_REPAIRS_PER_SERVER, Repair, Repairer
from toolgenesis_sft.corpus.servers import Server
from toolgenesis_sft.corpus.splits import largest_mixture, take
from toolgenesis_sft.prompts import (
    agent_answer,
    agent_messages,
    agent_report,
    direct_messages,
    schema_messages,
    schema_text,
    schema_to_server_messages,
    server_answer,
)
from toolgenesis_sft.records import ChatSample, Message


def samples_of(
    servers: Sequence[Server], shares: Mapping[SampleKind, float], repairer: Repairer, seed: int
) -> list[ChatSample]:
    """As many samples as the shares allow, server by server. Of a kind that gives fewer samples
    than there are servers, the digest chooses which."""
    quota = largest_mixture(dict.fromkeys(shares, len(servers)) | _repairs(shares, servers), shares)
    repairs: list[Repair] = []
    if quota.get("repair"):
        repairs = repairer.find(servers, quota["repair"], seed)
        if len(repairs) < quota["repair"]:
            found: dict[SampleKind, int] = {"repair": len(repairs)}
            quota = largest_mixture(dict.fromkeys(shares, len(servers)) | found, shares)
            repairs = repairs[: quota["repair"]]
    chosen = {
        kind: take([f"{kind} {server.pair.id}" for server in servers], quota.get(kind, 0), seed)
        for kind in MAKERS
    }
    samples: list[ChatSample] = []
    for server in servers:
        for kind, make in MAKERS.items():
            if f"{kind} {server.pair.id}" in chosen[kind]:
                samples.append(make(server))
        samples += [repair_sample(r) for r in repairs if r.server.pair.id == server.pair.id]
    return samples


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


def _repairs(
    shares: Mapping[SampleKind, float], servers: Sequence[Server]
) -> dict[SampleKind, int]:
    return {"repair": len(servers) * MAX_REPAIRS_PER_SERVER} if "repair" in shares else {}


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
