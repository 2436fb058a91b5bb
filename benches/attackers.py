"""Attacks one transport with raw sockets, and prints what each attack costs it and how soon it is over.

    python benches/attackers.py [--strangers 1500]

The attacked runs in a process of its own, whose resident memory is read from /proc. A stranger is to cost 64 KiB a
connection at most and to keep an honest peer waiting for 3 s at most; a member that floods is to be cut within 2 s and
to cost 64 MiB at most. Exit code 1 if any figure is worse.
"""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from time import monotonic

import zmq

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

import attacking  # noqa: E402
from attacking import GREETING, Attacked, Keys, dealer, ended, flood, sealed, served  # noqa: E402
from decentra.transport.base import Lane  # noqa: E402

MIB = 1 << 20
STRANGER, MEMBER = 64 * 1024, 64 * MIB
SERVED, CUT = 3.0, 2.0

LONG = GREETING + b"\x06" + MIB.to_bytes(8, "big")
FIRST_WORDS = {
    "silent": b"",
    "greeted": GREETING,
    "false hello": GREETING + b"\x04\xc8\x05HELLO" + bytes(194),
    "a mebibyte announced": LONG,
    "a mebibyte less one byte": LONG + bytes(MIB - 1),
}
FLOODS = {
    "empty entries": sealed(b"x"),
    "entries of 1 KiB": sealed(b"x", bytes(1024)),
    "entries of 1 MiB": sealed(b"x", bytes(MIB)),
    "empty pieces": sealed(b"x", lane=Lane.BULK),
}


class Figures:
    """Prints a line a figure, and remembers whether any was too high."""

    def __init__(self) -> None:
        self.worse = False

    def tell(self, attack: str, figure: str, value: float, most: float) -> None:
        self.worse |= value > most
        print(f"{attack:34} {figure:34} {value:10.2f}   at most {most:g}{'   TOO MUCH' * (value > most)}", flush=True)


def attack_as_nobody(attacked: Attacked, keys: Keys, count: int, figures: Figures) -> None:
    for what, first in FIRST_WORDS.items():
        attacked.reset()
        with ExitStack() as stack:
            for _ in range(count):
                one = stack.enter_context(socket.create_connection(("127.0.0.1", attacked.port)))
                with suppress(ConnectionError):  # it was cut meanwhile
                    one.sendall(first)
            waited = served(attacked, keys)
            cost = (attacked.most() - attacked.before) / count / 1024
            lasted = ended(one)
        attack = f"{count} strangers, {what}"
        figures.tell(attack, "KiB a connection, at worst", cost, STRANGER / 1024)
        figures.tell(attack, "s until an honest peer is served", waited, SERVED)
        figures.tell(attack, "s until the last is cut", lasted, 12.0)


def attack_with_keys_of_nobody(attacked: Attacked, keys: Keys, figures: Figures) -> None:
    attacked.reset()
    with zmq.Context() as context:
        for _ in range(500):
            dealer(keys, "x", attacked.endpoint, context).send(sealed(b"hello from nobody"))
        waited = served(attacked, keys)
        cost = (attacked.most() - attacked.before) / 500 / 1024
        context.destroy(0)
    figures.tell("500 sockets with unlisted keys", "KiB a connection, at worst", cost, STRANGER / 1024)
    figures.tell("500 sockets with unlisted keys", "s until an honest peer is served", waited, SERVED)


def attack_as_member(home: Path, keys: Keys, figures: Figures) -> None:
    for what, message in FLOODS.items():
        with closing(fresh(home, keys)) as attacked:
            flood_one(attacked, keys, what, message, figures)
    with closing(fresh(home, keys)) as attacked:
        bomb(attacked, keys, figures)


def fresh(home: Path, keys: Keys) -> Attacked:
    """Attacked for the first time, so that nothing freed before hides what an attack takes."""
    attacked = Attacked(home, keys)
    served(attacked, keys)
    attacked.reset()
    return attacked


def flood_one(attacked: Attacked, keys: Keys, what: str, message: bytes, figures: Figures) -> None:
    with zmq.Context() as context, closing(dealer(keys, "c", attacked.endpoint, context)) as attacker:
        attacker.setsockopt(zmq.SNDHWM, 10)
        lasted = flood(attacker, [message], attacked, "c")
    figures.tell(f"a member floods: {what}", "s until it is cut", lasted, CUT)
    cost = (attacked.most() - attacked.before) / MIB
    figures.tell(f"a member floods: {what}", "MiB at worst", cost, MEMBER / MIB)
    figures.tell(f"a member floods: {what}", "s until an honest peer is served", served(attacked, keys), SERVED)


def bomb(attacked: Attacked, keys: Keys, figures: Figures) -> None:
    """A message whose last frame never comes: the socket is closed as soon as the rest is out."""
    with zmq.Context() as context, closing(dealer(keys, "c", attacked.endpoint, context)) as attacker:
        attacker.setsockopt(zmq.LINGER, 0)
        attacker.send(sealed(b"hello bomb"))
        attacked.wait_for("heard", peer="c")
        began = monotonic()
        attacker.send_multipart([sealed(b"x"), *[bytes(MIB)] * 2000], copy=False)
        attacked.wait_for("link", peer="c", up=False)
        lasted = monotonic() - began
    figures.tell("a member sends 2,001 frames", "s until it is cut", lasted, CUT)
    figures.tell("a member sends 2,001 frames", "MiB at worst", (attacked.most() - attacked.before) / MIB, MEMBER / MIB)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strangers", type=int, default=attacking.SILENT)
    options = parser.parse_args()
    if attacking.allow_files(4 * options.strangers) < 2 * options.strangers:
        raise SystemExit(f"too few files may be open: ulimit -n {4 * options.strangers}")
    figures, keys = Figures(), Keys("abcx")
    with tempfile.TemporaryDirectory() as home:
        with closing(fresh(Path(home), keys)) as attacked:
            figures.tell("nobody attacks", "s until an honest peer is served", served(attacked, keys), SERVED)
            attack_as_nobody(attacked, keys, options.strangers, figures)
            attack_with_keys_of_nobody(attacked, keys, figures)
        attack_as_member(Path(home), keys, figures)
    return 1 if figures.worse else 0


if __name__ == "__main__":
    raise SystemExit(main())
