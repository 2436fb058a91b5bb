"""Asking at a peer's door, once, without being one's own peer: a connection, a question, an answer."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import zmq

from decentra.errors import LocalError, Unavailable
from decentra.transport.answers import LINE_EVENTS, PERIOD, TOO_MUCH, Line, answer_options
from decentra.transport.base import SILENT, UNREACHABLE
from decentra.transport.dialler import REFUSALS, Route, common_options, refusal, show_keys
from decentra.types import PeerId
from decentra.wire.door import Answer, Question

DEADLINE = 10.0
"""Seconds for a connection, a question and its answer; who stands at the door longer is cut there."""


def knock(peer: PeerId, route: Route, question: Question, deadline: float = DEADLINE) -> Answer:
    """What a peer answers.

    Args:
        peer: who is asked, for messages.
        route: where it is, its key, and the keys under which this one asks.
        question: is sent once.
        deadline: seconds.

    Raises:
        LocalError: the address is none.
        Unavailable: nobody answers there, or not with an answer, or it does not know this key.
    """
    began = time.monotonic()
    with ExitStack() as undo:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        undo.callback(context.term)
        socket = undo.enter_context(context.socket(zmq.DEALER))
        common_options(socket)
        answer_options(socket)
        show_keys(socket, route)
        monitor = undo.enter_context(socket.get_monitor_socket(LINE_EVENTS | zmq.Event.CLOSED | REFUSALS))
        undo.callback(socket.disable_monitor)
        try:
            socket.connect(route.endpoint)
        except zmq.ZMQError as error:
            raise LocalError(f"{route.endpoint} is no address ({error}): write tcp://HOST:PORT") from None
        socket.send(question.pack())
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        failed: list[str] = []
        line = Line(monitor, lambda told: failed.extend(_failure(told)))
        while not failed and (left := began + deadline - time.monotonic()) > 0:
            ready = dict(poller.poll(int(min(left, PERIOD) * 1000) + 1))
            if socket in ready:
                return _read(peer, socket.recv())
            line.hear()
            if line.full():
                failed.append(TOO_MUCH)
        mend = f"{failed[0] if failed else SILENT} ({route.endpoint})"
        raise Unavailable([peer], max(0.1, time.monotonic() - began), "an answer at its door", mend)


def _failure(told: dict[str, Any]) -> list[str]:
    """Why no answer will come, where an event says so."""
    if told["event"] & REFUSALS:
        return [refusal(told["value"])]
    return [UNREACHABLE] if told["event"] == zmq.Event.CLOSED else []


def _read(peer: PeerId, raw: bytes) -> Answer:
    try:
        return Answer.parse(raw)
    except ValueError as error:
        raise Unavailable([peer], 0.0, "its answer at the door", f"it can't be read ({error})") from None
