"""The transitions of an allreduce round, the same for every role; they agree with the phases of its spec (a test)."""

TRANSITIONS = {
    ("ready", "roster"): "context",
    ("context", "endorsed by all"): "slices",
    ("slices", "slices held"): "survivors",
    ("survivors", "certificate(survivors)"): "sum",
    ("sum", "every sum, or one is missing"): "outcome",
    ("outcome", "certificate(outcome)"): "done",
}

READS = {
    "context": {"endorse", "endorsed"},
    "slices": {"slices", "again"},
    "survivors": {"holding", "slices", "again"},
    "sum": {"sum", "slices", "again"},
    "outcome": {"sum", "slices", "again"},
}
"""By phase, the messages that can carry a round on; any other waits in its box, and costs no look at the phase."""

SHOWS = {"survivors": "sum"}
"""By topic of a vote, the message that shows that its author holds the certificate; nothing follows the outcome."""
