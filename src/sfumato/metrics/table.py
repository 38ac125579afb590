"""The table of metrics: what each is called, says, needs and does; and `evaluate`, which runs a choice of them.

A score is a number and its protocol: which features (and the hash of their weights), against which set (and its
fingerprint), how many pictures, which seeds, which versions. Two numbers may be compared when their protocols agree.
Scores in feature space bear the features and the count in their name: fd-mobilenetv2@10k.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sfumato.core.errors import SfumatoError, UsageError
from sfumato.core.registry import Registry
from sfumato.core.space import Tokens
from sfumato.losses import perceptual
from sfumato.metrics import bits
from sfumato.metrics.alignment import average
from sfumato.metrics.classification import BINS, reliability
from sfumato.metrics.classifier import Classifier
from sfumato.metrics.evaluation import Evaluation, Progress, Reference, condition_keys
from sfumato.metrics.features import Features, extractor, gather
from sfumato.metrics.fidelity import CEILING, eight_bit
from sfumato.metrics.frechet import Moments, frechet_distance, score_name
from sfumato.metrics.kernel import kernel_distance
from sfumato.metrics.retrieval import ranks_in_groups, recall_at
from sfumato.systems.abilities import can

Needs = Literal["samples", "reconstructions", "likelihood", "codes", "judge", "captions", "labels", "texts"]


@dataclass(frozen=True)
class Score:
    value: float
    protocol: Mapping[str, Any]


Scores = dict[str, Score]
FEATURED: tuple[Needs, ...] = ("samples", "reconstructions", "judge", "captions")  # what is looked at in features


@dataclass(frozen=True)
class Metric:
    """One line of `sfumato list metrics`. `better` says which way is good."""

    about: str
    source: str
    needs: Needs
    better: Literal["lower", "higher"]
    measure: Callable[[Evaluation], Scores]


METRICS: Registry[Metric] = Registry("metric")


def _add(name: str, about: str, source: str, needs: Needs, better: Literal["lower", "higher"] = "lower") -> Any:
    """Decorator: puts the function that measures into the table."""

    def register(measure: Callable[[Evaluation], Scores]) -> Callable[[Evaluation], Scores]:
        METRICS.add(name)(Metric(about, source, needs, better, measure))
        return measure

    return register


def _named(run: Evaluation, stem: str, count: int, value: float, **protocol: Any) -> Scores:
    name = score_name(stem, run.features.name, count, run.features.published)
    return {name: Score(value, {"reference": len(run.rows), "count": count, **protocol})}


@_add("fd", "Fréchet distance of samples to the set, in features; FID with Inception's", "arXiv:1706.08500", "samples")
def _fd(run: Evaluation) -> Scores:
    value = frechet_distance(Moments.of(run.drawn.features), run.reference.moments)
    return _named(run, "fd", run.n, value, covariance="n − 1, float64")


@_add("rfd", "Fréchet distance of reconstructions to their pictures; rFID", "arXiv:2112.10752", "reconstructions")
def _rfd(run: Evaluation) -> Scores:
    value = frechet_distance(Moments.of(run.rebuilt.features), run.reference.moments)
    return _named(run, "rfd", len(run.rows), value, covariance="n − 1, float64")


@_add("kd", "kernel distance of samples to the set, without bias in the count; KID", "arXiv:1801.01401", "samples")
def _kd(run: Evaluation) -> Scores:
    subsets, size = 100, min(1000, run.n, len(run.rows))
    value, error = kernel_distance(run.drawn.features, run.reference.features, subsets, size, run.seed)
    return _named(run, "kd", run.n, value, standard_error=error, subsets=subsets, subset_size=size, seed=run.seed)


@_add("precision", "the part of samples that lie among real pictures (k = 3)", "arXiv:1904.06991", "samples", "higher")
def _precision(run: Evaluation) -> Scores:
    return _named(run, "precision", run.n, run.among.precision, k=3)


@_add("recall", "the part of real pictures that lie among samples (k = 3)", "arXiv:1904.06991", "samples", "higher")
def _recall(run: Evaluation) -> Scores:
    return _named(run, "recall", run.n, run.among.recall, k=3)


@_add("density", "how deep samples lie among real pictures (k = 5)", "arXiv:2002.09797", "samples", "higher")
def _density(run: Evaluation) -> Scores:
    return _named(run, "density", run.n, run.among.density, k=5)


@_add(
    "coverage", "the part of real pictures with a sample beside them (k = 5)", "arXiv:2002.09797", "samples", "higher"
)
def _covered(run: Evaluation) -> Scores:
    return _named(run, "coverage", run.n, run.among.coverage, k=5)


@_add("bits", "bits per dimension of 8-bit data", "arXiv:1511.01844", "likelihood")
def _bits(run: Evaluation) -> Scores:
    codec = getattr(run.system, "codec", None)
    kind = str(getattr(run.system, "log_prob_kind", "unstated"))
    protocol = bits.protocol(kind, getattr(codec, "discrete", None))
    estimate = getattr(getattr(run.system, "prior", None), "estimate", None)
    protocol |= {"estimator": estimate} if estimate else {}
    return {"bits": _averaged(run.bits, protocol)}


def _averaged(found: Tensor, protocol: Mapping[str, Any]) -> Score:
    error = float(found.std() / len(found) ** 0.5) if len(found) > 1 else None
    return Score(float(found.mean()), {**protocol, "count": len(found), "standard_error": error})


@_add("bits-flow", "bits per dimension by a diffusion's probability flow", "arXiv:2011.13456", "likelihood")
def _bits_flow(run: Evaluation) -> Scores:
    """The flow's own density, without a bound, of dequantised values; Hutchinson's trace."""
    prior = getattr(run.system, "prior", None)
    if "estimate" not in inspect.signature(getattr(prior, "log_prob", lambda: None)).parameters:
        raise UsageError("Only a diffusion has a probability flow. The metric `bits` is for every likelihood.")
    protocol = bits.protocol("exact but for dequantisation, solver and trace", False) | {"estimator": "flow"}
    return {"bits-flow": _averaged(run.bits_by(estimate="flow"), protocol)}


@_add("psnr", "peak signal-to-noise ratio of reconstructions, dB", "ITU-T J.340", "reconstructions", "higher")
def _psnr(run: Evaluation) -> Scores:
    value = float(run.rebuilt.psnr.clamp(max=CEILING).mean())
    return {"psnr": Score(value, {"count": len(run.rows), "mean_of": "per-image dB", "exact_copy": CEILING})}


@_add(
    "ssim",
    "structural similarity of reconstructions",
    "Wang et al. 2004, 10.1109/TIP.2003.819861",
    "reconstructions",
    "higher",
)
def _ssim(run: Evaluation) -> Scores:
    return {"ssim": Score(float(run.rebuilt.ssim.mean()), {"count": len(run.rows), "window": "Gaussian 11, σ 1.5"})}


@_add("lpips", "perceptual distance of reconstructions (shift-tolerant AlexNet)", "arXiv:2207.13686", "reconstructions")
def _lpips(run: Evaluation) -> Scores:
    if run.lpips is None or run.rebuilt.lpips is None:
        raise UsageError("LPIPS needs its weights: `pip install --no-deps stlpips-pytorch==0.0.2`, or hand `lpips` in.")
    protocol = {"count": len(run.rows), "trunk": getattr(run.lpips, "trunk", type(run.lpips).__name__)}
    return {"lpips": Score(float(run.rebuilt.lpips.double().mean()), protocol)}


def _counts(run: Evaluation) -> tuple[torch.Tensor, dict[str, Any]]:
    space = run.system.codec.space
    if not isinstance(space, Tokens):
        raise UsageError(f"Perplexity and usage are of codebooks, and this system's latents are {space}.")
    return bits.histogram(run.tokens, space.vocab), {
        "count": len(run.rows),
        "codes": space.vocab,
        "positions": space.length,
    }


@_add("perplexity", "exp of the entropy of the codes in use", "arXiv:1711.00937", "codes", "higher")
def _perplexity(run: Evaluation) -> Scores:
    counts, protocol = _counts(run)
    return {"perplexity": Score(bits.perplexity(counts), protocol)}


@_add("usage", "the part of the codebook that occurs at all", "arXiv:1711.00937", "codes", "higher")
def _usage(run: Evaluation) -> Scores:
    counts, protocol = _counts(run)
    return {"usage": Score(bits.usage(counts), protocol)}


@_add(
    "accuracy", "the part of samples in which a judge sees the label asked for", "arXiv:1905.10887", "judge", "higher"
)
def _accuracy(run: Evaluation) -> Scores:
    if run.judge is None:
        raise UsageError("Accuracy needs a judge: hand one in, from metrics.fit_classifier(source).")
    if "label" not in run.condition:
        raise UsageError("Accuracy compares with the label asked for, and this system is not conditioned on labels.")
    assert run.drawn.labels is not None
    value = float((run.drawn.labels == torch.as_tensor(run.condition["label"]).cpu()).double().mean())
    return {
        "accuracy": Score(value, {"count": run.n, "judge": "a classifier of this project, trained on a labelled set"})
    }


@_add(
    "retrieval",
    "R@1 and R@5 of samples against all pictures of the caption's style",
    "DATA: emoji",
    "captions",
    "higher",
)
def _retrieval(run: Evaluation) -> Scores:
    """The caption's words after its last comma are its style; the right answer is the picture with that caption."""
    if "text" not in run.condition:
        raise UsageError("Retrieval asks for captions, and this system is not conditioned on text.")
    gallery = run.source if run.gallery is None else run.gallery
    captions = [gallery.text(i) for i in range(len(gallery))]
    place = {caption: i for i, caption in reversed(list(enumerate(captions)))}
    asked = list(run.condition["text"])
    lost = [caption for caption in asked if caption not in place]
    if lost:
        raise UsageError(f"The gallery has no picture of {lost[0]!r}. Hand in one that holds every style's pictures.")
    parts = (range(i, min(i + run.batch, len(gallery))) for i in range(0, len(gallery), run.batch))
    pictures = gather(run.features, (eight_bit(gallery.batch(part)["image"]) for part in parts))
    answers = torch.tensor([place[caption] for caption in asked])
    styles = [caption.rpartition(", ")[2] for caption in captions]
    found, sizes = ranks_in_groups(run.drawn.features, pictures, answers, styles)
    protocol = {
        "gallery": len(gallery),
        "gallery_fingerprint": getattr(gallery, "fingerprint", None),
        "within": "style",
        "distance": "Euclidean",
        "median_rank": int(found.median()),
    }
    scores: Scores = {}
    for k in (1, 5):
        chance = float((k / sizes.double()).clamp(max=1).mean())
        scores |= _named(run, f"r@{k}", run.n, recall_at(found, k), chance=chance, **protocol)
    return scores


