"""Pages of one file: HTML with its style inside, readable without network, light or dark as the reader's system is.

A content security policy forbids everything but the style inside: not even a mistake here could load or run anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from featurestore.render.markup import Child, Markup, element

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
@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
*{{box-sizing:border-box}}
body{{margin:0 auto;max-width:1100px;padding:28px 20px 60px;background:var(--page);color:var(--text);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}}
h1{{font-size:25px;margin:0 0 4px;overflow-wrap:anywhere}}h2{{font-size:19px;margin:34px 0 10px}}
h3{{font-size:15px;margin:0 0 6px;overflow-wrap:anywhere}}p{{margin:6px 0}}.muted{{color:var(--muted)}}
.verdict{{display:inline-block;padding:2px 12px;border-radius:12px;font-weight:600;border:2px solid currentColor}}
.good{{color:var(--good)}}.bad{{color:var(--bad)}}.doubt{{color:var(--doubt)}}
.tiles{{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}}
.tile{{background:var(--panel);border-radius:8px;padding:10px 16px;min-width:120px}}
.tile b{{display:block;font-size:21px;font-variant-numeric:tabular-nums}}
.panel{{background:var(--panel);border-radius:8px;padding:14px 18px;margin:12px 0;break-inside:avoid}}
.pair{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:12px}}
.pair>.panel{{margin:0}}
.scroll{{overflow-x:auto}}
table{{border-collapse:collapse;width:100%;font-size:13.5px}}
th,td{{text-align:left;padding:5px 10px;border-bottom:1px solid var(--grid);vertical-align:top}}
td{{max-width:420px;overflow-wrap:anywhere;word-break:normal}}td:first-child{{min-width:190px}}
th{{color:var(--muted);font-weight:600;vertical-align:bottom}}
td.number,th.number{{text-align:right;font-variant-numeric:tabular-nums}}td.number{{white-space:nowrap}}
td.value{{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:12.5px;min-width:90px;max-width:320px}}
tr.bad{{color:inherit}}tr.bad td:first-child{{border-left:3px solid var(--bad);color:var(--bad);font-weight:600}}
td.short{{white-space:nowrap}}
svg{{max-width:100%;height:auto;display:block}}svg text{{font-family:inherit}}svg.spark{{width:100px;height:22px}}
figure.chart{{margin:8px 0}}
figcaption{{display:flex;flex-wrap:wrap;gap:4px 16px;color:var(--muted);font-size:13px;margin-top:4px}}
figcaption>span{{display:inline-flex;align-items:center;gap:6px}}
.swatch{{width:11px;height:11px;border-radius:2px;flex:none}}
ul{{margin:6px 0;padding-left:20px}}code{{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px}}
details>summary{{cursor:pointer;color:var(--link)}}
@media print{{body{{max-width:none}}}}
"""

_CLASSES = {"pass": "good", "fail": "bad", "agree": "good", "differ": "bad"}


def page(title: str, *body: Child) -> str:
    """Return a whole HTML file.

    Args:
        title: Its title.
        body: What it shows.
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


def heading(title: str, verdict: str, *said: Child) -> Markup:
    """Return the head of a report: what it is about, its verdict, and lines under it."""
    shown = element("span", verdict or "not judged", class_=f"verdict {_CLASSES.get(verdict, 'doubt')}")
    return element(
        "header", element("h1", title), element("p", shown), *(element("p", one, class_="muted") for one in said if one)
    )


def section(title: str, *body: Child) -> Markup:
    """Return a part of a page with a title."""
    return element("section", element("h2", title), *body)


def panel(title: str, *body: Child) -> Markup:
    """Return a box with a title."""
    return element("div", element("h3", title), *body, class_="panel")


def tiles(numbers: Iterable[tuple[str, str]]) -> Markup:
    """Return numbers that are to be seen first, as (name, number)."""
    return element(
        "div", (element("div", element("b", number), name, class_="tile") for name, number in numbers), class_="tiles"
    )


def bullets(lines: Iterable[Child]) -> Markup:
    """Return a list of lines."""
    return element("ul", (element("li", line) for line in lines))


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Child]],
    *,
    numbers: Iterable[int] = (),
    values: Iterable[int] = (),
    shorts: Iterable[int] = (),
    bad: Iterable[int] = (),
) -> Markup:
    """Return a table.

    Args:
        head: Titles of the columns.
        rows: Cells.
        numbers: Columns set to the right.
        values: Columns of data, in a fixed-width font.
        shorts: Columns that are kept on one line.
        bad: Rows that are marked.
    """
    classes = dict.fromkeys(values, "value") | dict.fromkeys(shorts, "short") | dict.fromkeys(numbers, "number")
    marked = set(bad)

    def cells(tag: str, row: Sequence[Child]) -> Iterable[Markup]:
        return (element(tag, cell, class_=classes.get(i)) for i, cell in enumerate(row))

    titles = element("thead", element("tr", cells("th", head)))
    lines = (element("tr", cells("td", row), class_="bad" if i in marked else None) for i, row in enumerate(rows))
    return element("div", element("table", titles, element("tbody", lines)), class_="scroll")
