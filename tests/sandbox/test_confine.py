"""The system-call filter, run instruction by instruction for each machine it knows."""

from __future__ import annotations

import errno
import platform
import socket
import struct

import pytest

from toolgenesis_sft.sandbox.inside import confine

ALLOW, KILL = "allow", "kill"


def verdict(machine: str, number: int, argument: int = 0, arch: int | None = None) -> str | int:
    """What the filter says to a system call: allow, kill, or an errno."""
    data = struct.pack("=iIQQ", number, arch or confine.AUDIT_ARCH[machine], 0, argument)
    program = list(struct.iter_unpack("HBBI", confine.filter_program(machine)))
    place, value = 0, 0
    while True:
        code, if_true, if_false, k = program[place]
        place += 1
        if code == confine.LOAD:
            (value,) = struct.unpack_from("=I", data, k)
        elif code == confine.RETURN:
            if k == confine.ALLOW:
                return ALLOW
            return KILL if k == confine.KILL_PROCESS else k & 0xFFFF
        else:
            holds = {
                confine.JUMP_EQUAL: value == k,
                confine.JUMP_GREATER_EQUAL: value >= k,
                confine.JUMP_SET: bool(value & k),
            }[code]
            place += if_true if holds else if_false


@pytest.mark.parametrize("machine", confine.AUDIT_ARCH)
def test_the_filter_refuses_what_is_listed_and_nothing_else(machine: str) -> None:
    forbidden = {*confine.FORBIDDEN[machine].values(), *confine.FORBIDDEN_EVERYWHERE.values()}
    for number in range(600):
        expected: str | int = errno.EPERM if number in forbidden else ALLOW
        if number == confine.CLONE3:
            expected = errno.ENOSYS
        if number == confine.SOCKET[machine]:
            expected = errno.EACCES
        assert verdict(machine, number) == expected, number


@pytest.mark.parametrize("machine", confine.AUDIT_ARCH)
def test_the_filter_looks_at_the_family_of_a_socket_and_the_flags_of_a_clone(machine: str) -> None:
    allowed = [f for f in range(64) if verdict(machine, confine.SOCKET[machine], f) == ALLOW]
    assert allowed == sorted(confine.SOCKET_FAMILIES) == [1, 2, 10]
    thread = 0x3D0F00
    assert verdict(machine, confine.CLONE[machine], thread) == ALLOW
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(machine, confine.CLONE[machine], thread | bit) == errno.EPERM


@pytest.mark.parametrize("machine", confine.AUDIT_ARCH)
def test_another_architectures_system_calls_end_the_process(machine: str) -> None:
    assert verdict(machine, 1, arch=0x4000_0003) == KILL
    assert verdict(machine, 0x4000_0001) == KILL
    assert verdict(machine, -1) == KILL


def test_both_machines_forbid_the_same() -> None:
    assert set(confine.FORBIDDEN["x86_64"]) == set(confine.FORBIDDEN["aarch64"])
    assert platform.machine() in confine.AUDIT_ARCH
    assert socket.AF_UNIX in confine.SOCKET_FAMILIES
