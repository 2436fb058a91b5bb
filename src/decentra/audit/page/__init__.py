"""An audit as one HTML page that anybody can read: no network, no script, no cryptography to know.

- ``detail``: one round: who signed what in which phase, who voted for what; ``course``: of all rounds what is kept.
- ``timeline``: the strip of all rounds and the lanes of one; ``session``: all that is shown of a session.
- ``found``: violations with what shows them, and what is missing; ``render``: the page.
- ``markup``: HTML that is escaped by construction; ``words``: the plain words; ``style``: the style sheet.

Give ``Courses().watch`` to the auditor, and the courses with its report to ``render``.
"""

from decentra.audit.page.course import Courses
from decentra.audit.page.render import render

__all__ = ["Courses", "render"]
