"""What a forked server does to itself before foreign code runs in it (Linux, x86_64 and aarch64).

Namespaces, mounts, another uid, no capabilities, resource limits and a system-call filter. Each
step raises OSError where the kernel refuses it: nothing is skipped in silence.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

NOBODY = 65534

CLONE_NEWNS = 0x0002_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000
CLONE_NEW_ANY = 0x7E02_0000  # the six namespaces that clone(2) can make

MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
SECCOMP_MODE_FILTER = 2

libc = ctypes.CDLL(None, use_errno=True)


class ServerLimits(TypedDict):
    """The limits of one server that the server's own process sets. Sizes in MiB, time in s."""

    memory_mib: int
    num_processes: int
    file_mib: int
    cpu_s: int
    tmp_mib: int
    num_files: int


def fork_into_pid_namespace(own_namespace: int) -> int:
    """Fork a child that is process 1 of a new PID namespace. `own_namespace` is an open
    /proc/self/ns/pid: the caller's own later children are to stay in it."""
    _check(libc.unshare(CLONE_NEWPID), "unshare(pid)")
    child = os.fork()
    if child:
        _check(libc.setns(own_namespace, CLONE_NEWPID), "setns(pid)")
    return child


def confine(limits: ServerLimits, change_uid: bool, keep: Sequence[str]) -> None:
    """Shut this process in. `change_uid`: the zygote is the host's root, so become nobody. `keep`:
    folders below /tmp or /dev/shm that stay, read-only, where they are in the new ones.

    In either case the server ends in a user namespace of its own, so that the kernel counts its
    processes apart from those of every other server.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _check(libc.unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET), "unshare(mount, ipc, net)")
    _check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "make / private")
    kept = {folder: os.open(folder, os.O_PATH) for folder in keep}
    os.umask(0o022)  # whatever the harness has, the server reads what is made here
    num_inodes = limits["tmp_mib"] * 64
    for folder, mib in ((b"/tmp", limits["tmp_mib"]), (b"/dev/shm", limits["tmp_mib"])):
        options = f"size={mib}m,nr_inodes={num_inodes},mode=1777".encode()
        _check(libc.mount(b"tmpfs", folder, b"tmpfs", MS_NOSUID | MS_NODEV, options), "mount tmpfs")
    for place, fd in kept.items():
        Path(place).mkdir(parents=True)
        source = f"/proc/self/fd/{fd}".encode()  # a bind mount is read-only where its source is
        _check(libc.mount(source, os.fsencode(place), None, MS_BIND | MS_REC, None), "keep")
        os.close(fd)
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    _check(libc.mount(b"proc", b"/proc", b"proc", flags, None), "mount proc")
    os.chdir("/tmp")
    if change_uid:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        _prctl(PR_SET_DUMPABLE, 1)  # else /proc/self belongs to root after the change of uid
    _enter_user_namespace()
    _limit_resources(limits)
    _drop_capabilities()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of uid clears it
    _filter_system_calls()


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _prctl(option: int, first: int, second: ctypes.Array[ctypes.c_char] | None = None) -> None:
    address = ctypes.addressof(second) if second is not None else 0
    arguments = (ctypes.c_ulong(value) for value in (first, address, 0, 0))
    _check(libc.prctl(ctypes.c_int(option), *arguments), f"prctl({option})")


def _enter_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    _check(libc.unshare(CLONE_NEWUSER), "unshare(user)")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} {gid} 1")
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


def _limit_resources(limits: ServerLimits) -> None:
    mib = 1 << 20
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    address_space = pages * resource.getpagesize() + limits["memory_mib"] * mib
    for which, soft, hard in (
        (resource.RLIMIT_AS, address_space, address_space),
        (resource.RLIMIT_NPROC, limits["num_processes"], limits["num_processes"]),
        (resource.RLIMIT_FSIZE, limits["file_mib"] * mib, limits["file_mib"] * mib),
        (resource.RLIMIT_CPU, limits["cpu_s"], limits["cpu_s"] + 1),
        (resource.RLIMIT_NOFILE, limits["num_files"], limits["num_files"]),
        (resource.RLIMIT_CORE, 1, 1),  # 0 would still run a core handler on the host, 1 does not
        (resource.RLIMIT_MEMLOCK, 0, 0),
    ):
        resource.setrlimit(which, (soft, hard))


def _drop_capabilities() -> None:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        _prctl(PR_CAPBSET_DROP, capability)
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("=Ii", 0x2008_0522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    _check(libc.capset(header, bytes(24)), "capset")
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


# System-call numbers from the kernel's tables (arch/x86/entry/syscalls/syscall_64.tbl and
# include/uapi/asm-generic/unistd.h). AUDIT_ARCH values from include/uapi/linux/audit.h.
AUDIT_ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
CLONE = {"x86_64": 56, "aarch64": 220}
SOCKET = {"x86_64": 41, "aarch64": 198}
CLONE3 = 435  # its flags lie in memory, where a filter cannot look; libc falls back to clone
FORBIDDEN = {
    "x86_64": {
        "ptrace": 101, "pivot_root": 155, "chroot": 161, "mount": 165, "umount2": 166,
        "init_module": 175, "delete_module": 176, "finit_module": 313, "kexec_load": 246,
        "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "setns": 308,
        "perf_event_open": 298, "open_by_handle_at": 304, "process_vm_readv": 310,
        "process_vm_writev": 311, "bpf": 321, "userfaultfd": 323, "memfd_create": 319,
        "shmget": 29, "semget": 64, "msgget": 68,
    },
    "aarch64": {
        "ptrace": 117, "pivot_root": 41, "chroot": 51, "mount": 40, "umount2": 39,
        "init_module": 105, "delete_module": 106, "finit_module": 273, "kexec_load": 104,
        "add_key": 217, "request_key": 218, "keyctl": 219, "unshare": 97, "setns": 268,
        "perf_event_open": 241, "open_by_handle_at": 265, "process_vm_readv": 270,
        "process_vm_writev": 271, "bpf": 280, "userfaultfd": 282, "memfd_create": 279,
        "shmget": 194, "semget": 190, "msgget": 186,
    },
}  # fmt: skip
FORBIDDEN_EVERYWHERE = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "pidfd_getfd": 438,
    "mount_setattr": 442, "memfd_secret": 447,
}  # fmt: skip
SOCKET_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)

LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL_PROCESS, ERRNO = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
OFFSET_NUMBER, OFFSET_ARCH, OFFSET_ARGUMENT = 0, 4, 16  # struct seccomp_data, low half of args[0]
X32_BIT = 0x4000_0000


def _filter_system_calls() -> None:
    """Refuse what no tool needs: new namespaces, mounts, tracing, keyrings, bpf, io_uring, memory
    that no rlimit counts (memfd, System V), and every family of sockets but the local and the
    (empty) internet ones: a network namespace does not hold AF_VSOCK, which reaches the host of a
    virtual machine."""
    program = filter_program(platform.machine())
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(header))


def filter_program(machine: str) -> bytes:
    """The filter as classic BPF, 8 bytes an instruction. KeyError for an unknown machine."""
    refuse = ERRNO | errno.EPERM
    lines = [
        (LOAD, 0, 0, OFFSET_ARCH),
        (JUMP_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, OFFSET_NUMBER),
        (JUMP_GREATER_EQUAL, 0, 1, X32_BIT),
        (RETURN, 0, 0, KILL_PROCESS),
        (JUMP_EQUAL, 0, 1, CLONE3),
        (RETURN, 0, 0, ERRNO | errno.ENOSYS),
    ]
    for number in (*FORBIDDEN[machine].values(), *FORBIDDEN_EVERYWHERE.values()):
        lines += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, refuse)]
    lines += [
        (JUMP_EQUAL, 0, 4, CLONE[machine]),
        (LOAD, 0, 0, OFFSET_ARGUMENT),
        (JUMP_SET, 0, 1, CLONE_NEW_ANY),
        (RETURN, 0, 0, refuse),
        (RETURN, 0, 0, ALLOW),
        (JUMP_EQUAL, 0, len(SOCKET_FAMILIES) + 2, SOCKET[machine]),
        (LOAD, 0, 0, OFFSET_ARGUMENT),
    ]
    for place, family in enumerate(SOCKET_FAMILIES):
        lines.append((JUMP_EQUAL, len(SOCKET_FAMILIES) - place, 0, family))
    lines += [(RETURN, 0, 0, ERRNO | errno.EACCES), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *line) for line in lines)
