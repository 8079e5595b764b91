"""Figures on paper and on the web: one HTML page that needs no network, and static pictures through a browser.

The page carries plotly.js inside itself once, so it opens from a disk, in a mail or years later.
"""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from latentgeo.io.whole import whole
from latentgeo.plot.theme import FONT, WIDTH, Look, look_of, themed
from latentgeo.plot.theme import page as look

_PAGES = ("html", "htm")
_PICTURES = ("png", "svg", "pdf", "jpg", "jpeg", "webp")
_STYLE = """
:root {{ color-scheme: {name}; }}
body {{ font: 16px/1.5 {font}; color: {ink}; background: {paper};
       max-width: 1200px; margin: 0 auto; padding: 24px 16px 48px; }}
h1 {{ font-size: 28px; line-height: 1.2; margin: 0 0 8px; }}
p {{ max-width: 75ch; margin: 8px 0 16px; }}
figure {{ margin: 24px 0 0; }}
figcaption {{ max-width: 75ch; color: {faint}; margin-top: 4px; }}
.scroll {{ overflow-x: auto; }}
.scroll > div {{ min-width: 1100px; }}
table {{ border-collapse: collapse; margin: 16px 0; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 4px 14px 4px 0; text-align: right; white-space: nowrap; }}
th {{ border-bottom: 2px solid {ink}; }}
td {{ border-bottom: 1px solid {faint}40; }}
th:first-child, td:first-child {{ text-align: left; }}
"""


def write_html(
    figures: go.Figure | Sequence[go.Figure | tuple[go.Figure, str]],
    path: str | os.PathLike[str],
    *,
    title: str = "latentgeo",
    intro: str = "",
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None,
    theme: Look | None = None,
) -> Path:
    """Write figures as one self-contained HTML page.

    Parameters
    ----------
    figures : Figure or sequence of Figure or of (Figure, caption)
        Drawn one below the other.
    path : path
        The file to write; its folder is made if need be.
    title, intro : str
        Heading and opening text (plain text; blank lines part paragraphs).
    table : (header, rows), optional
        Shown between the text and the figures.
    theme : {"light", "dark"}, optional
        The look of the page and all its figures; None is that of the first figure.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    ValueError
        If `figures` is empty, or there is no such theme.

    Examples
    --------
    >>> import tempfile
    >>> figure = go.Figure(go.Scatter(y=[1, 2]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = write_html(figure, Path(folder) / "page.html", title="One figure")
    ...     "One figure" in page.read_text(encoding="utf-8")
    True
    """
    from plotly.offline import get_plotlyjs

    entries = [figures] if isinstance(figures, go.Figure) else list(figures)
    if not entries:
        raise ValueError("`figures` must hold at least one figure, got none")
    pairs = [(entry, "") if isinstance(entry, go.Figure) else entry for entry in entries]
    name = look_of(pairs[0][0]) if theme is None else theme
    style = _STYLE.format(name=name, font=FONT, **vars(look(name)))
    body = [f"<h1>{html.escape(title)}</h1>"]
    body += [f"<p>{html.escape(part.strip())}</p>" for part in intro.split("\n\n") if part.strip()]
    if table is not None:
        body.append(_table(*table))
    for figure, caption in pairs:
        body.append('<figure><div class="scroll">')
        body.append(
            themed(figure, name).to_html(
                full_html=False,
                include_plotlyjs=False,
                include_mathjax=False,
                config={"displaylogo": False, "responsive": True},
            )
        )
        body.append("</div>" + (f"<figcaption>{html.escape(caption)}</figcaption>" if caption else "") + "</figure>")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as place:
        place.write_text(
            "<!DOCTYPE html>\n"
            '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{html.escape(title)}</title><style>{style}</style><script>{get_plotlyjs()}</script></head>\n"
            "<body>\n" + "\n".join(body) + "\n</body></html>\n",
            encoding="utf-8",
        )
    return path


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = ("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def browser() -> Path | None:
    """The Chromium or Chrome that static pictures are drawn with; None if there is none or kaleido is missing.

    The environment variable ``BROWSER_PATH`` overrides the search.

    Examples
    --------
    >>> found = browser()
    >>> found is None or found.is_file()
    True
    """
    try:
        import kaleido  # noqa: F401 - only whether it is there
        from choreographer.browsers.chromium import Chromium
    except ImportError:
        return None
    found = os.environ.get("BROWSER_PATH") or Chromium.find_browser(skip_local=False)
    return Path(found) if found and Path(found).is_file() else None


def write_figure(
    figure: go.Figure, path: str | os.PathLike[str], *, width: int = WIDTH, theme: Look | None = None
) -> Path:
    """Write a figure in the format of the file's suffix: HTML as a page of its own, everything else as a picture.

    Parameters
    ----------
    figure : Figure
        Any plotly figure.
    path : path
        Ends in .html, .png, .svg, .pdf, .jpg or .webp; its folder is made if need be.
    width : int
        Pixels across, of a picture. The layout stays that of the full-size figure, shrunk or enlarged.
    theme : {"light", "dark"}, optional
        The look; that of the figure if None.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    ValueError
        If the suffix is no known format, `width` is not positive or there is no such theme.
    RuntimeError
        Of a picture: if kaleido is not installed, no Chromium or Chrome is found, or it takes too long; says which, and
        what to do.

    See Also
    --------
    write_html : a page of several figures, with text and a table

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_figure(go.Figure(go.Scatter(y=[1, 2])), Path(folder) / "figure.html", theme="dark").name
    'figure.html'
    """
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    if kind in _PAGES:
        return write_html(figure, path, theme=theme)
    if kind not in _PICTURES:
        raise ValueError(f"`path` must end in one of {', '.join('.' + p for p in (*_PAGES, *_PICTURES))}, got {path}")
    if width < 1:
        raise ValueError(f"`width` must be a positive number of pixels, got {width}")
    try:
        import kaleido
    except ImportError:
        raise RuntimeError("a static picture needs kaleido: pip install 'latentgeo[png]'") from None
    found = browser()
    if found is None:
        raise RuntimeError(
            "a static picture needs Chromium or Chrome, and none was found: install one, "
            "or set BROWSER_PATH to its program, or write HTML instead"
        )
    if theme is not None:
        figure = themed(figure, theme)
    own = figure.layout.width or WIDTH
    options = {"format": kind, "width": own, "scale": width / own}
    if figure.layout.height is not None:
        options["height"] = figure.layout.height
    # MathJax would be fetched from the network and no text here needs it.
    try:
        data = kaleido.calc_fig_sync(figure, opts=options, kopts={"path": str(found), "mathjax": False})
    except TimeoutError:
        raise RuntimeError(
            f"{found} did not draw the picture in time; where the machine is busy try again, or write HTML instead"
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as place:
        place.write_bytes(data)
    return path
