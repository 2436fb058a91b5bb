"""How the page of an audit looks: one style sheet, for light and dark, wide and narrow screens, and paper."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark; --paper: #fff; --card: #f6f7f9; --ink: #1b2430; --soft: #566273; --line: #d5dae1;
  --link: #0b57d0; --good: #17643a; --good-soft: #e3f4e9; --bad: #b3261e; --bad-soft: #fdeceb; --open: #7a4b00;
  --open-soft: #fdf1db; --chip: #e7ebf1; --sum: #2f7d5b; --signed: #7b8797; --out: #5b6fb5; --missing: #b87400; }
@media (prefers-color-scheme: dark) { :root { --paper: #12161c; --card: #1b2129; --ink: #e6eaf0; --soft: #a3afbe;
  --line: #343d49; --link: #8ab4f8; --good: #7fd6a2; --good-soft: #15301f; --bad: #ff9a92; --bad-soft: #3d1a18;
  --open: #f2c36b; --open-soft: #362a12; --chip: #2b333e; --sum: #58b98a; --signed: #78859a; --out: #93a6ee;
  --missing: #e0a23a; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif; }
header, main, footer { max-width: 74rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 1.5rem; }
h1, h2, h3, h4 { line-height: 1.25; margin: 0 0 .5rem; text-wrap: balance; }
h1 { font-size: clamp(1.5rem, 4.5vw, 2.1rem); }
h2 { font-size: 1.35rem; margin-top: 2.75rem; padding-bottom: .35rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.1rem; margin-top: 1.75rem; }
h4 { font-size: 1rem; margin-top: 1.25rem; }
p, ul, ol, dl { margin: .5rem 0; max-width: 48rem; }
ul { padding-left: 1.25rem; }
a { color: var(--link); }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
code, .hash { font: .85em/1.4 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
.kicker { margin: 0 0 .75rem; color: var(--soft); }
.note { color: var(--soft); font-size: .92rem; }
.verdict { border: 1px solid; border-left-width: .5rem; border-radius: .5rem; padding: 1.1rem 1.25rem; }
.verdict p { margin-bottom: 0; color: var(--ink); }
.verdict .said { margin: 0 0 .3rem; font-weight: 700; letter-spacing: .04em; text-transform: uppercase;
  color: inherit; }
.clean { color: var(--good); background: var(--good-soft); }
.violation { color: var(--bad); background: var(--bad-soft); }
.undecided { color: var(--open); background: var(--open-soft); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; margin: 1rem 0 0; max-width: none;
  list-style: none; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; max-width: none; }
.facts div { background: var(--card); border-radius: .5rem; padding: .6rem .8rem; }
.facts dt { color: var(--soft); font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.1rem; font-weight: 600; }
article { border: 1px solid var(--line); border-left: .4rem solid var(--bad); border-radius: .5rem;
  padding: .25rem 1.1rem .75rem; margin: 1rem 0; }
article h3 { margin-top: .75rem; }
blockquote { margin: .5rem 0; padding: .1rem 0 .1rem 1rem; border-left: 3px solid var(--line); max-width: 48rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; margin: .5rem 0; }
caption { text-align: left; color: var(--soft); padding: .25rem 0; }
th, td { text-align: left; vertical-align: top; padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 600; min-width: 8.5rem; }
.lanes tbody th { min-width: 0; }
.told { white-space: nowrap; font-weight: 600; }
.told.yes { color: var(--good); } .told.part { color: var(--open); } .told.no { color: var(--soft); }
.broken, .broke { color: var(--bad); font-weight: 700; }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .75rem 0; padding: 0 1rem; }
details[open] { padding-bottom: .75rem; }
summary { cursor: pointer; padding: .6rem 0; }
summary h4 { display: inline; margin: 0; }
.scroll { overflow-x: auto; margin: .5rem 0; border: 1px solid var(--line); border-radius: .5rem; }
.lanes { width: auto; min-width: 100%; margin: 0; font-size: .82rem; }
.lanes th, .lanes td { padding: .35rem .6rem; white-space: nowrap; overflow-wrap: normal; }
.lanes tr > :first-child { position: sticky; left: 0; background: var(--paper); border-right: 1px solid var(--line);
  width: 1%; max-width: 11rem; overflow: hidden; text-overflow: ellipsis; z-index: 1; }
.lanes .broke { display: block; }
.lanes tbody tr:last-child > * { border-bottom: 0; }
.lanes td + td { border-left: 1px dashed var(--line); }
.strip td { padding: .2rem .6rem; }
.strip tbody tr > * { border-bottom: 0; }
svg { display: block; overflow: visible; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
.chip { display: inline-block; background: var(--chip); border: 1px solid transparent; border-radius: .35rem;
  padding: .05rem .4rem; margin: .08rem .2rem .08rem 0; }
.chip.cited { border: 1px dashed var(--bad); }
.chip.shows { background: var(--bad-soft); border-color: var(--bad); color: var(--bad); font-weight: 700; }
.amount { display: flex; align-items: center; justify-content: space-between; gap: .6rem; }
.s-summed { fill: var(--sum); } .s-signed { fill: var(--signed); } .s-left { fill: var(--out); }
.s-missing { fill: var(--missing); } .s-broke { fill: var(--bad); } .s-none { fill: var(--signed); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; list-style: none; font-size: .88rem; }
.legend li { display: flex; align-items: center; gap: .4rem; }
dl.words dt { font-weight: 600; margin-top: .5rem; } dl.words dd { margin: 0; }
footer { margin-top: 3rem; padding-bottom: 2rem; color: var(--soft); font-size: .9rem; }
@media (max-width: 44rem) {
  .stacks thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .stacks, .stacks tbody, .stacks tr, .stacks th, .stacks td, .stacks caption { display: block; }
  .stacks tbody tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  .stacks tbody th, .stacks td { border: 0; padding: .1rem 0; }
  .stacks td { display: grid; grid-template-columns: 7.5rem 1fr; gap: .5rem; }
  .stacks td::before { content: attr(data-label); color: var(--soft); }
  .lanes tr > :first-child { max-width: 6.5rem; }
}
@media print { .scroll { overflow: visible; } nav { display: none; } }
"""
