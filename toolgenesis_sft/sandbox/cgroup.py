"""Control groups for servers, where this process may make them (v2, or v1's memory and pids).

They hold a whole process tree, which rlimits cannot: those count for each process. Where the
kernel shares its cores out by group (v1's cpu, v2's cpu handed down), a server of 60 busy processes
gets as much of them as one of a single process. Where groups cannot be made the rlimits stand
alone, and `mechanism` says so.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from pathlib import Path
from typing import Literal

Mechanism = Literal["cgroup v2", "cgroup v1", "rlimits"]

MOUNT = re.compile(r"^\S+ (\S+) (cgroup2?) (\S+)")
NAME = re.compile(r"toolgenesis-(\d+)-")
_number = itertools.count()


class ControlGroup:
    """One server's place at a time; reused by the next. `folders` has one entry a hierarchy."""

    def __init__(self, folders: dict[str, Path], memory_mib: int, num_processes: int) -> None:
        self.folders = folders
        for folder in set(folders.values()):
            folder.mkdir()
        memory, pids = self.folders["memory"], self.folders["pids"]
        if memory == pids:
            _write(memory / "memory.max", memory_mib << 20)
            _write(memory / "memory.swap.max", 0, optional=True)
            _write(memory / "memory.oom.group", 1, optional=True)
        else:
            _write(memory / "memory.limit_in_bytes", memory_mib << 20)
            _write(memory / "memory.memsw.limit_in_bytes", memory_mib << 20, optional=True)
        _write(pids / "pids.max", num_processes)
        self._kills_before = self._num_kills()

    def add(self, pid: int) -> None:
        """Move a process in; its later children follow."""
        for folder in set(self.folders.values()):
            _write(folder / "cgroup.procs", pid)
        self._kills_before = self._num_kills()

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel has killed a process here since `add`."""
        return self._num_kills() > self._kills_before

    def _num_kills(self) -> int:
        for name in ("memory.events", "memory.oom_control"):
            path = self.folders["memory"] / name
            if path.exists():
                found = re.search(r"^oom_kill (\d+)", path.read_text(), re.MULTILINE)
                return int(found[1]) if found else 0
        return 0

    def remove(self) -> None:
        """Remove the folders. One that a dying process still holds is tried for a second."""
        for folder in set(self.folders.values()):
            for _ in range(100):
                try:
                    folder.rmdir()
                except OSError:
                    time.sleep(0.01)
                else:
                    break


class ControlGroups:
    """Makes and reuses control groups. `mechanism` says which kind there is."""

    def __init__(self, memory_mib: int, num_processes: int) -> None:
        self._limits = (memory_mib, num_processes)
        self._free: list[ControlGroup] = []
        self._closed = False
        self.mechanism, self._parents = writable_parents(
            Path("/proc/self/mounts").read_text(), Path("/proc/self/cgroup").read_text()
        )
        for parent in set(self._parents.values()):
            _sweep(parent)
        if self.mechanism != "rlimits":
            try:
                self._free.append(self._make())
            except OSError:
                self.mechanism = "rlimits"

    def take(self) -> ControlGroup | None:
        """A free group, or None where only rlimits are at hand."""
        if self.mechanism == "rlimits":
            return None
        try:
            return self._free.pop()
        except IndexError:
            return self._make()

    def give_back(self, group: ControlGroup) -> None:
        self._free.append(group)
        if self._closed:
            self.close()

    def close(self) -> None:
        """Remove the free groups; those in use go when they are given back."""
        self._closed = True
        while self._free:
            self._free.pop().remove()

    def _make(self) -> ControlGroup:
        name = f"toolgenesis-{os.getpid()}-{next(_number)}"
        folders = {kind: parent / name for kind, parent in self._parents.items()}
        return ControlGroup(folders, *self._limits)


def writable_parents(mounts: str, groups: str) -> tuple[Mechanism, dict[str, Path]]:
    """Where groups can be made: the mechanism, the folder for each of memory and pids, and v1's for
    cpu if there is one (of v2 it is the same).

    `mounts` and `groups` are the texts of /proc/self/mounts and /proc/self/cgroup.
    """
    own = {}
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            own[controller] = path.lstrip("/")
    parents: dict[str, Path] = {}
    for mount in filter(None, map(MOUNT.match, mounts.splitlines())):
        root, kind, options = Path(mount[1]), mount[2], mount[3].split(",")
        if kind == "cgroup2":
            here = root / own.get("", "")
            for folder in (here, here.parent) if here != root else (here,):
                if _is_writable(folder) and {"memory", "pids"} <= _enabled(folder):
                    return "cgroup v2", {"memory": folder, "pids": folder}
        for controller in ("memory", "pids", "cpu"):
            if kind == "cgroup" and controller in options:
                folder = root / own.get(controller, "")
                if _is_writable(folder):
                    parents[controller] = folder
    if {"memory", "pids"} <= parents.keys() and parents["memory"] != parents["pids"]:
        return "cgroup v1", parents
    return "rlimits", {}


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK)


def _enabled(folder: Path) -> set[str]:
    path = folder / "cgroup.subtree_control"
    return set(path.read_text().split()) if path.exists() else set()


def _sweep(parent: Path) -> None:
    """Remove the empty groups of harness processes that died without doing so."""
    for folder in parent.glob("toolgenesis-*"):
        found = NAME.match(folder.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            with contextlib.suppress(OSError):
                folder.rmdir()


def _write(path: Path, value: int, optional: bool = False) -> None:
    if optional and not path.exists():
        return
    path.write_text(str(value))