@_add(
    "scenes",
    "what a reader of the picture finds of its caption: count, binding, …",
    "data.scenes",
    "captions",
    "higher",
)
def _scenes(run: Evaluation) -> Scores:
    if "text" not in run.condition:
        raise UsageError("Scenes are judged by their captions, and this system is not conditioned on text.")
    protocol = {"judge": "data.scenes.judge", "of": run.n}
    averaged = average(run.drawn.verdicts).items()
    return {f"scenes-{key}": Score(value, {**protocol, "count": count}) for key, (value, count) in averaged}


@_add("top-1", "the part of the set's pictures whose label is called likeliest", "arXiv:1409.0575", "labels", "higher")
def _top_1(run: Evaluation) -> Scores:
    right = run.told.right.double()
    n = len(right)
    error = float((right.mean() * (1 - right.mean()) / n).sqrt())
    return {"top-1": Score(float(right.mean()), {"count": n, "standard_error": error})}


@_add("calibration", "how far probabilities of labels are from how often they are right", "arXiv:1706.04599", "labels")
def _calibration(run: Evaluation) -> Scores:
    return {"calibration": Score(reliability(run.told).error, {"count": len(run.told.p), "bins": BINS, "kind": "ECE"})}


def _bits_of_texts(run: Evaluation, unit: str) -> Scores:
    if run.system.entries != ("text",):
        raise UsageError(
            "Bits of characters and tokens are of texts, and this system draws pictures. `bits` is theirs."
        )
    value, error = run.written.bits_by(getattr(run.written, unit))
    protocol = {"kind": run.system.log_prob_kind, "standard_error": error, "count": len(run.written.nats)}
    protocol |= {unit: int(getattr(run.written, unit).sum()), "texts": "as cleaned and cut by the codec"}
    return {f"bits-per-{unit.removesuffix('acters').removesuffix('s')}": Score(value, protocol)}


