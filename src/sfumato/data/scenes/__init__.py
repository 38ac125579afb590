"""Coloured shapes with captions, drawn to order, and exact judges of pictures: what is drawn, and do the words fit?

A scene is a list of objects, and it has three forms that turn into each other:

    arrange ─▶ objects ── render ──▶ picture         describe ─▶ caption
               objects ◀── parse ─── picture         understand ◀─ caption
                          judge(picture, caption) ─▶ count, attributes, binding, relations
"""

from sfumato.data.scenes.draw import COLORS, SHAPES, SIZES, Object, arrange, render
from sfumato.data.scenes.judge import judge, parse
from sfumato.data.scenes.source import open_scenes
from sfumato.data.scenes.words import describe, understand

__all__ = [
    "COLORS",
    "SHAPES",
    "SIZES",
    "Object",
    "arrange",
    "describe",
    "judge",
    "open_scenes",
    "parse",
    "render",
    "understand",
]
