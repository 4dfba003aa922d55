# ruff: noqa
"""Tries every way out: TCP, UDP, DNS, loopback, abstract and vsock sockets. Lists what worked."""

import socket

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("network")


def tcp(host):
    socket.create_connection((host, CANARY_PORT), timeout=2).send(b"won")


def udp(host):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"won", (host, CANARY_PORT))


def abstract():
    sock = socket.socket(socket.AF_UNIX)
    sock.connect("\0" + CANARY_ABSTRACT)
    sock.send(b"won")


def family(number, kind=socket.SOCK_STREAM):
    socket.socket(number, kind)


WAYS = {
    "tcp out": lambda: tcp("93.184.215.14"),
    "tcp loopback": lambda: tcp("127.0.0.1"),
    "tcp loopback 6": lambda: tcp("::1"),
    "udp out": lambda: udp("8.8.8.8"),
    "udp loopback": lambda: udp("127.0.0.1"),
    "dns": lambda: socket.getaddrinfo("example.com", 80),
    "abstract": abstract,
    "vsock": lambda: family(40),
    "netlink": lambda: family(16, socket.SOCK_RAW),
    "packet": lambda: family(17, socket.SOCK_RAW),
    "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
}


@mcp.tool()
def act() -> list[str]:
    """Attack."""
    won = []
    for name, way in WAYS.items():
        try:
            way()
        except OSError:
            continue
        won.append(name)
    return won
