"""The transitions of a secagg round, the same for every role; they agree with the phases of its spec (a test)."""

TRANSITIONS = {
    ("ready", "roster"): "deal",
    ("deal", "every deal"): "context",
    ("context", "endorsed by all"): "masked",
    ("masked", "slices held"): "survivors",
    ("survivors", "certificate(survivors)"): "unmask",
    ("unmask", "t shares of every secret"): "sum",
    ("sum", "every sum, or one is missing"): "outcome",
    ("outcome", "certificate(outcome)"): "beacon",
    ("beacon", "the beacon"): "verdict",
    ("verdict", "certificate(verdict)"): "done",
}

READS = {
    "deal": {"deal"},
    "context": {"context", "endorse", "endorsed"},
    "masked": {"masked", "again"},
    "survivors": {"holding", "masked", "again"},
    "unmask": {"unmask"},
    "sum": {"sum", "masked", "again"},
    "outcome": {"sum", "masked", "again"},
    "beacon": {"beacon"},
    "verdict": {"part", "checked", "masked", "holding", "sum"},
}
"""By phase, the messages that can carry a round on; any other waits in its box, and costs no look at the phase."""

SHOWS = {"survivors": "unmask", "outcome": "beacon"}
"""By topic of a vote, the message that shows that its author holds the certificate; nothing follows the verdict."""
