"""What the tests of the data share: pictures, files, and what a source says of them."""

import io

import numpy as np
from PIL import Image


def picture(seed=0, size=(16, 16), mode="RGB"):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def png(seed=0, **options):
    file = io.BytesIO()
    picture(seed, **options).save(file, "PNG")
    return file.getvalue()


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def warned(source, *words):
    return any(all(word in warning for word in words) for warning in source.report["warnings"])


def skipped(source):
    return {bad["file"]: bad["reason"] for bad in source.report["skipped"]}
