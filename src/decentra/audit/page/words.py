"""What the page of an audit says in plain words: verdicts, phases, endings, and the rules that follow from any spec."""

from __future__ import annotations

from collections.abc import Mapping

from decentra.audit.findings import Verdict
from decentra.audit.page.detail import ANY, UNKNOWN, VOTE, Ending

MEANS: Mapping[Verdict, str] = {
    Verdict.CLEAN: (
        "Every entry that was given carries the signature of the member that it names, nothing that they refer to is "
        "missing, and none of them breaks a rule that transcripts can tell. What they can't tell is listed below."
    ),
    Verdict.VIOLATION: (
        "Each finding rests on entries that the named member signed with its own key. Nobody else can have made them: "
        "not another member, not whoever handed in transcripts or kept some back, unless its key was stolen. Members "
        "that are not named here are not accused of anything."
    ),
    Verdict.UNDECIDED: (
        "Something is missing, or could not be read, so that some rules can't be told. That alone is nobody's fault: a "
        "transcript may simply not have been handed in. Below stands what is missing, and whom to ask for it."
    ),
}

ENDINGS: Mapping[Ending, str] = {
    Ending.SUMMED: "gave a sum",
    Ending.LOST: "lost, by agreement",
    Ending.FAILED: "failed, by agreement",
    Ending.ENDED: "ended by a member",
    Ending.OPEN: "no result shown",
}
"""How a round ended, in a few words."""

PHASES: Mapping[str, tuple[str, str]] = {
    "ready": ("ready", "Members say that they are there and with which model; one of them lists who takes part."),
    "aligned": ("align", "A member that lags behind takes over what the group holds in common."),
    "deal": ("deal", "Each deals out sealed shares, of the secrets that will hide its update or of the update itself."),
    "context": ("agree", "All sign what exactly is about to be summed, and by whom."),
    "masked": ("masked", "Each sends its update, hidden under masks, in slices."),
    "slices": ("slices", "Each sends its update in slices, in the clear."),
    "updates": ("updates", "Each sends its update whole, in the clear, to everybody."),
    "means": ("means", "Each says what its bucket's mean is, and sends it to others."),
    "survivors": ("survivors", "The group votes on whose update is in the sum."),
    "unmask": ("unmask", "Members show what takes the masks off the sum, and off nothing else."),
    "sum": ("sum", "Whoever adds up a slice signs what came out."),
    "aggregate": ("aggregate", "Each evaluates the group's rule on the same updates, and signs what came out."),
    "outcome": ("outcome", "The group votes on the result."),
    "beacon": ("beacon", "Members draw a random number that nobody could choose."),
    "check": ("check", "Each says of what it was dealt one number a dealer, by which false shares show."),
    "checked": ("checked", "The group votes on whose deals stand, and on who is proved to lie."),
    "gram": ("gram", "Each says its share of how near the updates are to each other, and of nothing else."),
    "geometry": ("geometry", "The group votes on these distances, and on how much each update counts."),
    "combine": ("combine", "The weighted sum is opened, each slice by its owner, and held against all shares of it."),
    "verdict": ("verdict", "Some sums, drawn by that number, are added up again; the group votes whether they stand."),
    VOTE: ("other votes", "Votes on what the protocol does not vote on, or whose text is missing."),
    ANY: ("end", "A member ends the round, or leaves."),
    UNKNOWN: ("unknown", "Messages that the spec does not know."),
}
"""By phase of a spec: a heading, and what happens in it."""

GENERIC_SAYS: Mapping[str, str] = {
    "SIGNATURE": "Who refers to an entry vouches that a member of the session signed it.",
    "SCHEMA": "A member signs messages that the spec knows, in their form, and no others.",
    "SESSION": "A member signs for the epoch of its session only.",
    "ROLE": "A message goes to other members, and who offers a roster is in it.",
    "ORDER": "A message names the entry that opened its phase, and that is of a kind which can open it.",
    "EQUIVOCATION": "A member signs one message where the spec allows one, and not two different ones.",
    "CHAIN": "Each entry of a member names the one that it signed before.",
    "FORK": "A member signs one entry under each number, so that all see the same history.",
    "REPLAY": "A member does not go back to a round before one that it signed in.",
}
"""The rules that follow from any spec (``specs/audit``)."""

AXIS = (
    "Nothing that is signed has a time. The axis is therefore rounds, and within a round the phases of the spec; in a "
    "phase each member's entries stand in the order in which it signed them. What stands in one column need not have "
    "happened at the same time."
)
MARKED = (
    "▲ marks the entries by which a member broke a rule; a dashed border marks others that show it. ×2 says that two "
    "were signed in a row."
)
GAPS = (
    "Signed entries refer to what none of the given transcripts holds. Who adds the transcripts named here can tell "
    "more."
)
UNKNOWN_SESSION = (
    "no charter of it was given, or its protocol is one that is not judged. Ask a member for the charter, and give it "
    "with --charter."
)
GARBLED = "what can't be read accuses nobody. Ask whoever gave them for whole copies of their transcripts."
UNSIGNED = "without the signature of the member that they name: they accuse nobody, but somebody changed or made them."
BYTES = "Bytes are those of entries and their texts; the updates themselves are in no transcript."
FOOT = (
    "Made by decentra audit from signed transcripts and the published specs alone. Nothing on this page is loaded from "
    "elsewhere. Whoever has the same transcripts, whole and in whatever files, gets the same page, to the byte."
)

GLOSSARY: tuple[tuple[str, str], ...] = (
    ("member, peer", "One party of the group, known by its key. The charter lists them all, with names."),
    ("charter", "The agreement that all members signed: who is in the group, by which protocol, under which terms."),
    ("epoch", "A period with the same members; each has a charter and a session of its own."),
    ("round", "One common sum: members put in an update each, and all get the sum."),
    ("entry", "A signed message. It carries a number and the fingerprint of its author's entry before it."),
    ("transcript", "What a member keeps of a session: the entries that it signed, and those that it heard."),
    ("hash", "The fingerprint of an entry: nobody can make another entry with the same one."),
    ("clause", "A sentence of the published spec that every member can be held to."),
    ("roster", "The members that start a round."),
    ("survivors", "The members of the roster whose update is in the sum."),
    ("view", "An attempt at a vote. Each has one member that proposes; if it fails, the next view has another."),
    ("prepare, commit", "The two steps of a vote. A value that enough members committed to in one view is certified."),
)
