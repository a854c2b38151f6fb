"""A flame graph of sampled stacks as one small SVG; hover for names and shares."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from dataclasses import dataclass, field
from html import escape

WIDTH, ROW, FONT = 1000, 17, 11
THINNEST = 0.002
"""Share of all samples below which a frame is not drawn."""
Stacks = Counter[tuple[str, ...]]


@dataclass
class Node:
    """One frame below its callers."""

    samples: int = 0
    below: dict[str, Node] = field(default_factory=dict)


def shorten(stack: tuple[str, ...]) -> tuple[str, ...]:
    """Our own frames, without lines, and the innermost frame if it is another's."""
    first = next((i for i, f in enumerate(stack) if "(geoscale/" in f), None)
    if first is None:
        return (_bare(stack[-1]),)
    ours = [_bare(f) for f in stack[first:] if "(geoscale/" in f]
    leaf = stack[-1]
    return tuple(ours if "(geoscale/" in leaf else [*ours, _bare(leaf)])


def _bare(frame: str) -> str:
    return re.sub(r":\d+\)$", ")", frame)


def draw_flame(stacks: Stacks) -> str:
    """Draw stacks, callers below, widths as shares of the samples."""
    root = Node()
    for stack, count in sorted(stacks.items()):
        node = root
        node.samples += count
        for frame in shorten(stack):
            node = node.below.setdefault(frame, Node())
            node.samples += count
    boxes: list[tuple[int, float, float, str]] = []
    _place(root, 0, 0.0, max(1, root.samples), boxes)
    height = ROW * (1 + max((b[0] for b in boxes), default=0)) + 4
    box = f'viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="{FONT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        *(_box(*box, height) for box in boxes),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _place(
    node: Node, depth: int, start: float, total: int, boxes: list[tuple]
) -> None:
    for name, child in sorted(node.below.items(), key=lambda kv: -kv[1].samples):
        share = child.samples / total
        if share >= THINNEST:
            boxes.append((depth, start, share, name))
            _place(child, depth + 1, start, total, boxes)
        start += share


def _box(depth: int, start: float, share: float, name: str, height: int) -> str:
    x, y, width = start * WIDTH, height - ROW * (depth + 1), share * WIDTH
    room = int(width / (0.62 * FONT))
    text = name if len(name) <= room else name[: max(0, room - 1)] + "…"
    shown = f'<text x="3" y="12">{escape(text)}</text>' if room > 4 else ""
    return (
        f'<g transform="translate({x:.1f},{y})"><title>{escape(name)}, {share:.1%}'
        f'</title><rect width="{max(width - 0.6, 0.4):.1f}" height="{ROW - 1}" '
        f'fill="{_color(name)}"/>{shown}</g>'
    )


def _color(name: str) -> str:
    """One colour for each file: green for ours, grey for others'."""
    where = name[name.rfind("(") :]
    spread = zlib.crc32(where.encode()) % 40
    hue, depth = (130 + spread, 45) if "geoscale/" in where else (210, 8)
    return f"hsl({hue},{depth}%,{72 + spread % 14}%)"
