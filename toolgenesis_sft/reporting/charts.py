"""Charts as inline SVG. Colours come from CSS classes, so light and dark need no second drawing.

Every text goes through markupsafe's escaping; each chart has a title and a description that a
screen reader reads instead of the shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from markupsafe import Markup, escape

from toolgenesis_sft.reporting.contrasts import Contrast
from toolgenesis_sft.reporting.curves import LossCurve

Points = Sequence[tuple[int, float]]
Scale = Callable[[float], float]


def loss_chart(curve: LossCurve) -> Markup:
    """Training loss over optimizer steps, with validation and the published points."""
    width, height, left, right, top, bottom = 1060, 320, 46, 16, 14, 36
    published = curve.published.points if curve.published else ()
    every = [*curve.train, *curve.validation, *published]
    last = max(1, *(step for step, _ in every))
    ticks_y = nice_ticks(0.0, max(loss for _, loss in every))
    ticks_x = [tick for tick in nice_ticks(0.0, float(last)) if tick <= last]

    def x(step: float) -> float:
        return left + (width - left - right) * step / last

    def y(loss: float) -> float:
        return top + (height - top - bottom) * (1 - loss / ticks_y[-1])

    parts = [
        Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
            left, width - right, y(tick), y(tick)
        )
        + _text(left - 8, y(tick) + 4, f"{tick:g}", "end")
        for tick in ticks_y
    ]
    parts += [_text(x(tick), height - bottom + 18, f"{tick:g}", "middle") for tick in ticks_x]
    parts.append(_text(width - right, height - 4, "optimizer step", "end"))
    parts.append(_line(curve.train, x, y, "line measured"))
    if curve.validation:
        parts.append(_line(curve.validation, x, y, "line validation"))
        parts += [_dot(x(step), y(loss), "dot validation") for step, loss in curve.validation]
    if published:
        parts.append(_line(published, x, y, "line published"))
        parts += [_dot(x(step), y(loss), "dot published") for step, loss in published]
    first_loss, last_loss = curve.train[0][1], curve.train[-1][1]
    description = (
        f"Loss goes from {first_loss:.3f} at step {curve.train[0][0]}"
        f" to {last_loss:.3f} at step {curve.train[-1][0]}."
    )
    if curve.published:
        ends = f"{published[0][1]:.3f} to {published[-1][1]:.3f}"
        description += f" The published run goes from {ends} in {published[-1][0]} steps."
    return _svg(width, height, "Training loss by optimizer step", description, parts, "chart wide")


def dumbbells(contrast: Contrast, labels: dict[str, str]) -> Markup:
    """Before (hollow) and after (filled) on the scale 0 to 1, one line a figure."""
    width, row, left, right, top = 560, 34, 128, 20, 24
    height = top + row * len(contrast.differences) + 4

    def x(value: float) -> float:
        return left + (width - left - right) * value

    parts = [
        Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(
            x(tick), top - 6, height
        )
        + _text(x(tick), top - 12, f"{tick:g}", "middle")
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    kind = "memorised" if contrast.memorisation else "measured"
    for index, difference in enumerate(contrast.differences):
        y = top + row * index + row / 2
        parts += [
            _text(left - 14, y + 4, labels[difference.figure], "end", "label"),
            Markup('<line class="bar {}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
                kind, x(difference.a), x(difference.b), y, y
            ),
            _dot(x(difference.a), y, "dot before", 5),
            _dot(x(difference.b), y, f"dot {kind}", 6),
        ]
    description = "; ".join(
        f"{labels[d.figure]} from {d.a:.3f} to {d.b:.3f}" for d in contrast.differences
    )
    return _svg(width, height, "Before and after training", description, parts)


def bar(share: float, css_class: str) -> Markup:
    """A bar of a table cell. The cell's text says the same, so readers skip the drawing."""
    return Markup(
        '<svg class="cellbar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="6"/>'
        '<rect class="{}" width="{:.1f}" height="6"/></svg>'
    ).format(css_class, 100 * min(max(share, 0.0), 1.0))


def funnel_bar(passed: int, lost: int, num_servers: int) -> Markup:
    """What is still there, and beside it what this gate took."""
    return Markup(
        '<svg class="cellbar tall" viewBox="0 0 100 6" preserveAspectRatio="none"'
        ' aria-hidden="true"><rect class="track" width="100" height="6"/>'
        '<rect class="fill" width="{0:.2f}" height="6"/>'
        '<rect class="loss" x="{0:.2f}" width="{1:.2f}" height="6"/></svg>'
    ).format(100 * passed / num_servers, 100 * lost / num_servers)


def interval_bar(value: float, interval: tuple[float, float] | None, css_class: str) -> Markup:
    """As `bar`, with the interval as a whisker."""
    low, high = interval if interval is not None else (value, value)
    return Markup(
        '<svg class="cellbar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" y="2" width="100" height="4"/>'
        '<rect class="{}" y="2" width="{:.1f}" height="4"/>'
        '<rect class="whisker" x="{:.1f}" width="{:.1f}" y="3.2" height="1.6"/></svg>'
    ).format(css_class, 100 * value, 100 * low, max(100 * (high - low), 0.0))


def difference_bar(difference: float, ci95: tuple[float, float]) -> Markup:
    """A difference and its interval on the scale -1 to 1."""
    start, end = sorted((50.0, 50 + 50 * difference))
    low, high = (50 + 50 * bound for bound in ci95)
    return Markup(
        '<svg class="cellbar wide" viewBox="0 0 100 10" preserveAspectRatio="none"'
        ' aria-hidden="true"><rect class="track" y="3" width="100" height="4"/>'
        '<rect class="{}" x="{:.2f}" width="{:.2f}" y="3" height="4"/>'
        '<rect class="whisker" x="{:.2f}" width="{:.2f}" y="4.2" height="1.6"/>'
        '<rect class="zero" x="49.8" width="0.4" height="10"/></svg>'
    ).format("gain" if difference >= 0 else "loss", start, end - start, low, high - low)


def nice_ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    """Round numbers from `low` to at least `high`."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / at_most))
    step = next(f * power for f in (1, 2, 2.5, 5, 10, 20) if span / (f * power) <= at_most)
    return [low + step * i for i in range(math.ceil(span / step - 1e-9) + 1)]


def _svg(
    width: int,
    height: int,
    title: str,
    description: str,
    parts: Iterable[Markup],
    css_class: str = "chart",
) -> Markup:
    label = escape(f"{title}. {description}")
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        css_class, width, height, label
    ) + Markup("").join([*parts, Markup("</svg>")])


def _text(x: float, y: float, text: str, anchor: str, css_class: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        css_class, x, y, anchor, text
    )


def _dot(x: float, y: float, css_class: str, radius: float = 3.5) -> Markup:
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(
        css_class, x, y, radius
    )


def _line(points: Points, x: Scale, y: Scale, css_class: str) -> Markup:
    path = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)
    return Markup('<polyline class="{}" points="{}"/>').format(css_class, path)
