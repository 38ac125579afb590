"""docs/studies.md from the JSON files of the studies: every claim, whether it holds here, and the picture.

python studies/page.py
"""

from __future__ import annotations

import json

from common import OUT, ROOT

# What a right implementation shows at small scale, by system: in a study (its name and its rules), or in a test (its
# file and function) where a value is known.
DIRECTIONS: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {
    "GAN": [
        (
            "the best critic is the density ratio, the value 2 JS − log 4",
            "priors/test_adversarial",
            ("test_the_best_critic_is_the_density_ratio_and_the_value_is_that_of_the_theory",),
        ),
        (
            "a saturating generator stands still where the critic wins",
            "priors/test_adversarial",
            ("test_a_saturating_generator_stands_still_where_the_critic_wins",),
        ),
        (
            "with a penalty on the critic's slope all modes of a ring are found, and most of a grid",
            "gan_collapse",
            ("cure", "grid"),
        ),
        ("without one, at most half are found late in the training", "gan_collapse", ("collapse",)),
        ("truncation: less variance and recall, more likeness", "gan_images", ("truncation",)),
        ("labels are heeded, shuffled ones at chance", "gan_images", ("labels",)),
        ("few pictures: augmentation comes nearer to unseen ones", "gan_augment", ("augmentation", "memory")),
    ],
    "Glow": [
        ("inverts, fresh and trained", "priors/test_priors_flow", ("test_what_goes_to_noise_comes_back",)),
        ("its volume is autograd's", "priors/test_priors_flow", ("test_the_volume_of_a_trained_flow_is_autograds",)),
        (
            "actnorm starts from data, once, in order",
            "nn/test_nn_glow",
            ("test_the_start_sees_what_reaches_each_part_in_order", "test_it_starts_once_also_after_a_restart"),
        ),
        ("1×1 convolution < shuffle < reverse; affine < additive, in nats", "glow_ablation", ("mixing", "coupling")),
        ("a learned prior of the split < N(0, I)", "glow_ablation", ("prior",)),
        ("best below T = 1; at T = 0 one picture", "glow_temperature", ("temperature", "one_picture")),
        ("the density integrates to one, and is exact on known data", "glow_exact", ("exact", "one")),
        ("pictures of one grey are likelier than the data", "glow_temperature", ("constants",)),
    ],
    "Deep VAE": [
        (
            "guidance: consistency up, diversity down, Fréchet distance U-shaped",
            "deep_vae_guidance",
            ("consistency", "diversity", "u-shape"),
        ),
        ("guided variances shrink where the condition is surer", "deep_vae_guidance", ("variance",)),
        (
            "unguided is one stream, bit for bit; equal streams are not moved",
            "priors/test_priors_hierarchical",
            (
                "test_unguided_is_one_stream_bit_for_bit",
                "test_two_streams_that_hear_the_same_are_not_moved_by_any_scale",
            ),
        ),
        ("the rate schedule keeps coarse layers alive", "deep_vae_depth", ("coarse", "active")),
        ("deeper is better at equal parameters", "deep_vae_depth", ("depth",)),
        ("over latents better than on pixels, at equal compute", "deep_vae_latent", ("fd", "fd_guided", "accuracy")),
        (
            "σ → 0 of the zeroth layer costs without end",
            "priors/test_priors_hierarchical",
            ("test_a_vanishing_zeroth_layer_costs_without_end",),
        ),
    ],
    "Deterministic autoencoder": [
        ("reconstructions: factor 4 < 8 < 16", "dae_latents", ("factors",)),
        ("the latents' range stays bounded, at no loss", "dae_latents", ("range", "price")),
        ("latents before a lookup decode better by the nearest code", "dae_requantise", ("nearer",)),
    ],
    "MaskGIT": [
        ("about 8 steps are enough, one is bad", "maskgit_steps", ("saturates", "one_is_bad")),
        ("surest first < random order", "maskgit_steps", ("confidence",)),
        ("noise in the choice buys diversity, costs fidelity", "maskgit_noise", ("alike", "unfaithful", "between")),
        ("cosine ≤ linear < root", "maskgit_steps", ("concave",)),
        ("N / T times fewer passes", "maskgit_steps", ("passes",)),
        ("a ramp of guidance keeps diversity", "maskgit_noise", ("ramp",)),
        ("known tokens are kept", "priors/test_priors_masked", ("test_known_tokens_are_kept_and_shown_at_every_step",)),
        ("a hidden token costs less, the more is shown", "maskgit_steps", ("revealed",)),
    ],
    "Autoregression": [
        ("nothing looks ahead", "nn/test_nn_causal", ("test_nothing_looks_ahead",)),
        ("with a cache as without", "priors/test_priors_autoregressive", ("test_cached_sampling_equals_uncached",)),
        ("larger nets have fewer nats", "ar_size", ("size",)),
        ("few pictures are learned by heart; dropout and corruption help", "ar_size", ("gap", "dropout", "corrupt")),
        ("Fréchet distance over top-k is U-shaped", "ar_sampling", ("few", "u_shape")),
        ("the probe is best in the middle, and better in larger nets", "ar_size", ("probe", "grows")),
        ("a label lowers the nats, guidance by it raises accuracy", "ar_sampling", ("label", "guided")),
        (
            "known tokens are kept, and seen",
            "priors/test_priors_autoregressive",
            ("test_known_tokens_are_kept_and_seen",),
        ),
        ("vectors read with noise drift less", "ar_noise", ("nearer", "drift")),
    ],
}

HEAD = """# Studies

Claims of the literature, tried in small on a laptop's processor: a file in `studies/` for each, whose docstring states
the rule by which a claim is said to hold. The rules were written before the trainings that they judge. Where one does
not hold here, it says so: models are small and trainings minutes long, so that "no" means *not at this size*, and "yes"
no more than that.
The figures behind each picture are in the JSON file beside it.
"""


def directions() -> list[str]:
    """A table of DIRECTIONS, its answers read from the studies' records."""
    lines = ["## What a right implementation shows", "", "| system | outcome | where | holds |", "|---|---|---|---|"]
    for system, rows in DIRECTIONS.items():
        for what, place, names in rows:
            record = OUT / f"{place}.json"
            if "/" in place:
                where, said = f"`tests/{place}.py`", "tested"
            else:
                held = json.loads(record.read_text())["holds"]
                where = f"[{place.replace('_', ' ')}](#{place.replace('_', '-')})"
                missed = [name for name in names if not held[name]]
                said = f"**no**: {', '.join(missed)}" if missed else "yes"
            lines.append(f"| {system} | {what} | {where} | {said} |")
    return [*lines, ""]


def page() -> str:
    lines = [HEAD, *directions()]
    for path in sorted(OUT.glob("*.json")):
        record = json.loads(path.read_text())
        holds = record["holds"] if isinstance(record["holds"], dict) else {"the claim": record["holds"]}
        said = " · ".join(f"{name}: {'yes' if held else '**no**'}" for name, held in holds.items())
        lines += [f"## {path.stem.replace('_', ' ')}", "", f"{record['claim']} ({record['source']})", ""]
        lines += [f"{said}", "", f"![{path.stem}](studies/{path.stem}.png)", ""]
        lines += [f"`{record['command']}`, {record['cpu_minutes']} CPU minutes, {record['when']};"]
        lines += [f"[figures](studies/{path.stem}.json).", ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "studies.md").write_text(page(), encoding="utf-8")
