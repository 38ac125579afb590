"""Does a picture say what its caption says? For drawn scenes the answer is exact, because the picture can be read back.

    count, attributes, binding, relations, correct: each in [0, 1], as `data.scenes.judge` defines them

averaged over the pictures; relations over those captions that name one. Shapes: images (B, 3, S, S) in [−1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sfumato.data.scenes import judge

Verdict = dict[str, float]


def verdicts(images: Tensor, captions: Sequence[str]) -> list[Verdict]:
    """One a picture."""
    return [judge(image, caption) for image, caption in zip(images, captions, strict=True)]


def average(found: Sequence[Verdict]) -> dict[str, tuple[float, int]]:
    """name -> (mean, how many pictures it is a mean of)."""
    keys = dict.fromkeys(key for verdict in found for key in verdict)
    values = {key: [verdict[key] for verdict in found if key in verdict] for key in keys}
    return {key: (sum(v) / len(v), len(v)) for key, v in values.items()}
