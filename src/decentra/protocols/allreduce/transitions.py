"""The transitions of an allreduce round, the same for every role; they agree with the phases of its spec (a test)."""

TRANSITIONS = {
    ("ready", "roster"): "context",
    ("context", "endorsed by all"): "slices",
    ("slices", "every slice whole"): "survivors",
    ("survivors", "certificate(survivors)"): "sum",
    ("sum", "every sum"): "outcome",
    ("outcome", "certificate(outcome)"): "done",
}
