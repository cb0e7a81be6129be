"""Draw charts as SVG text for an HTML page, in the page's own text colour, light or dark."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

# distinguishable for the colour-blind, legible on light and dark
COLOURS = ("#2a7fc9", "#d9791a", "#2f9e6e", "#b65fb0")
_TEXT = "#010203"  # a placeholder for the page's text colour until the SVG is written
_SIZE = (5.6, 3.4)  # inches
_LETTER = 6.2  # width of a letter of the names in a plane, in its units


@dataclass(frozen=True)
class Line:
    """A curve.

    name: its entry in the legend.
    x, y: its points, [m] each.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]


def lines(
    title: str, x_label: str, y_label: str, curves: Sequence[Line], *, log_x: bool = False
) -> str:
    """Curves over one pair of axes; y in [0, 1]. `title` is for screen readers."""
    figure, axes = _figure(x_label, y_label)
    for curve, colour, style in zip(curves, COLOURS, ("-", "--", ":", "-."), strict=False):
        axes.plot(curve.x, curve.y, style, color=colour, label=curve.name, linewidth=2)
    axes.set_ylim(0, 1.02)
    if log_x:
        axes.set_xscale("log")
    if len(curves) > 1:
        _legend(axes)
    return _svg(figure, title)


def distances(title: str, matching: Sequence[float], others: Sequence[float]) -> str:
    """Histograms of the Hamming distance of pairs: `matching` with equal and `others` with
    different labels, both [b + 1], the share of such pairs at each distance, in [0, 1]."""
    figure, axes = _figure("Hamming distance", "share of the pairs")
    places = np.arange(len(matching))
    axes.bar(places, others, width=1, color=COLOURS[1], alpha=0.65, label="other label")
    axes.bar(
        places,
        matching,
        width=1,
        facecolor=COLOURS[0],
        alpha=0.65,
        label="same label",
        hatch="//",
        edgecolor=COLOURS[0],
    )
    _legend(axes)
    return _svg(figure, title)


def scatter(title: str, points: NDArray[np.floating], labels: Sequence[str | None]) -> str:
    """Points [n, 2] coloured by label. The name of a label stands in the middle of its points where
    there is room, those of most points first; under the pointer a dot tells its label."""
    names = sorted({label for label in labels if label is not None})
    hue = {name: _hue(i) for i, name in enumerate(names)}
    low, high = points.min(0), points.max(0)
    placed = (points - low) / np.maximum(high - low, 1e-9) * [620, 420] + 10
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{hue.get(name or "", "#888")}">'
        f"<title>{escape(name or 'no label')}</title></circle>"
        for (x, y), name in zip(placed.tolist(), labels, strict=True)
    )
    texts = "".join(
        f'<text x="{x:.1f}" y="{y:.1f}">{escape(name)}</text>'
        for name, x, y in _placed_names(placed, labels)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 440" role="img" '
        f'aria-label="{escape(title)}">{dots}<g class="names">{texts}</g></svg>'
    )


def shown(label: str) -> str:
    """A label as people write it, without underscores."""
    return label.replace("_", " ")


def _placed_names(
    points: NDArray[np.floating], labels: Sequence[str | None]
) -> list[tuple[str, float, float]]:
    """Labels and where their names stand in the middle of their `points` [n, 2], without one over
    another; those of most points come first."""
    rows: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        if label is not None:
            rows.setdefault(label, []).append(row)
    found: list[tuple[str, float, float]] = []
    for label in sorted(rows, key=lambda label: (-len(rows[label]), label)):
        name = shown(label)
        half = _LETTER * len(name) / 2
        x, y = np.median(points[rows[label]], axis=0).tolist()
        x = min(max(x, half + 4), 636 - half)
        taken = any(
            abs(x - other_x) < half + _LETTER * len(other) / 2 + 4 and abs(y - other_y) < 13
            for other, other_x, other_y in found
        )
        if not taken:
            found.append((name, x, y))
    return found


def project(features: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Features [n, d] projected to the plane by t-SNE (van der Maaten & Hinton, JMLR 2008):
    [n, 2]."""
    from sklearn.manifold import TSNE

    if len(features) < 4:
        return np.asarray(features[:, :2], np.float64)
    perplexity = min(30.0, (len(features) - 1) / 3)
    return np.asarray(
        TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features),
        np.float64,
    )


def _hue(i: int) -> str:
    """A colour as #rrggbb, far from that of the next `i`; two shades alternate."""
    red, green, blue = colorsys.hls_to_rgb(i * 0.61803 % 1, 0.42 if i % 2 else 0.58, 0.65)
    return f"#{int(red * 255):02x}{int(green * 255):02x}{int(blue * 255):02x}"


def _figure(x_label: str, y_label: str):  # type: ignore[no-untyped-def]  # matplotlib's types are loose
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.set_xlabel(x_label, color=_TEXT)
    axes.set_ylabel(y_label, color=_TEXT)
    axes.tick_params(which="both", colors=_TEXT)
    axes.grid(color="#888888", alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(_TEXT)
    return figure, axes


def _legend(axes) -> None:  # type: ignore[no-untyped-def]
    axes.legend(frameon=False, labelcolor=_TEXT)


def _svg(figure, title: str) -> str:  # type: ignore[no-untyped-def]
    """The figure as an SVG element in the page's text colour."""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(_TEXT, "currentColor")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
