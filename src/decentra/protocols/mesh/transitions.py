"""The transitions of a mesh round, the same for every role; they agree with the phases of its spec (a test)."""

TRANSITIONS = {
    ("ready", "roster"): "context",
    ("context", "endorsed by all"): "updates",
    ("updates", "updates held"): "survivors",
    ("survivors", "certificate(survivors)"): "aggregate",
    ("aggregate", "c + 1 equal results, or an update is missing"): "outcome",
    ("outcome", "certificate(outcome)"): "done",
}

READS = {
    "context": {"endorse", "endorsed"},
    "updates": {"update"},
    "survivors": {"holding", "update"},
    "aggregate": {"relay", "result", "update", "holding"},
    "outcome": {"relay", "result", "update", "holding"},
}
"""By phase, the messages that can carry a round on; any other waits in its box, and costs no look at the phase."""

SHOWS = {"survivors": "result"}
"""By topic of a vote, the message that shows that its author holds the certificate; nothing follows the outcome."""
