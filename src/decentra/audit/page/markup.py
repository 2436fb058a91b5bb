"""HTML from Python values: whatever is no markup already is escaped where it is put in, so nothing can be forgotten."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from decentra.audit.report import visible

MOST_TEXT = 600
"""Characters of one text that are shown; a reason or a path is shorter."""

_EMPTY = frozenset(("meta", "path", "rect"))


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | int | None | Iterable["Content"]
"""What stands in an element: texts, which are escaped unless they are markup, numbers, nothing, or several of these."""


def short(text: str) -> str:
    """A text as it is seen, cut where it is too long."""
    return visible(text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + "…")


def join(*content: Content) -> Markup:
    """Contents one behind another, each escaped unless it is markup."""
    parts = []
    for one in content:
        if isinstance(one, Markup):
            parts.append(str(one))
        elif isinstance(one, str | int):
            parts.append(escape(short(str(one))))
        elif one is not None:
            parts.append(join(*one))
    return Markup("".join(parts))


def tag(name: str, /, *content: Content, **attributes: str | int | None) -> Markup:
    """An element; an attribute that is None is left out, and one that is markup is not cut.

    >>> tag("td", "<b>", class_="wide", aria_label='"')
    '<td class="wide" aria-label="&quot;">&lt;b&gt;</td>'
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value if isinstance(value, Markup) else short(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{said}/>" if name in _EMPTY else f"<{name}{said}>{join(*content)}</{name}>")


def table(caption: str, heads: Iterable[str], rows: Iterable[Iterable[Content]], class_: str = "stacks") -> Markup:
    """A table whose rows begin with their heading. On a narrow screen each row becomes a list of its cells, with the
    columns' names before them; the roles keep it a table for who hears it read."""
    named = tuple(heads)
    head = tag("tr", [tag("th", one, scope="col", role="columnheader") for one in named], role="row")
    body = []
    for row in rows:
        first, *others = row
        cells = [tag("th", first, scope="row", role="rowheader")]
        cells += [
            tag("td", tag("span", one), role="cell", data_label=label)
            for label, one in zip(named[1:], others, strict=True)
        ]
        body.append(tag("tr", cells, role="row"))
    parts = (tag("caption", caption), tag("thead", head, role="rowgroup"), tag("tbody", body, role="rowgroup"))
    return tag("table", *parts, class_=class_, role="table")


def listed(names: Iterable[str], nobody: str = "nobody") -> str:
    """Names as a sentence has them.

    >>> listed(["a", "b", "c"]), listed([])
    ('a, b and c', 'nobody')
    """
    *before, last = tuple(names) or (nobody,)
    return f"{', '.join(before)} and {last}" if before else last


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and what it counts.

    >>> counted(1, "entry", "entries"), counted(2400, "round")
    ('1 entry', '2,400 rounds')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def size(count: int) -> str:
    """A number of bytes, for people.

    >>> size(999), size(12_345), size(5_000_000)
    ('999 B', '12.3 kB', '5.0 MB')
    """
    if count < 1000:
        return f"{count} B"
    return f"{count / 1000:.1f} kB" if count < 999_950 else f"{count / 1_000_000:,.1f} MB"


def bdi(text: str) -> Markup:
    """A text of others, whose direction of writing stays its own."""
    return tag("bdi", text)


def hashed(value: bytes, digits: int = 16) -> Markup:
    """The first digits of a hash, with all of them for who points at it."""
    return tag("span", value.hex()[:digits], class_="hash", title=value.hex())


def note(*content: Content) -> Markup:
    """A remark, in smaller writing."""
    return tag("p", *content, class_="note")
