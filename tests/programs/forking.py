"""A peer beside which processes are forked: by hand, and by a DataLoader that loads in two workers."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from decentra.errors import LocalError
from decentra.peer.config import PeerFolder
from decentra.peer.runtime import Peer


def tell(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def in_child(peer: Peer, how: str) -> str:
    """What a forked child hears when it uses the peer; it ends as programs do, or by ``os._exit``."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = []
        for use in (lambda: peer.average([np.zeros(3, np.float32)]), peer.interrupt, peer.close):
            try:
                use()
            except LocalError as error:
                said.append(str(error))
        os.write(writing, json.dumps(said).encode())
        os.close(writing)
        if how == "exit":
            sys.exit(0)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        heard = pipe.read()
    _, status = os.waitpid(child, 0)
    tell("child", how=how, said=json.loads(heard), code=os.waitstatus_to_exitcode(status))
    return heard


@contextmanager
def another_child() -> Iterator[None]:
    """A forked child that lives as long as what stands below, and does nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)  # until the parent closes the other end
        os._exit(0)
    os.close(reading)
    try:
        yield
    finally:
        os.close(writing)
        os.waitpid(child, 0)


def main() -> None:
    """Arguments: the peer's number; peer 0 forks, the others only average."""
    number = int(sys.argv[1])
    peer = Peer(PeerFolder.find())
    if number == 0:
        in_child(peer, "exit")
    data = DataLoader(TensorDataset(torch.arange(12.0)), batch_size=3, num_workers=2 if number == 0 else 0)
    for _ in data:  # the workers live while rounds go on
        if number == 0:
            in_child(peer, "_exit")
        result = peer.average([np.full(3, number, np.float32)])
        tell("round", number=result.round.number, participants=len(result.participants))
    with another_child() if number == 0 else nullcontext():  # it does not keep the port
        closing = peer.close()
        with socket.create_server(("127.0.0.1", int(peer.endpoint.rpartition(":")[2]))):
            tell("closed", rounds=closing.rounds)


if __name__ == "__main__":
    main()