@_add("bits-per-char", "bits a character of texts", "arXiv:1308.0850", "texts")
def _bits_per_char(run: Evaluation) -> Scores:
    return _bits_of_texts(run, "characters")


@_add("bits-per-token", "bits a token of texts, its end among them", "GPT-2", "texts")
def _bits_per_token(run: Evaluation) -> Scores:
    return _bits_of_texts(run, "tokens")


def applicable(system: Any, source: Any = None) -> list[str]:
    """The metrics that a system is measured by unless others are asked for."""
    codec, prior, entries = (getattr(system, name, None) for name in ("codec", "prior", "entries"))
    if can(system, "classifies"):
        return ["top-1", "calibration"]
    if entries == ("text",):
        return ["bits-per-char", "bits-per-token"] if can(system, "scores") else []
    names = ["fd", "kd", "precision", "recall", "density", "coverage"] if prior is not None or codec is None else []
    if codec is not None and getattr(codec, "learned", False):
        names += ["rfd", "psnr", "ssim"]
    if isinstance(getattr(codec, "space", None), Tokens) and getattr(codec, "learned", False):
        names += ["perplexity", "usage"]
    likely = prior is not None and getattr(prior, "kind", None) and getattr(codec, "kind", None)
    if likely and getattr(system, "has_log_prob", True):
        names.append("bits")
    if prior is not None and "text" in condition_keys(system):
        judged = {"scenes": "scenes", "emoji": "retrieval"}
        names += [metric for start, metric in judged.items() if str(getattr(source, "name", "")).startswith(start)]
    return names


