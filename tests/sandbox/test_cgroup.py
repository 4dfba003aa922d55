"""Control groups of either version are found where they can be written, filled in, and removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolgenesis_sft.sandbox import cgroup
from toolgenesis_sft.sandbox.cgroup import ControlGroup, ControlGroups, writable_parents
from toolgenesis_sft.sandbox.session import Sandbox

from .conftest import attack


def unified(root: Path, where: str, controllers: str = "cpu memory pids") -> Path:
    folder = root / where
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.procs").write_text("")
    (folder / "cgroup.subtree_control").write_text(controllers)
    return folder


def test_v2_is_taken_where_memory_and_pids_are_handed_down(tmp_path: Path) -> None:
    mounts = f"tmpfs /tmp tmpfs rw 0 0\ncgroup2 {tmp_path} cgroup2 rw,nosuid 0 0\n"
    parent = unified(tmp_path, "user.slice")
    unified(tmp_path, "user.slice/session", controllers="")
    expected = ("cgroup v2", {"memory": parent, "pids": parent})
    assert writable_parents(mounts, "0::/user.slice/session\n") == expected
    unified(tmp_path, "user.slice", controllers="cpu")
    assert writable_parents(mounts, "0::/user.slice/session\n") == ("rlimits", {})


def test_v1_needs_both_the_memory_and_the_pids_hierarchy(tmp_path: Path) -> None:
    memory, pids = unified(tmp_path / "memory", "job"), unified(tmp_path / "pids", "")
    groups = "4:memory:/job\n8:pids:/\n0::/\n"
    lines = [f"cgroup {tmp_path}/{name} cgroup rw,{name} 0 0\n" for name in ("memory", "pids")]
    expected = ("cgroup v1", {"memory": memory, "pids": pids})
    assert writable_parents("".join(lines), groups) == expected
    assert writable_parents(lines[0], groups) == ("rlimits", {})
    cpu = unified(tmp_path / "cpu", "")
    lines.append(f"cgroup {tmp_path}/cpu cgroup rw,cpu 0 0\n")
    with_cpu = {"memory": memory, "pids": pids, "cpu": cpu}
    assert writable_parents("".join(lines), groups) == ("cgroup v1", with_cpu)


def test_limits_are_written_as_the_kernel_spells_them(tmp_path: Path) -> None:
    two = ControlGroup({"memory": tmp_path / "two", "pids": tmp_path / "two"}, 64, 9)
    assert (tmp_path / "two" / "memory.max").read_text() == str(64 << 20)
    assert (tmp_path / "two" / "pids.max").read_text() == "9"
    (tmp_path / "two" / "memory.events").write_text("oom 1\noom_kill 0\n")
    two.add(123)
    assert (tmp_path / "two" / "cgroup.procs").read_text() == "123"
    assert not two.ran_out_of_memory()
    (tmp_path / "two" / "memory.events").write_text("oom 3\noom_kill 2\n")
    assert two.ran_out_of_memory()
    ControlGroup({"memory": tmp_path / "m", "pids": tmp_path / "p"}, 64, 9)
    assert (tmp_path / "m" / "memory.limit_in_bytes").read_text() == str(64 << 20)
    assert (tmp_path / "p" / "pids.max").read_text() == "9"


def test_a_folder_that_refuses_leaves_rlimits_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = {"memory": tmp_path / "no" / "where", "pids": tmp_path / "no" / "where"}
    monkeypatch.setattr(cgroup, "writable_parents", lambda *_: ("cgroup v2", missing))
    groups = ControlGroups(64, 9)
    assert groups.mechanism == "rlimits"
    assert groups.take() is None


def test_groups_are_reused_swept_and_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dead = tmp_path / "toolgenesis-4194999-0"
    dead.mkdir()
    monkeypatch.setattr(
        cgroup, "writable_parents", lambda *_: ("cgroup v2", {"memory": tmp_path, "pids": tmp_path})
    )
    groups = ControlGroups(64, 9)
    assert not dead.exists()
    first = groups.take()
    assert first is not None
    groups.give_back(first)
    assert groups.take() is first
    groups.close()
    for file in first.folders["memory"].iterdir():
        file.unlink()  # the kernel's own files need no unlinking
    groups.give_back(first)
    assert list(tmp_path.iterdir()) == []


def test_a_server_is_in_its_group_from_its_first_line(box: Sandbox) -> None:
    with box.start(attack("innocent")) as server:
        group = server._process.group
        for folder in set(group.folders.values()) if group else ():
            assert str(server._process.pid) in (folder / "cgroup.procs").read_text().split()
