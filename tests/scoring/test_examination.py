"""A server under examination: what its processes did is added up, and nobody waits for ever."""

from __future__ import annotations

import pytest

from toolgenesis_sft.errors import ModelFault
from toolgenesis_sft.sandbox.session import Sandbox, ServerSession
from toolgenesis_sft.scoring.examination import MAX_STALLED_STARTS, Examination

CHATTY = """
from mcp.server.fastmcp import FastMCP
mcp = FastMCP("x")
@mcp.tool()
def chat(lines: int) -> str:
    for line in range(lines):
        print("line", line)
    return "done"
mcp.run()
"""


def test_protocol_faults_are_counted_over_all_processes_and_beyond_those_kept(
    sandbox: Sandbox,
) -> None:
    seen = Examination(CHATTY, sandbox)
    for lines in (150, 30):
        with seen.fresh_server() as server:
            assert server.call("chat", {"lines": lines}).value == "done"
    assert seen.num_protocol_faults == 180
    assert len(seen.protocol_faults) == 130


class Silent:
    """Starts nothing: each attempt runs into its deadline."""

    def __init__(self) -> None:
        self.num_starts = 0

    def start(self, code: str) -> ServerSession:
        self.num_starts += 1
        raise ModelFault("initialize_timeout", code)


def test_a_server_that_gives_no_sign_of_life_is_not_started_for_ever() -> None:
    silent = Silent()
    seen = Examination("", silent)
    for _ in range(20):
        with pytest.raises(ModelFault, match="initialize_timeout"), seen.fresh_server():
            pass
    assert silent.num_starts == MAX_STALLED_STARTS
