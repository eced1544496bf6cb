"""Self-contained HTML pages: the style is inside, no network is needed, light or dark follows the reader's system.

A content security policy allows the inline style only, so that even a mistake here could not load or run anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import unescape

from featurestore.reports.markup import (
    Child,
    Markup,
    element,
    joined,
)

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

_LIGHT = """
--page:#ffffff;--panel:#f6f7f9;--text:#1c2430;--muted:#5d6878;--grid:#dde2e8;--link:#1f5fbf;--on-color:#ffffff;
--good:#1a7f45;--bad:#c0302b;--doubt:#8a5f00;--reference:#6b7a8f;--current:#1f6fd0;
--series-1:#c0302b;--series-2:#1f6fd0;--series-3:#8a5f00;--series-4:#1a7f45;--series-5:#7a45b8;--series-6:#0b7285;
"""
_DARK = """
--page:#12161c;--panel:#1b212a;--text:#e4e9f0;--muted:#9aa7b8;--grid:#303945;--link:#7db3ff;--on-color:#10141a;
--good:#57c785;--bad:#ff7b72;--doubt:#e3b341;--reference:#8d9bb0;--current:#5aa7ff;
--series-1:#ff7b72;--series-2:#5aa7ff;--series-3:#e3b341;--series-4:#57c785;--series-5:#c297ff;--series-6:#4fc3d9;
"""
_STYLE = f"""
:root{{color-scheme:light dark;{_LIGHT}}}
@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
*{{box-sizing:border-box}}
body{{--under:var(--page);
margin:0 auto;max-width:1240px;padding:24px 20px 60px;background:var(--page);color:var(--text);
overflow-wrap:anywhere;font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}}
h1{{font-size:25px;margin:0 0 4px;display:flex;flex-wrap:wrap;align-items:center;gap:4px 14px}}
h2{{font-size:19px;margin:32px 0 10px}}h3{{font-size:15px;margin:0 0 6px}}
p{{margin:6px 0}}.muted{{color:var(--muted)}}header p.muted{{margin:2px 0}}.lead{{font-size:17px}}
.verdict{{padding:1px 14px;border-radius:14px;font-size:17px;background:var(--doubt);color:var(--on-color)}}
.verdict.good{{background:var(--good)}}.verdict.bad{{background:var(--bad)}}
span.good,p.good{{color:var(--good)}}span.bad,p.bad{{color:var(--bad)}}span.doubt{{color:var(--doubt)}}
h1 span.verdict{{color:var(--on-color)}}
.tiles{{display:flex;flex-wrap:wrap;gap:10px;margin:14px 0}}
.tile{{background:var(--panel);border-radius:8px;padding:7px 14px;font-size:14px;line-height:1.35}}
.tile b{{display:block;font-size:20px;font-variant-numeric:tabular-nums}}
.panel{{--under:var(--panel);background:var(--under);border-radius:8px;padding:14px 18px;margin:12px 0;
break-inside:avoid}}
.part{{border-left:5px solid}}
.pair{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:12px}}
.pair>.panel{{margin:0;min-width:0}}
.scroll{{overflow-x:auto;margin:6px 0;background:linear-gradient(270deg,var(--under) 50%,transparent) right/36px 100%
no-repeat local,linear-gradient(270deg,var(--grid),transparent) right/14px 100% no-repeat scroll}}
table{{border-collapse:collapse;width:100%;font-size:13.5px}}
th,td{{text-align:left;padding:5px 10px;border-bottom:1px solid var(--grid);vertical-align:top;font-weight:400}}
td,tbody th{{max-width:420px}}
thead th{{color:var(--muted);font-weight:600;vertical-align:bottom;overflow-wrap:normal}}
.scroll tbody th,.scroll thead th:first-child{{position:sticky;left:0;background:var(--under)}}
.number{{text-align:right;font-variant-numeric:tabular-nums}}td.number,tbody th.number,td.short{{white-space:nowrap}}
.value{{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:12.5px}}thead .value{{font:inherit;
font-weight:600}}td.value{{max-width:320px}}
tr.bad th{{box-shadow:inset 3px 0 var(--bad);color:var(--bad);font-weight:600}}
tr.doubt th{{box-shadow:inset 3px 0 var(--doubt);color:var(--doubt);font-weight:600}}
.facts th{{color:var(--muted);width:30%}}.facts td{{max-width:none}}
.ranked{{table-layout:fixed}}.ranked th{{padding:3px 10px 3px 0;border:0;vertical-align:middle}}
.ranked td{{padding:3px 0;border:0;max-width:none}}
.ranked caption{{text-align:left;color:var(--muted);font-size:13px;padding-bottom:3px}}
.bars div{{display:flex;align-items:center;gap:7px;line-height:1.3;white-space:nowrap;
font-variant-numeric:tabular-nums}}
.bars i{{flex:none;min-width:1px;height:14px;border-radius:2px}}.bars div+div{{margin-top:2px}}
svg{{display:block;overflow:visible}}svg text{{font-family:inherit}}
svg.plot{{margin-left:60px;width:calc(100% - 62px)}}
figure.chart{{margin:8px 0 10px;container-type:inline-size}}
.axis{{color:var(--muted);font-size:13px;margin:0 0 3px}}.axis.along{{text-align:right}}
figcaption{{display:flex;flex-wrap:wrap;gap:4px 16px;color:var(--muted);font-size:13px;margin-top:4px}}
figcaption>span{{display:inline-flex;align-items:center;gap:6px}}
.swatch{{width:11px;height:11px;border-radius:2px;flex:none}}
ul{{margin:6px 0;padding-left:20px}}code{{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px}}
details{{margin:4px 0}}details>summary{{cursor:pointer;color:var(--link)}}
@media (max-width:600px){{body{{padding:14px 12px 40px}}.panel{{padding:12px}}.tiles{{gap:6px}}
.tile{{flex:1 1 30%;padding:5px 9px;font-size:12.5px}}.tile b{{font-size:17px}}.lead{{font-size:16px}}
th,td{{padding:5px 7px}}.scroll tbody th{{max-width:44vw}}
thead th{{white-space:nowrap}}}}
@media print{{body{{max-width:none;padding:0}}.scroll{{overflow:visible}}.scroll *{{position:static!important}}
table,td.value{{font-size:10px}}thead th{{min-width:0!important}}details::details-content{{content-visibility:visible}}
*{{print-color-adjust:exact;-webkit-print-color-adjust:exact}}}}
"""

_CLASSES = {"pass": "good", "fail": "bad", "agree": "good", "differ": "bad"}
_UNBROKEN = {"number", "short"}
_TAG = re.compile("<[^>]*>")
_SHOWN_LINES = 3
_WIDEST = 20
"""Letters to which a column may shrink on a narrow screen; below that the table scrolls."""


def page(title: str, *body: Child) -> str:
    """Return an HTML file.

    Args:
        title: Title of the page.
        body: Content of the page.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(_STYLE)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, element('body', element('main', *body)), lang='en')}\n"


