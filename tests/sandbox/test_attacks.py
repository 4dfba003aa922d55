"""Every group of attacks: the host is untouched, the attacker alone is at fault, in bounded time.

The `box` fixtures check after each test that no process is left and that an innocent server runs;
a test that hangs is ended by pytest's own limit.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from toolgenesis_sft.errors import ModelFault
from toolgenesis_sft.sandbox.session import Sandbox

from .conftest import CANARY_TEXT, HASTY, LIMITS, Canary, attack

SLACK_S = 10.0  # of a busy machine, above the phase's own limit


def fault_of_call(sandbox: Sandbox, program: str, tool: str = "act") -> ModelFault:
    with sandbox.start(program) as server, pytest.raises(ModelFault) as caught:
        server.call(tool, {})
    return caught.value


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_no_way_out_over_the_network(box: Sandbox, canary: Canary) -> None:
    code = attack("network", CANARY_PORT=canary.port, CANARY_ABSTRACT=canary.abstract)
    with box.start(code) as server:
        assert server.call("act", {}).value == []
        assert f"network: connect 127.0.0.1:{canary.port}" in server.denied
        assert "network: connect 93.184.215.14:" + str(canary.port) in server.denied
        assert "network: resolve example.com" in server.denied


def test_no_secret_of_the_harness_can_be_read(box: Sandbox, canary: Canary) -> None:
    here = Path(__file__).resolve()
    paths = [
        canary.file,
        here,
        here.parents[2] / "pyproject.toml",
        here.parents[2] / "data" / "mini" / "benchmark.json",
        Path.home() / ".bashrc",
        "/etc/shadow",
        "/etc/hostname",
        f"/proc/{box._jail._process.pid if box._jail else 0}/environ",
        "/proc/1/root/root/.bashrc",
    ]
    code = attack("snoop", CANARY_TEXT=CANARY_TEXT, CANARY_PATHS=[str(path) for path in paths])
    with box.start(code) as server:
        assert server.call("act", {}).value == []
        assert f"files: open {canary.file} read" in server.denied


def test_nothing_written_reaches_the_host_or_the_next_server(box: Sandbox, canary: Canary) -> None:
    folders = [str(canary.file.parent), str(Path(__file__).resolve().parents[2]), "/root", "/home"]
    code = attack("poison", CANARY_FOLDERS=folders)
    with box.start(code) as server:
        assert server.call("act", {}).value == []
        with box.start(code) as neighbour:
            assert neighbour.call("look", {}).value == []
    with box.start(code) as server:
        assert server.call("look", {}).value == []


def test_a_fork_bomb_stops_at_the_limit_of_processes(box: Sandbox) -> None:
    with box.start(attack("fork_bomb")) as server:
        answer = server.call("act", {})
        assert 0 < answer.value < LIMITS.num_processes
        with box.start(attack("innocent")) as neighbour:
            assert neighbour.call("add", {"a": 1, "b": 1}).value == 2


def test_a_memory_bomb_is_an_error_of_its_own_tool(box: Sandbox) -> None:
    with box.start(attack("memory_bomb")) as server:
        assert server.call("alone", {}).is_error


def test_an_inflated_process_tree_ends_as_a_memory_fault(box: Sandbox) -> None:
    assert box._jail is not None
    is_whole_tree_held = box._jail.groups.mechanism != "rlimits"
    with box.start(attack("memory_bomb")) as server:
        if not is_whole_tree_held:
            server._limits = HASTY  # nothing ends it before its time is up
        with pytest.raises(ModelFault) as caught:
            server.call("together", {})
    assert caught.value.kind == ("memory_limit" if is_whole_tree_held else "call_timeout")


def test_disk_and_inodes_fill_no_further_than_the_private_folders(box: Sandbox) -> None:
    with box.start(attack("disk_fill")) as server:
        won = server.call("act", {}).value
    for folder in ("/tmp", "/dev/shm"):
        num_bytes, num_files = won[folder]
        assert 0 < num_bytes <= LIMITS.tmp_mib << 20
        assert 0 < num_files <= LIMITS.tmp_mib * 64
    assert won["huge"] is False


def test_spinning_at_import_costs_the_phase_and_no_more(hasty_box: Sandbox) -> None:
    before = time.monotonic()
    with pytest.raises(ModelFault, match="initialize_timeout"):
        hasty_box.start(attack("spin_at_import"))
    assert time.monotonic() - before < HASTY.initialize_s + SLACK_S


def test_spinning_in_a_list_costs_the_phase_and_no_more(hasty_box: Sandbox) -> None:
    with hasty_box.start(attack("spin_in_list")) as server:
        before = time.monotonic()
        with pytest.raises(ModelFault, match="list_timeout"):
            server.list_tools()
    assert time.monotonic() - before < HASTY.list_s + SLACK_S


def test_spinning_in_a_call_costs_the_phase_and_no_more(hasty_box: Sandbox) -> None:
    with hasty_box.start(attack("spin_in_call")) as server:
        before = time.monotonic()
        with pytest.raises(ModelFault, match="call_timeout"):
            server.call("act", {})
    assert time.monotonic() - before < HASTY.call_s + SLACK_S


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("stdout", "answer_too_large"),
        ("lines", "flood"),
        ("blank", "flood"),
        ("notifications", "flood"),
        ("requests", "flood"),
    ],
)
def test_a_flood_ends_its_own_server_in_flat_memory(box: Sandbox, where: str, kind: str) -> None:
    before_mib = peak_mib()
    with box.start(attack("flood")) as server, pytest.raises(ModelFault) as caught:
        server.call("act", {"where": where})
    assert caught.value.kind == kind
    assert peak_mib() - before_mib < 64
    assert len(server.protocol_faults) <= 100


@pytest.mark.parametrize("where", ["stderr", "report"])
def test_a_flood_beside_the_protocol_costs_the_phase_in_flat_memory(
    hasty_box: Sandbox, where: str
) -> None:
    before_mib = peak_mib()
    program = attack("flood")
    with hasty_box.start(program) as server, pytest.raises(ModelFault, match="call_timeout"):
        server.call("act", {"where": where})
    assert peak_mib() - before_mib < 64
    assert len(server.stderr_tail) <= 1 << 13
    assert len(server.denied) <= 100


@pytest.mark.parametrize(
    ("tool", "kind"),
    [
        ("huge", "answer_too_large"),
        ("deep", "invalid_json"),
        ("deep_but_decodable", "invalid_json"),
        ("deep_objects", "invalid_json"),
        ("bad_utf8", "invalid_json"),
        ("nan", "invalid_json"),
        ("infinity", "invalid_json"),
        ("overflow", "invalid_json"),
        ("digits", "invalid_json"),
        ("surrogate", "invalid_json"),
        ("cut_short", "invalid_json"),
        ("no_object", "invalid_json"),
    ],
)
def test_json_that_no_decoder_likes_is_the_servers_fault(
    box: Sandbox, tool: str, kind: str
) -> None:
    limit = sys.getrecursionlimit()
    assert fault_of_call(box, attack("broken_json"), tool).kind == kind
    assert sys.getrecursionlimit() == limit


def test_wrong_unsolicited_and_second_answers_are_counted_and_none_is_taken(box: Sandbox) -> None:
    with box.start(attack("wrong_ids")) as server:
        first = server.call("act", {})
        assert first.text == "true"
        server.list_tools()
        faults = " ".join(server.protocol_faults)
    assert faults.count("second answer to request 2") == 1
    assert faults.count("second answer to request 1") == 1
    for number in ("999999", "1", "None"):
        assert f"answer to unknown request {number}" in faults
    assert server.num_protocol_faults == 5


def test_a_server_that_answers_only_other_requests_runs_out_of_time(hasty_box: Sandbox) -> None:
    fault = fault_of_call(hasty_box, attack("wrong_ids"), "only_wrong")
    assert fault.kind == "call_timeout"


@pytest.mark.parametrize(
    "tool",
    [
        "content_is_text",
        "content_is_missing",
        "block_without_type",
        "result_is_list",
        "result_is_null",
        "no_version",
        "error_without_code",
    ],
)
def test_a_message_outside_of_the_protocol_is_named(box: Sandbox, tool: str) -> None:
    with box.start(attack("invalid_messages")) as server:
        with pytest.raises(ModelFault, match="invalid_message"):
            server.call(tool, {})
        assert any("invalid_message" in fault for fault in server.protocol_faults)


def test_chatter_is_tolerated_and_counted(box: Sandbox) -> None:
    with box.start(attack("invalid_messages")) as server:
        assert server.call("chatter", {}).text == "ok"
    faults = "\n".join(server.protocol_faults)
    assert "invalid notifications/nonsense" in faults
    assert "invalid steal/everything" in faults
    assert "roots/list" not in faults
    assert faults.count("no protocol on stdout") == 4


@pytest.mark.parametrize("name", ["hang_in_initialize", "drip"])
def test_a_slow_handshake_wins_no_time(hasty_box: Sandbox, name: str) -> None:
    before = time.monotonic()
    with pytest.raises(ModelFault, match="initialize_timeout"):
        hasty_box.start(attack(name))
    assert time.monotonic() - before < HASTY.initialize_s + SLACK_S


def test_no_process_outlives_its_session(box: Sandbox) -> None:
    with box.start(attack("immortal")) as server:
        assert server.call("act", {}).value is True
    # `box` now counts what is left in the jail


def test_a_forged_answer_wins_nothing_beyond_the_server_itself(box: Sandbox) -> None:
    with box.start(attack("forged")) as server:
        answer = server.call("act", {})
        assert answer.value is None  # its own forgery was first: it has spoiled its own answer
        with box.start(attack("innocent")) as neighbour:
            assert neighbour.call("add", {"a": 1, "b": 1}).value == 2
            assert neighbour.protocol_faults == []
    assert server.num_protocol_faults >= 99


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("same_cursor", "endless_cursor"),
        ("new_cursors", "endless_cursor"),
        ("empty_pages", "endless_cursor"),
        ("many_pages", "too_many_tools"),
        ("many", "answer_too_large"),
        ("description", "answer_too_large"),
        ("large_pages", "answer_too_large"),
        ("icons", "invalid_message"),
        ("no_schema", "invalid_message"),
    ],
)
def test_a_tool_list_without_bounds_is_the_servers_fault(
    box: Sandbox, kind: str, fault: str
) -> None:
    with box.start(attack("lists", KIND=kind)) as server, pytest.raises(ModelFault) as caught:
        server.list_tools()
    assert caught.value.kind == fault


def test_a_million_things_that_the_protocol_does_not_know_are_one_fault(box: Sandbox) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("blocks", "audience"):
        with (
            box.start(attack("parts")) as server,
            pytest.raises(ModelFault, match="more than 30000 values"),
        ):
            server.call(name, {})
    with box.start(attack("parts")) as server:
        assert server.call("request", {}).text == "ok"
        assert server.protocol_faults == ["invalid sampling/createMessage: too many values"]
        assert len(server.call("free", {}).value["items"]) == 200_000
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 500  # it was 13 KB each


def test_odd_and_double_names_come_through_as_data(box: Sandbox) -> None:
    with box.start(attack("lists", KIND="names")) as server:
        names = [tool.name for tool in server.list_tools()]
        assert names[:3] == ["act", "act", "../../etc/passwd"]
        assert "\x1b" in names[3]
        assert server.call("../../etc/passwd", {}).text == "ok"


def test_a_list_that_changes_is_seen_as_it_is_each_time(box: Sandbox) -> None:
    with box.start(attack("lists", KIND="changing")) as server:
        assert server.list_tools() != server.list_tools()


def test_orders_to_the_judge_are_text_like_any_other(box: Sandbox) -> None:
    with box.start(attack("persuasion")) as server:
        (tool,) = server.list_tools()
        assert tool.description == server.call("act", {}).value
        assert "SYSTEM" in tool.description


def test_cpu_time_is_limited(server_python: Path) -> None:
    with Sandbox(server_python, replace(LIMITS, cpu_s=1)) as sandbox:
        assert fault_of_call(sandbox, attack("spin_in_call")).kind == "cpu_limit"


def test_random_damage_to_a_valid_answer_is_a_fault_or_an_answer(box: Sandbox) -> None:
    kinds = set()
    for seed in range(6):
        with box.start(attack("damage", SEED=seed)) as server:
            for _ in range(40):
                try:
                    server.call("act", {})
                except ModelFault as fault:
                    kinds.add(fault.kind)
    assert kinds
    assert kinds <= {"invalid_json", "invalid_message", "answer_too_large"}
