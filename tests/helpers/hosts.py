"""Two hosts on one machine: network namespaces that see each other over a pair of virtual cables."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


class NotPermitted(Exception):
    """This machine does not let us make network namespaces, or has no tool for it."""


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NotPermitted("there is no `ip` command (iproute2)") from error
    except subprocess.CalledProcessError as error:
        raise NotPermitted(f"`ip {' '.join(arguments)}` fails: {error.stderr.strip()}") from error


@dataclass(frozen=True)
class Host:
    """One of the two.

    Attributes:
        namespace: its network namespace.
        cable: its network interface.
        address: what the other one reaches it under.
    """

    namespace: str
    cable: str
    address: str

    def start(self, command: Sequence[str | Path], log: Path, **options: object) -> subprocess.Popen[bytes]:
        """Start a command there; what it prints goes to ``log``."""
        inside = ["ip", "netns", "exec", self.namespace, *map(str, command)]
        with log.open("wb") as file:
            return subprocess.Popen(inside, stdout=file, stderr=subprocess.STDOUT, **options)  # type: ignore[call-overload]

    def launcher(self, first: Host) -> Mapping[str, str]:
        """What ``launch/torchrun.sh`` has to know there; gloo is told the cable, as the host has no name of its own."""
        rank = "0" if self == first else "1"
        return {"NNODES": "2", "NODE_RANK": rank, "MASTER_ADDR": first.address, "GLOO_SOCKET_IFNAME": self.cable}

    def plug(self, *, connected: bool) -> None:
        """Pull this end of the cable, or put it back."""
        _ip("-n", self.namespace, "link", "set", self.cable, "up" if connected else "down")


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two connected hosts, gone afterwards.

    Raises:
        NotPermitted: with the reason.
    """
    tag = str(os.getpid())
    hosts = tuple(Host(f"mosear-{side}-{tag}", f"ms{side}{tag}"[:15], f"10.77.0.{side}") for side in (1, 2))
    first, second = hosts
    try:
        for host in hosts:
            _ip("netns", "add", host.namespace)
        _ip("link", "add", first.cable, "type", "veth", "peer", "name", second.cable)
        for host in hosts:
            _ip("link", "set", host.cable, "netns", host.namespace)
            _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", host.cable)
            _ip("-n", host.namespace, "link", "set", "lo", "up")
            host.plug(connected=True)
        yield first, second
    finally:
        for host in hosts:
            with suppress(NotPermitted):
                _ip("netns", "delete", host.namespace)  # the cable goes with it
