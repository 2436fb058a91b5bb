"""One handshake with whoever listens at an address, to tell how it goes, and a question for its time; nothing is kept.

The steps tell causes apart: whether the name resolves and the port answers shows with a plain socket, whose key is
there and whether it lists ours shows how far CURVE comes. A server that cannot open our first box, since it was made
for another key, closes the connection; one that can, and does not list our key, says 400 (ZeroMQ RFCs 26 and 27).
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from dataclasses import dataclass
from enum import Enum
from time import monotonic, time
from typing import Any

import zmq

from decentra.transport import time_query
from decentra.transport.answers import PERIOD, Line, answer_options
from decentra.transport.dialler import Route, common_options, show_keys


class Answer(Enum):
    """What became of a handshake."""

    WELCOME = "it answers, has the key that it should have, and lists yours"
    STRANGER = "it answers and has the right key, and does not list yours"
    OTHER_KEY = "it answers, and not with that peer's key: it is another peer, or no decentra"
    SILENT = "it takes connections and does not answer: it is stopped, or another program"
    REFUSED = "nobody listens there"
    UNREACHABLE = "nothing comes back from there"
    UNKNOWN = "the name does not resolve"


@dataclass(frozen=True)
class Skew:
    """By how many seconds another machine's clock is ahead of this one's, and how far that may be off."""

    ahead: float
    within: float


@dataclass(frozen=True)
class Probe:
    """An answer, how long it took in seconds, and how the clocks differ, where a member that welcomes told its time."""

    answer: Answer
    seconds: float
    skew: Skew | None = None


_OUTCOMES: dict[int, Answer] = {
    zmq.Event.HANDSHAKE_SUCCEEDED: Answer.WELCOME,
    zmq.Event.HANDSHAKE_FAILED_AUTH: Answer.STRANGER,
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: Answer.OTHER_KEY,
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: Answer.OTHER_KEY,
    zmq.Event.DISCONNECTED: Answer.OTHER_KEY,
}


def probe(route: Route, patience: float = 3.0) -> Probe:
    """Try to shake hands at a route's endpoint, within `patience` seconds a step."""
    began = monotonic()
    host, _, port = route.endpoint.removeprefix("tcp://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=patience):
            pass
    except socket.gaierror:
        return Probe(Answer.UNKNOWN, monotonic() - began)
    except ConnectionRefusedError:
        return Probe(Answer.REFUSED, monotonic() - began)
    except OSError:
        return Probe(Answer.UNREACHABLE, monotonic() - began)
    found, skew = _shake_hands(route, patience)
    return Probe(found, monotonic() - began, skew)


def _shake_hands(route: Route, patience: float) -> tuple[Answer, Skew | None]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        common_options(dealer)
        answer_options(dealer)
        dealer.setsockopt(zmq.HANDSHAKE_IVL, int(1000 * patience))
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        show_keys(dealer, route)
        monitor = dealer.get_monitor_socket()
        events = deque[dict[str, Any]]()
        line = Line(monitor, events.append)
        try:
            dealer.connect(route.endpoint)
            end = monotonic() + patience
            while (left := end - monotonic()) > 0:
                if not events:
                    monitor.poll(int(1000 * left) + 1)
                    line.hear()
                    continue
                told = events.popleft()
                answer = _OUTCOMES.get(told["event"])
                if answer is Answer.WELCOME:
                    return answer, _ask_time(dealer, line, patience)
                if answer is not None:
                    return Answer.SILENT if told["value"] == errno.EAGAIN else answer, None
            return Answer.SILENT, None
        finally:
            dealer.disable_monitor()
            monitor.close(0)


def _ask_time(dealer: zmq.Socket[bytes], line: Line, patience: float) -> Skew | None:
    nonce, asked, began = os.urandom(time_query.NONCE_BYTES), time(), monotonic()
    dealer.send(time_query.question(nonce))
    while not dealer.poll(int(1000 * PERIOD)):
        if line.full() or monotonic() - began > patience:
            return None
    took = monotonic() - began
    theirs = time_query.told(dealer.recv(), nonce)
    return None if theirs is None else Skew(theirs - asked - took / 2, took / 2)


def versions() -> tuple[str, str]:
    """Of pyzmq, and of the libzmq beneath it."""
    return zmq.__version__, zmq.zmq_version()
