"""One verified server -> samples of several kinds."""

from __future__ import annotations

from toolgenesis_sft.corpus.servers import Server
from toolgenesis_sft.prompts import direct_messages, server_answer
from toolgenesis_sft.records import ChatSample


def server_sample(server: Server) -> ChatSample:
    """The model card's kind: scenario -> server."""
    pair = server.pair
    scenario = pair.scenario()
    return ChatSample(
        id=pair.id,
        messages=(*direct_messages(scenario), server_answer(pair.code)),
        kind="server",
        source=pair.source,
        licence=pair.licence,
        scenario=pair.slug,
        scenario_digest=scenario.digest,
    )
