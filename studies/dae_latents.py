"""What a deterministic autoencoder must be, before a prior learns its latents (arXiv:2112.10752; arXiv:2303.13714).

Embedded emoji at 32 pixels, 8 channels, STEPS steps of 16 for each: a `dae` (it bears noise of a tenth of its latents'
deviation in training) at a factor of 4, 8 and 16, and an `ae` (none) at 4. Judged on emoji never seen.

`holds`, written before the training:

    factors    the Fréchet distance of reconstructions rises from factor 4 to 8 to 16
    forgives   latents off by 0.3 deviations, as a prior's may be: the dae loses fewer dB than the ae
    price      with nothing added the dae is at most 1 dB behind the ae
    range      less than a thousandth of the dae's latents lies beyond 4 deviations, where latent-vae clips them
"""

from __future__ import annotations

from dataclasses import replace

import torch
from common import Memory, canvas, learn, pictures, show, write

from sfumato import recipes
from sfumato.codecs.autoencoder import AutoEncoder
from sfumato.core.noise import Noise
from sfumato.metrics import extractor, frechet_distance, gather

STEPS, BATCH, DEPTH = 1_500, 16, 8
CASES = {"dae, 4": ("dae", 4), "dae, 8": ("dae", 8), "dae, 16": ("dae", 16), "ae, 4": ("ae", 4)}
ERRORS = (0.0, 0.1, 0.3, 0.6)  # of the latents, in their deviations


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """dB, the mean over pictures of range 2."""
    return float((10 * (4 / (a - b).square().flatten(1).mean(1)).log10()).mean())


@torch.no_grad()
def judge(codec: AutoEncoder, images: torch.Tensor) -> dict[str, float]:
    z = torch.cat([codec.encode(part) for part in images.split(64)])
    eps = Noise.shared(0, len(z)).normal(*z.shape[1:])
    decode = lambda z: torch.cat([codec.decode(part) for part in z.split(64)]).clamp(-1, 1)
    again, features = decode(z), extractor("mobilenetv2")
    return {
        "rfd": round(frechet_distance(gather(features, again.split(64)), gather(features, images.split(64))), 2),
        **{f"psnr at {error:g}": round(psnr(decode(z + error * eps), images), 3) for error in ERRORS},
        "beyond_4": round(float((z.abs() > 4).double().mean()), 6),
        "values": z[0].numel(),
    }


def main() -> None:
    torch.set_num_threads(1)
    train, test = pictures("emoji", 32, 3)["image"], pictures("emoji", 32, 3, split="unseen-emoji")["image"]
    found, shown = {}, [test[:12]]
    for name, (recipe, factor) in CASES.items():
        torch.manual_seed(0)
        codec = recipes.build(recipe, size="s", side=32, factor=factor, depth=DEPTH).codec  # type: ignore[union-attr]
        assert isinstance(codec, AutoEncoder)
        how = replace(recipes.plan(recipe, "codec", "s"), steps=STEPS, batch=BATCH)
        took = learn(codec, Memory({"image": train}, BATCH), how, say=name)
        found[name] = judge(codec, test) | {"cpu_seconds": took["cpu_seconds"]}
        with torch.no_grad():
            shown.append(codec.decode(codec.encode(test[:12])).clamp(-1, 1))
    loss = {name: row["psnr at 0"] - row["psnr at 0.3"] for name, row in found.items()}
    holds = {
        "factors": found["dae, 4"]["rfd"] < found["dae, 8"]["rfd"] < found["dae, 16"]["rfd"],
        "forgives": loss["dae, 4"] < loss["ae, 4"],
        "price": found["dae, 4"]["psnr at 0"] >= found["ae, 4"]["psnr at 0"] - 1,
        "range": found["dae, 4"]["beyond_4"] < 1e-3,
    }
    figure, axes = canvas(3)
    axes[0, 0].bar(list(found)[:3], [found[name]["rfd"] for name in list(found)[:3]])
    axes[0, 0].set(title="Fréchet distance of reconstructions", xlabel="factor")
    for name in ("dae, 4", "ae, 4"):
        axes[0, 1].plot(ERRORS, [found[name][f"psnr at {error:g}"] for error in ERRORS], "o-", label=name)
    axes[0, 1].set(title="PSNR, latents off by so much", xlabel="deviations")
    axes[0, 1].legend()
    show(axes[0, 2], torch.cat(shown), 12, f"emoji never seen; {' · '.join(found)}")
    write(
        "dae_latents",
        "Less is lost at a small factor, and latents that bear noise forgive a prior's errors at a small price.",
        "arXiv:2112.10752, arXiv:2303.13714",
        holds,
        found,
        figure,
    )


if __name__ == "__main__":
    main()