def heading(title: str, verdict: str, *lines: Child) -> Markup:
    """Return the head of a report: its title and verdict, with lines below."""
    shown = element("span", verdict or "not judged", class_=f"verdict {_CLASSES.get(verdict, 'doubt')}")
    return element(
        "header",
        element("h1", element("span", title), " ", shown),
        *(element("p", line, class_="muted") for line in lines if line),
    )


def section(title: str, *body: Child) -> Markup:
    """Return a section of a page with a title."""
    return element("section", element("h2", title), *body)


def panel(title: str, *body: Child, color: str | None = None) -> Markup:
    """Return a box with a title, and with an edge in the colour of a chart if one is passed."""
    style = None if color is None else f"border-color:{color}"
    return element("div", element("h3", title), *body, class_="panel part" if style else "panel", style=style)


def pairs(panels: Iterable[Markup]) -> Markup:
    """Return boxes, two per row if there is room."""
    return element("div", panels, class_="pair")


def tiles(numbers: Iterable[tuple[str, str]]) -> Markup:
    """Return prominent numbers, each given as (name, number)."""
    return element(
        "div", (element("div", element("b", number), name, class_="tile") for name, number in numbers), class_="tiles"
    )


def bullets(lines: Iterable[Child]) -> Markup:
    """Return a list of lines."""
    return element("ul", (element("li", line) for line in lines))


def collapsed(lines: Sequence[Child], what: str) -> Markup | None:
    """Return a list of lines; if there are many, all but the first few are collapsed.

    Args:
        lines: The lines.
        what: Plural noun for the lines.
    """
    if not lines:
        return None
    shown = _SHOWN_LINES if len(lines) > _SHOWN_LINES + 1 else len(lines)
    first, rest = lines[:shown], lines[shown:]
    more = element("details", element("summary", f"{len(rest):,} more {what}"), bullets(rest)) if rest else None
    return element("div", bullets(first), more)


def facts(rows: Iterable[tuple[Child, Child]]) -> Markup:
    """Return a table of names and facts."""
    lines = (element("tr", element("th", name, scope="row"), element("td", fact)) for name, fact in rows)
    return element("table", element("tbody", lines), class_="facts")


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Child]],
    *,
    numbers: Iterable[int] = (),
    values: Iterable[int] = (),
    shorts: Iterable[int] = (),
    bad: Iterable[int] = (),
    doubtful: Iterable[int] = (),
) -> Markup:
    """Return a table, which scrolls if it is too wide. Empty columns are left out.

    Args:
        head: Titles of the columns.
        rows: Cells; the first cell is the heading of its row.
        numbers: Right-aligned columns.
        values: Columns of data, in a fixed-width font.
        shorts: Columns that are not wrapped.
        bad: Rows marked as bad.
        doubtful: Rows marked as doubtful.
    """
    classes = dict.fromkeys(values, "value") | dict.fromkeys(shorts, "short") | dict.fromkeys(numbers, "number")
    marks = dict.fromkeys(doubtful, "doubt") | dict.fromkeys(bad, "bad")
    texts = [[joined([cell]) for cell in row] for row in rows]
    widths = [max((_letters(row[i]) for row in texts), default=1) for i in range(len(head))]
    shown = [i for i, width in enumerate(widths) if width]
    least = [
        None if classes.get(i) in _UNBROKEN else f"min-width:calc({min(width, _WIDEST) * 1.1:.1f}ch + 22px)"
        for i, width in enumerate(widths)
    ]
    titles = [element("th", head[i], scope="col", class_=classes.get(i), style=least[i]) for i in shown]

    def cells(row: Sequence[Markup]) -> Iterable[Markup]:
        for i in shown:
            yield element("td" if i else "th", row[i], class_=classes.get(i), scope=None if i else "row")

    lines = [element("tr", cells(row), class_=marks.get(i)) for i, row in enumerate(texts)]
    body = element("table", element("thead", element("tr", titles)), element("tbody", lines))
    return element("div", body, class_="scroll")


def _letters(cell: Markup) -> int:
    """Return the length of the longest line of a cell."""
    return max(len(unescape(text)) for text in _TAG.split(cell))
