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