def evaluate(
    system: Any,
    source: Any,
    metrics: Iterable[str] | None = None,
    n: int = 2500,
    *,
    seed: int = 0,
    features: Features | str = "auto",
    batch: int = 32,
    given: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    judge: Classifier | None = None,
    lpips: nn.Module | None = None,
    gallery: Any = None,
    reference: Reference | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """{"scores": {name: value}, "protocol": {…, "scores": {name: what is particular to it}}}, ready for JSON.

    system: sample(n, given, seeds=, batch=, **options), reconstruct(images), bits_per_dim(images, given, seeds=),
    encode(images), as the metrics need them; source: a data.Source. metrics: names of METRICS (None: what is
    applicable). An unknown name is answered with the nearest before anything is drawn. Where metrics is None, one that
    cannot be had (of too few pictures, say) is left out, and the protocol says why: "left_out": {name: reason}.
    """
    names = list(dict.fromkeys(applicable(system, source) if metrics is None else metrics))
    chosen = [(name, METRICS[name]) for name in names]
    if n < 2:
        raise UsageError(f"A score needs at least 2 pictures, not {n}.")
    if "lpips" in names and lpips is None:
        lpips = perceptual()
    run = Evaluation(
        system,
        source,
        _network(features, chosen, getattr(system, "device", "cpu")),
        n,
        seed,
        batch,
        options=dict(options or {}),
        given=given,
        judge=judge,
        lpips=lpips,
        scenes="scenes" in names,
        gallery=gallery,
        progress=progress,
        known=reference,
    )
    was_training = getattr(system, "training", False)
    if was_training:
        system.eval()
    try:
        found, lost = _measured(run, chosen, strict=metrics is not None)
    finally:
        if was_training:
            system.train()
    protocol = {**run.protocol(), "scores": {name: dict(score.protocol) for name, score in found.items()}}
    protocol |= {"left_out": lost} if lost else {}
    return {"scores": {name: score.value for name, score in found.items()}, "protocol": protocol}


def _network(features: Features | str, chosen: Iterable[tuple[str, Metric]], device: Any) -> Features | None:
    """None where nothing that was chosen is looked at in features, unless they are handed in."""
    if isinstance(features, str) and not any(metric.needs in FEATURED for _, metric in chosen):
        return None
    return (extractor(features) if isinstance(features, str) else features).to(device)


def _measured(run: Evaluation, chosen: Iterable[tuple[str, Metric]], strict: bool) -> tuple[Scores, dict[str, str]]:
    """The scores that are numbers, and why the others are lost; where `strict`, what cannot be measured is raised."""
    found: Scores = {}
    lost: dict[str, str] = {}
    for name, metric in chosen:
        try:
            measured = metric.measure(run)
        except (SfumatoError, ValueError, ArithmeticError, RuntimeError) as error:
            if strict:
                raise
            lost[name] = (str(error).strip() or type(error).__name__).splitlines()[0]
            continue
        for key, score in measured.items():
            if math.isfinite(score.value):
                found[key] = score
            else:
                lost[key] = f"it is {score.value}, of so few pictures or such alike ones"
    return found, lost
