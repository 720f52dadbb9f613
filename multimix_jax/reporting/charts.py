"""Charts: lines in a frame, drawn by matplotlib, and written as PNG or for an HTML page as SVG."""

import io
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from multimix_jax.reporting.pictures import plain

# Colours of a chart in a page, which its style sheet changes where the page is dark.
PALETTE = ("#0b57a4", "#b34400", "#1a7a35", "#7a3fc4", "#a3195b", "#5c5c5c")
AXIS, GRID = "#505a66", "#c9ced6"
DASHES = ((), (6, 2), (2, 2), (8, 2, 2, 2), (4, 4), (1, 3))  # points drawn and left out, in turns
IN_PAGES = {color: f"var(--c{index})" for index, color in enumerate(PALETTE)}
IN_PAGES |= {AXIS: "var(--quiet)", GRID: "var(--edge)"}
COLOR = re.compile("|".join(IN_PAGES))
SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
NOT_IN_PAGES = (f"{SVG}metadata", f"{SVG}style")
NAME_OF_PART = re.compile(r"[\w.]+_\d+")  # such as axes_1; clip paths and marks have other names


class Curve(NamedTuple):
    """A line of a chart: its name, x [n] and y [n], and how it is drawn."""

    label: str
    x: np.ndarray
    y: np.ndarray
    color: Any = None
    style: Any = "-"
    marker: str = ""


def panels(count: int, *, width: float = 4.2, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """A figure of some axes side by side, each of so many inches."""
    figure = Figure(figsize=(width * count, height), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def color_of(index: int) -> tuple[float, ...]:
    """One of ten colours, in turns."""
    return matplotlib.colormaps["tab10"](index % 10)


def save(figure: Figure, path: pathlib.Path) -> None:
    """Writes a PNG."""
    figure.savefig(path, dpi=110)


def draw_curves(
    panel: Axes,
    curves: Sequence[Curve],
    *,
    x: str,
    y: str = "",
    title: str = "",
    diagonal: bool = False,
    width: float | None = None,
) -> list[Artist]:
    """Draws lines, and gives what a legend is made of.

    Args:
      panel: the axes.
      curves: any number.
      x, y, title: texts of the axes.
      diagonal: whether to draw the line from (0, 0) to (1, 1), of what tells nothing.
      width: of the lines in points.
    """
    handles: list[Artist] = []
    for _, xs, ys, color, style, marker in curves:
        how = {"color": color, "linestyle": style, "marker": marker, "linewidth": width}
        handles += panel.plot(xs, ys, **how, markersize=3)
    if diagonal:
        panel.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    panel.set_xlabel(plain(x))
    panel.set_ylabel(plain(y))
    panel.set_title(plain(title))
    return handles


def add_legend(
    panel: Axes, curves: Sequence[Curve], handles: Sequence[Artist], size: float | None = 7
) -> None:
    """A legend within the axes; texts are of `size` points."""
    if curves:
        panel.legend(handles, [plain(curve.label) for curve in curves], fontsize=size)


def chart(
    curves: Sequence[Curve],
    *,
    x: str,
    y: str = "",
    shares: bool = False,
    unit: bool = False,
    marked: bool = False,
) -> Figure:
    """Lines in a frame, for a page, which has the legend beside it.

    Args:
      curves: any number; they get the colours of the page, and what is not finite is left out.
      x, y: of the axes.
      shares: whether y goes from 0 to 1 whatever the values.
      unit: whether both do, with the diagonal that tells nothing.
      marked: whether each point is marked; a single one always is.
    """
    shown = []
    for index, curve in enumerate(map(_finite, curves)):
        marker = "o" if marked or len(curve.x) == 1 else ""
        color, dashes = PALETTE[index % len(PALETTE)], DASHES[index % len(DASHES)]
        style = (0, dashes) if dashes else "-"
        shown.append(curve._replace(color=color, style=style, marker=marker))
    settings: dict[Any, Any] = {"axes.edgecolor": AXIS, "xtick.color": AXIS, "ytick.color": AXIS}
    settings |= {"xtick.labelcolor": "black", "ytick.labelcolor": "black", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure, (panel,) = panels(1, width=4.7, height=3.1)
        panel.grid(color=GRID, linewidth=0.6)
        draw_curves(panel, shown, x=x, y=y, diagonal=unit)
        if unit:
            panel.set_xlim(0, 1)
        if unit or shares:
            panel.set_ylim(0, 1)
    return figure


def css_of_line(index: int) -> str:
    """How a page's legend draws the line that `chart` draws."""
    dashes = " ".join(map(str, DASHES[index % len(DASHES)])) or "none"
    return f"stroke: var(--c{index % len(PALETTE)}); stroke-dasharray: {dashes}"


def _finite(curve: Curve) -> Curve:
    kept = np.isfinite(curve.x) & np.isfinite(curve.y)
    return curve._replace(x=curve.x[kept], y=curve.y[kept])


def in_words(title: str, curves: Sequence[Curve]) -> str:
    """What a chart shows, for those who do not see it."""
    parts = [
        f"{label} from {y[0]:.3g} to {y[-1]:.3g}"
        for label, _, y, *_ in map(_finite, curves)
        if len(y)
    ]
    return f"{title}: {'; '.join(parts)}"


def svg(figure: Figure, label: str) -> str:
    """A figure as an SVG element for an HTML page: text stays text, and nothing is fetched.

    Args:
      figure: of `chart`.
      label: what is read out in its place; charts of one page have different ones.
    """
    file = io.StringIO()
    # The salt makes names of clip paths and marks the same every time, and others in each chart.
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": label}
    settings["font.sans-serif"] = ["DejaVu Sans"]
    with matplotlib.rc_context(settings):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    for element in list(root.iter()):
        element[:] = [child for child in element if child.tag not in NOT_IN_PAGES]
        element.tag = element.tag.removeprefix(SVG)
        # Names of parts, which nothing refers to, would be the same in every chart of a page.
        element.attrib = {
            key.removeprefix(XLINK): COLOR.sub(lambda color: IN_PAGES[color[0]], value)
            for key, value in element.items()
            if not (key == "id" and NAME_OF_PART.fullmatch(value))
        }
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)
