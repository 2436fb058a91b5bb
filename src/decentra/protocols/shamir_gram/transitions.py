"""The transitions of a shamir-gram round, the same for every role; they agree with the phases of its spec (a test)."""

TRANSITIONS = {
    ("ready", "roster"): "context",
    ("context", "endorsed by all"): "deal",
    ("deal", "deals held"): "survivors",
    ("survivors", "certificate(survivors)"): "beacon",
    ("beacon", "the beacon"): "check",
    ("check", "checks told"): "checked",
    ("checked", "certificate(checked)"): "gram",
    ("gram", "matrices told"): "geometry",
    ("geometry", "certificate(geometry)"): "combine",
    ("combine", "every slice is right, or one is not to be had"): "outcome",
    ("outcome", "certificate(outcome)"): "done",
}

READS = {
    "context": {"endorse", "endorsed"},
    "deal": {"deal"},
    "survivors": {"holding", "deal"},
    "beacon": {"beacon"},
    "check": {"check", "shown"},
    "checked": {"check", "shown"},
    "gram": {"gram"},
    "geometry": {"gram"},
    "combine": {"part", "slice", "told"},
    "outcome": {"part", "slice", "told"},
}
"""By phase, the messages that can carry a round on; any other waits in its box, and costs no look at the phase."""

SHOWS = {"survivors": "beacon", "checked": "gram", "geometry": "part"}
"""By topic of a vote, the message that shows that its author holds the certificate; nothing follows the outcome."""
