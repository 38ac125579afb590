"""Makes src/sfumato/data/embedded/emoji*: the part of the emoji set that is shipped, at 32 px in three styles.

    python tools/make_emoji.py ../shared/data/emoji src/sfumato/data/embedded

64 → 32 px by 2×2 averaging of premultiplied colour, c = Σ αᵢcᵢ / Σ αᵢ and α = Σ αᵢ / 4, so that no colour of
invisible pixels bleeds in; rounded once, to 8 bits. Each style is one lossless WebP sheet, COLUMNS sprites wide, in
the order of emoji.jsonl.gz. Kept: emoji of the subgroups below that exist in all three styles, no skin variants. The
same input gives the same bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, COLUMNS, LIMIT = 32, 32, 4_000_000
LANGUAGES = ("en", "zh", "de", "pt", "th")
FILES = {"flat": "twemoji_64.npz", "3d": "fluent3d_64.npz", "noto": "noto_64.npz"}
GROUPS = {"smileys-emotion", "animals-nature", "food-drink", "activities", "objects", "travel-places"}
SUBGROUPS = {"body-parts", "hands", "hand-prop", "person", "person-fantasy", "zodiac"}
SUBGROUPS |= {f"hand-{kind}" for kind in ("fingers-open", "fingers-partial", "fingers-closed", "single-finger")}


def halve(image: Image.Image) -> np.ndarray:
    """(64, 64) RGBA → (32, 32, 4) uint8."""
    pixels = np.asarray(image.convert("RGBA")).astype(np.float64)
    alpha = pixels[..., 3:]

    def mean(x: np.ndarray) -> np.ndarray:
        return x.reshape(SIDE, 2, SIDE, 2, -1).mean((1, 3))

    opacity = mean(alpha)
    color = np.divide(mean(pixels[..., :3] * alpha), opacity, where=opacity > 0, out=np.zeros((SIDE, SIDE, 3)))
    small = np.rint(np.concatenate([color, opacity], -1)).clip(0, 255).astype(np.uint8)
    return small * (small[..., 3:] > 0)


def pack(path: Path) -> dict[int, bytes]:
    with np.load(path, allow_pickle=False) as z:
        data, offsets, rows = z["data"].tobytes(), z["offsets"], z["row"]
    return {int(row): data[offsets[i] : offsets[i + 1]] for i, row in enumerate(rows)}


def main(source: Path, target: Path) -> None:
    with gzip.open(source / "captions.jsonl.gz", "rt", encoding="utf8") as file:
        captions = [json.loads(line) for line in file]
    packs = {style: pack(source / name) for style, name in FILES.items()}
    kept = [
        i
        for i, c in enumerate(captions)
        if not c["skin_variant"]
        and (c["group"] in GROUPS or c["subgroup"] in SUBGROUPS)
        and all(i in images for images in packs.values())
    ]
    kept.sort(key=lambda i: (captions[i]["group"], captions[i]["subgroup"], captions[i]["hex"]))
    target.mkdir(parents=True, exist_ok=True)
    for style, images in packs.items():
        rows = -(-len(kept) // COLUMNS)
        sprites = np.zeros((rows * COLUMNS, SIDE, SIDE, 4), np.uint8)
        sprites[: len(kept)] = [halve(Image.open(io.BytesIO(images[i]))) for i in kept]
        sheet = sprites.reshape(rows, COLUMNS, SIDE, SIDE, 4).transpose(0, 2, 1, 3, 4)
        image = Image.fromarray(sheet.reshape(rows * SIDE, COLUMNS * SIDE, 4))
        image.save(target / f"emoji_{style}.webp", lossless=True, quality=100, method=6, exact=True)
    lines = []
    for i in kept:
        row = {key: captions[i][key] for key in ("hex", "emoji", "group", "subgroup")}
        row |= {key: {language: captions[i][key][language] for language in LANGUAGES} for key in ("name", "tags")}
        lines.append(json.dumps(row, ensure_ascii=False))
    (target / "emoji.jsonl.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), 9, mtime=0))
    total = sum(path.stat().st_size for path in target.glob("emoji*"))
    if total > LIMIT:
        raise SystemExit(f"{len(kept)} emoji make {total:,} bytes, more than {LIMIT:,}; keep fewer subgroups.")
    sys.stdout.write(f"{len(kept)} emoji × {len(FILES)} styles, {total:,} bytes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
