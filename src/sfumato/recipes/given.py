"""The conditioner that two dials ask for: classes > 0 gives labels, text gives captions, both give both."""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.codecs.words import Words
from sfumato.conditioners import Labels, Several, Text
from sfumato.core.contracts import Conditioner
from sfumato.core.space import Tokens
from sfumato.nn.rows.encoders import TokenNet
from sfumato.recipes.frame import Frame
from sfumato.recipes.sizes import READER, WORDS, Size


@dataclass(frozen=True)
class Doors:
    """The widths of the doors that a conditioner opens, as networks ask for them; None where a door is shut."""

    vector: int | None = None
    context: int | None = None


def given(frame: Frame, attended: bool = False) -> tuple[Conditioner | None, Doors]:
    """`attended` hands labels to cross-attention, as a sequence of one, instead of to the modulating vector."""
    width, classes, text = READER[frame.size].width, frame.classes or 0, frame.text
    parts: list[Conditioner] = []
    if classes:
        parts.append(Labels(classes, width, attended=attended))
    if text:
        parts.append(reader(frame.size))
    if not parts:
        return None, Doors()
    vectors = len(parts) - (attended and bool(classes))
    doors = Doors(vector=width * vectors or None, context=width if text or (attended and classes) else None)
    return parts[0] if len(parts) == 1 else Several(*parts), doors


def reader(size: Size) -> Text:
    """Captions, by a transformer of our own over words whose alphabet is learned from the captions."""
    vocab, length = WORDS[size]
    trunk = READER[size]
    network = TokenNet(Tokens(length, vocab), width=trunk.width, depth=trunk.depth, heads=trunk.heads)
    return Text(Words(vocab, length), network)
