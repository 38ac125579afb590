"""What the issue asks of every recipe: `sfumato train RECIPE PATH` on a folder of photographs as people have them."""

import numpy as np
import pytest
from PIL import Image

from sfumato import recipes
from sfumato.cli import main


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Twelve pictures of mixed sizes, modes and formats, none of them square, one turned by its EXIF tag."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    modes = ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA", "I;16", "RGB", "RGB", "L", "RGBA"]
    for i, mode in enumerate(modes):
        high, wide = (int(n) for n in rng.integers(20, 90, 2))
        waves = np.sin(np.linspace(0, 3 + i, high))[:, None, None] + np.cos(np.linspace(0, 5, wide))[None, :, None]
        rgb = ((waves + rng.normal(0, 0.1, (high, wide, 3)) + 2) * 60).clip(0, 255).astype(np.uint8)
        if mode == "I;16":
            picture = Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)
        else:
            picture = Image.fromarray(rgb).convert(mode)
        name = folder / f"{i}.{'tif' if mode in ('CMYK', 'I;16') else 'jpg' if mode in ('RGB', 'L') else 'png'}"
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 8 else 1
        picture.save(name, exif=exif) if name.suffix == ".jpg" else picture.save(name)
    return folder


@pytest.mark.filterwarnings("ignore:No perceptual term")
# diffusers wants a config.json, and what classifies wants labels: tests/cli/test_cli_abilities.py
@pytest.mark.parametrize("name", [n for n, recipe in recipes.RECIPES.items() if {"draws", "encodes"} & {*recipe.can}])
def test_every_recipe_trains_on_photographs(name, photographs, tmp_path, capsys):
    """Size xs and one step a stage, so that it takes seconds; nothing else is said about the pictures."""
    run = tmp_path / "run"
    words = ["train", name, str(photographs), "--out", str(run), "--size", "xs", "--steps", "1", "--score", "0"]
    assert main(words) == 0, capsys.readouterr().err
    assert (run / "model" / "weights.safetensors").exists()
    assert (run / "report.html").exists()
    assert len((run / "metrics.jsonl").read_text().splitlines()) >= 1
