"""The transitions of a bucketed round once the buckets have their sums, the same for every role; they agree with the
phases of its spec (a test)."""

TRANSITIONS = {
    ("ready", "roster"): "context",
    ("context", "endorsed by all"): "means",
    ("means", "means stated"): "survivors",
    ("survivors", "certificate(survivors)"): "aggregate",
    ("aggregate", "c + 1 equal results, or a mean is missing"): "outcome",
    ("outcome", "certificate(outcome)"): "done",
}

READS = {
    "context": {"endorse", "endorsed"},
    "means": {"mean"},
    "survivors": {"holding", "mean"},
    "aggregate": {"relay", "result", "mean", "holding"},
    "outcome": {"relay", "result", "mean", "holding"},
}
"""By phase, the messages that can carry a round on; any other waits in its box, and costs no look at the phase."""

SHOWS = {"survivors": "result"}
"""By topic of a vote, the message that shows that its author holds the certificate; nothing follows the outcome."""
