"""Reads transcripts and tells, from what was signed and nothing else, who broke which clause.

- ``transcript``: a peer's log of one session, as a file.
- ``archive``: the entries of any number of transcripts, each once, by session and round.
- ``ground``: what a session's charter and spec say.
- ``record``: an entry with its fields; a round's entries, and what they cite.
- ``findings``: violations with their evidence, what is missing to tell, and the verdict.
- ``generic``: the rules that follow from any spec; ``rules``: those of the protocols, by clause.
- ``evidence``: of all that shows a violation, the few entries that show it by themselves.
- ``auditor``: holds an archive against the rules; ``report``: what it came to, for people and programs.
- ``page``: the report as an HTML page for everybody.
- ``secrets``: what a peer may keep of its rounds; ``replay``: its rounds computed again from that.

Nothing here imports the machines that are judged: a mistake of theirs must not be one of its judge.
"""

from decentra.audit.auditor import audit
from decentra.audit.findings import Missing, Verdict, Violation
from decentra.audit.report import Report

__all__ = ["Missing", "Report", "Verdict", "Violation", "audit"]
