"""Looks for everything that keeps a peer from working: its folder, this machine, and the way to the others.

Each check gives findings, a line each: what is in order, or what to do. Nothing is changed; members are asked the time.
"""

from __future__ import annotations

import errno
import os
import platform
import resource
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata

from decentra.charter import Charter, Member, Policy
from decentra.crypto.keys import Identity
from decentra.errors import LocalError
from decentra.peer.config import Config, PeerFolder, valid_address
from decentra.transport.dialler import Route
from decentra.transport.probe import Answer, Skew, probe, versions
from decentra.transport.zeromq import FILES_WANTED, require_libsodium

SANE_YEARS = (2025, 2100)
FREE_BYTES = 256 * 1024 * 1024
"""A journal, transcripts and a checkpoint of a small model; a large model needs more."""

MUCH_SKEW = 5.0
"""Seconds by which clocks differ so that logs can't be laid side by side any more, and an invite may expire early."""

SLOW_FSYNC = 0.5
"""Seconds: a round writes a handful of times and waits for each."""

_LOOPBACK = ("127.", "::1", "localhost")


@dataclass(frozen=True)
class Finding:
    """One line: what it is about, whether it is in order, and what was found or is to be done."""

    about: str
    ok: bool
    said: str


class Doctor:
    """Examines one peer's folder.

    Args:
        folder: may lack anything.
        peer: also try this address, ``HOST:PORT``, whoever's it is.

    Raises:
        LocalError: ``peer`` is no address.
    """

    def __init__(self, folder: PeerFolder, peer: str | None = None) -> None:
        self._folder = folder
        self._identity: Identity | None = None
        self._charter: Charter | None = None
        self._config: Config | None = None
        self._extra = None if peer is None else _address(peer)

    def findings(self) -> Iterator[Finding]:
        """Everything, in an order in which each builds on those before; slow ones are the handshakes, 3 s each."""
        checks: tuple[Callable[[], Iterator[Finding]], ...] = (
            _versions,
            _curve,
            _files,
            _clock,
            self._disk,
            self._keys,
            self._agreement,
            self._own_address,
            self._port,
            self._others,
        )
        for check in checks:
            yield from check()

    # ── the folder ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _keys(self) -> Iterator[Finding]:
        try:
            self._identity = self._folder.load_identity()
        except LocalError as error:
            yield Finding("keys", False, str(error))
            return
        mode = stat.S_IMODE(self._folder.path.stat().st_mode)
        if mode & 0o022:
            yield Finding("keys", False, f"others may replace what is in {self._folder.path}; chmod 700 it")
        yield Finding("keys", True, f"{self._identity.id}, readable by its owner alone")

    def _agreement(self) -> Iterator[Finding]:
        told = list(self._agreed())
        yield from told
        try:
            self._config = self._folder.load_config()
        except LocalError as error:
            yield Finding("config", False, str(error))
            return
        if self._charter is not None and self._identity is not None:
            try:
                self._folder.ready()
            except LocalError as error:
                if all(one.ok for one in told) or not str(error).startswith(str(self._folder.charter)):
                    yield Finding("config", False, str(error))
                    return
        yield Finding("config", True, f"{self._config.peer.name}, reached at {self._config.address}")

    def _agreed(self) -> Iterator[Finding]:
        """Whether the charter is in force: a founding one by everybody's signature, an amendment by a quorum's."""
        try:
            self._charter = charter = self._folder.load_charter()
        except LocalError as error:
            yield Finding("charter", False, str(error))
            return
        name = charter.hash.hex()[:16]
        if charter.group.previous is not None:
            yield self._amended(charter, name)
            return
        problems = [*Policy(charter).problems, *charter.problems]
        yield from (Finding("charter", False, problem) for problem in problems)
        if missing := ", ".join(sorted(member.name for member in charter.missing_signatures)):
            yield Finding("charter", False, f"still to sign: {missing}; then merge their copies")
        elif not problems:
            yield Finding("charter", True, f"{name}, signed by all {len(charter.members)}")

    def _amended(self, charter: Charter, name: str) -> Finding:
        lineage = self._folder.lineage
        try:
            if self._identity is None:
                lineage.ancestors(charter)
            else:
                lineage.in_force(self._identity.id)
        except LocalError as error:
            return Finding("charter", False, str(error))
        return Finding("charter", True, f"{name}, epoch {charter.group.epoch}, in force, signed by a quorum")

    def _disk(self) -> Iterator[Finding]:
        path = self._folder.path
        try:
            free, began = shutil.disk_usage(path).free, time.monotonic()
            probe_file = path / f".doctor-{os.getpid()}"
            handle = os.open(probe_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(handle, bytes(4096))
                os.fsync(handle)
            finally:
                os.close(handle)
                probe_file.unlink()
        except OSError as error:
            yield Finding("disk", False, f"{path} can't be written ({error.strerror}); check its owner and the disk")
            return
        took = time.monotonic() - began
        if free < FREE_BYTES:
            yield Finding("disk", False, f"only {free >> 20} MiB are free at {path}; free {FREE_BYTES >> 20} or more")
        elif took > SLOW_FSYNC:
            yield Finding("disk", False, f"{path} takes {took:.1f} s to make 4 KiB durable; choose a local disk")
        else:
            yield Finding("disk", True, f"{free >> 20:,} MiB free; made durable in {1000 * took:.1f} ms")

    # ── its address and port ─────────────────────────────────────────────────────────────────────────────────────────

    def _own_address(self) -> Iterator[Finding]:
        if self._config is None:
            return
        address = self._config.address
        host, _ = _split(address)
        try:
            found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
        except OSError:
            mend = "set `advertise` to a name or address that the others can resolve"
            yield Finding("address", False, f"{host} does not resolve here; {mend}")
            return
        others = [_split(one)[0] for one in self._config.peers.values()]
        if all(one.startswith(_LOOPBACK) for one in found) and any(not one.startswith(_LOOPBACK) for one in others):
            yield Finding("address", False, f"others can't reach {address}: it is each machine's own; mend `advertise`")
            return
        bound, _ = _split(self._config.peer.bind)
        if bound == "0.0.0.0" and all(":" in one for one in found):
            yield Finding("address", False, f"{host} is IPv6 only and `bind` takes IPv4 only; bind to tcp://[::]:PORT")
            return
        yield Finding("address", True, f"{address} is {', '.join(sorted(found))}")

    def _port(self) -> Iterator[Finding]:
        if self._config is None:
            return
        bind = self._config.peer.bind
        host, port = _split(bind)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.socket(family) as taker:
                taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                taker.bind((host, port))
                taker.listen()
        except OSError as error:
            yield self._occupied(bind, host, port) if error.errno == errno.EADDRINUSE else _unbindable(bind, error)
            return
        yield Finding("port", True, f"{bind} is free for this peer")

    def _occupied(self, bind: str, host: str, port: int) -> Finding:
        here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        if self._identity is not None:
            found = probe(self._route(_joined(here, port), self._identity.curve_public)).answer
            if found in (Answer.WELCOME, Answer.STRANGER):  # a peer does not list itself
                return Finding("port", True, f"{bind} is held by this peer, which runs")
        return Finding("port", False, f"another program has {bind}; stop it, or choose another `bind`")

    # ── the others ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _others(self) -> Iterator[Finding]:
        if self._identity is None or self._charter is None:
            return
        if self._extra is not None:
            yield self._whoever(self._extra)
        if self._config is None:
            return
        try:
            config = self._folder.completed(self._config, self._charter)
            addresses = config.addresses(self._charter, self._identity.id)
        except LocalError:
            return  # told above
        for peer, address in addresses.items():
            yield self._reached(self._charter.member(peer), address)

    def _reached(self, member: Member, address: str) -> Finding:
        found = probe(self._route(address, member.curve))
        said = f"{address}: {found.answer.value}"
        match found.answer:
            case Answer.WELCOME:
                # Its way here it tells itself: a peer that hears it says so in its log, and so does its doctor.
                said = f"{said}; {_compared(found.skew)}; whether it reaches you, its own doctor tells"
                return Finding(member.name, True, said)
            case Answer.STRANGER:
                return Finding(member.name, False, f"{said}: give it the charter that all signed")
            case Answer.OTHER_KEY:
                return Finding(member.name, False, f"{said}: compare its `decentra keys` with your charter")
            case Answer.REFUSED:
                return Finding(member.name, False, f"{said}: start it, or mend its port in your [peers]")
            case Answer.UNKNOWN:
                return Finding(member.name, False, f"{said}: mend its name in your [peers]")
            case _:
                return Finding(member.name, False, f"{said}: check that it runs, the address, and firewalls")

    def _whoever(self, address: str) -> Finding:
        """Who is at an address: the member whose key fits."""
        found = Answer.UNREACHABLE
        for member in () if self._charter is None else self._charter.members:
            probed = probe(self._route(address, member.curve))
            found = probed.answer
            if found in (Answer.WELCOME, Answer.STRANGER):
                mine = self._identity is not None and member.id == self._identity.id
                ok = mine or found is Answer.WELCOME
                clocks = "" if mine else f"; {_compared(probed.skew)}"
                return Finding(address, ok, f"{'this peer itself' if mine else member.name}: {found.value}{clocks}")
            if found is not Answer.OTHER_KEY:
                break
        else:
            return Finding(address, False, "it answers with the key of no member: compare charters, or the address")
        return Finding(address, False, f"{found.value}: check the address, that it runs, and firewalls")

    def _route(self, address: str, server_key: bytes) -> Route:
        if self._identity is None:
            raise LocalError("without keys nobody can be asked; run `decentra keys` first")
        return Route(address, server_key, self._identity.curve_public, self._identity.curve_secret)


def _compared(skew: Skew | None) -> str:
    """How a member's clock differs from this machine's."""
    if skew is None:
        return "it did not tell its time, so the clocks were not compared"
    if abs(skew.ahead) <= skew.within:
        return f"its clock agrees with yours to {skew.within:.3f} s"
    way = "ahead of" if skew.ahead > 0 else "behind"
    differs = f"its clock is {abs(skew.ahead):.3f} s {way} yours"
    return differs if abs(skew.ahead) < MUCH_SKEW else f"{differs}: set one of them right, or logs won't line up"


def _unbindable(bind: str, error: OSError) -> Finding:
    if error.errno == errno.EACCES:
        return Finding("port", False, f"this user may not listen at {bind}; choose a port from 1024 on")
    why = os.strerror(error.errno) if error.errno else str(error)
    return Finding("port", False, f"can't listen at {bind} ({why}); name an address of this machine, or tcp://0.0.0.0")


def _versions() -> Iterator[Finding]:
    pyzmq, libzmq = versions()
    found = [f"Python {platform.python_version()}", f"pyzmq {pyzmq}", f"libzmq {libzmq}"]
    for package in ("cryptography", "numpy", "torch"):
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{package} {metadata.version(package)}")
    yield Finding("versions", True, ", ".join(found))


def _curve() -> Iterator[Finding]:
    try:
        require_libsodium()
    except LocalError as error:
        yield Finding("curve", False, str(error))
    else:
        yield Finding("curve", True, "libzmq encrypts with libsodium")


def _files() -> Iterator[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES_WANTED:
        yield Finding("files", False, f"only {hard} files may be open, so strangers can lock you out: ulimit -n 4096")
    else:
        yield Finding("files", True, f"{'any number of' if hard == resource.RLIM_INFINITY else hard} files may be open")


def _clock() -> Iterator[Finding]:
    now, first = time.gmtime(), time.monotonic()
    steady = all(time.monotonic() >= first for _ in range(1000))
    if not SANE_YEARS[0] <= now.tm_year <= SANE_YEARS[1]:
        yield Finding("clock", False, f"this machine thinks it is {now.tm_year}; set its clock")
    elif not steady:
        yield Finding("clock", False, "this machine's monotonic clock goes back; mend the machine or its hypervisor")
    else:
        yield Finding("clock", True, time.strftime("%Y-%m-%d %H:%M:%S UTC; no deadline depends on others' clocks", now))


def _address(peer: str) -> str:
    address = peer if peer.startswith("tcp://") else f"tcp://{peer}"
    try:
        return valid_address(address)
    except ValueError as error:
        raise LocalError(f"--peer {peer!r} {error}") from None


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), int(port)


def _joined(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
