"""What every score of one run shares, made once and only when asked for.

    reference   pictures of the set, drawn without replacement by the seed           → features
    drawn       pictures of the system, image i with seed first + i and a condition  → features, the judge's labels
                from the set itself (labels and captions of rows drawn by the seed)
    rebuilt     the reference through the codec and back                             → features, PSNR, SSIM, LPIPS

Pictures are rounded to 8 bits before anything is measured, as they would be in a file, and thrown away chunk by chunk;
features stay. The system and the set are known here only by what they can do: sample, reconstruct, bits_per_dim,
encode; len(), batch(indices), fingerprint.
"""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.core.errors import UsageError
from sfumato.core.noise import Noise, derive
from sfumato.metrics.alignment import Verdict, verdicts
from sfumato.metrics.classification import Told
from sfumato.metrics.classifier import Classifier
from sfumato.metrics.coverage import Coverage, neighbourhoods
from sfumato.metrics.features import Features, gather
from sfumato.metrics.fidelity import eight_bit, psnr, ssim
from sfumato.metrics.frechet import Moments
from sfumato.version import VERSION

Progress = Callable[[str, int, int], None]  # called with (what, pictures done, pictures in all)


def draw_rows(total: int, n: int, seed: int, name: str) -> list[int]:
    """n rows of `total`, each pass over the set in a new order; without repetition while n ≤ total."""
    rows: list[int] = []
    while len(rows) < n:
        order = Noise.each([derive(seed, name, len(rows))]).uniform(total)[0].argsort()
        rows += order[: n - len(rows)].tolist()
    return rows


@dataclasses.dataclass(frozen=True)
class Reference:
    """A set in feature space; hand one to several evaluations and it is measured once."""

    features: Tensor
    rows: list[int]
    protocol: Mapping[str, Any]

    @cached_property
    def moments(self) -> Moments:
        return Moments.of(self.features)


def _origin(source: Any, count: int, seed: int) -> dict[str, Any]:
    """What a reference is, for the protocol."""
    return {
        "set": getattr(source, "name", None),
        "fingerprint": getattr(source, "fingerprint", None),
        "count": count,
        "of": len(source),
        "rows": "all" if count == len(source) else f"drawn without replacement, seed {seed}",
    }


def reference(
    source: Any,
    features: Features,
    n: int | None = None,
    seed: int = 0,
    batch: int = 64,
    progress: Progress | None = None,
) -> Reference:
    """n pictures of the set (None, or more than it has: all) as features."""
    n = len(source) if n is None else min(n, len(source))
    rows = sorted(draw_rows(len(source), n, seed, "reference"))

    def images() -> Iterator[Tensor]:
        for start in range(0, n, batch):
            yield eight_bit(source.batch(rows[start : start + batch])["image"])
            if progress is not None:
                progress("reference", min(start + batch, n), n)

    found = gather(features, images())
    return Reference(found, rows, {**_origin(source, n, seed), "features_sha256": features.hash})


@dataclasses.dataclass(frozen=True)
class Drawn:
    features: Tensor
    labels: Tensor | None  # what the judge sees
    verdicts: list[Verdict]  # on each scene, where scenes are judged


@dataclasses.dataclass(frozen=True)
class Written:
    """log p of texts, and how long they are: the characters that were kept; the tokens, with the end but not the
    beginning."""

    nats: Tensor
    characters: Tensor
    tokens: Tensor

    def bits_by(self, length: Tensor) -> tuple[float, float]:
        """(bits by the unit of length, over all texts together; its standard error, by the delta method)."""
        bits, n = -self.nats / math.log(2), len(self.nats)
        ratio = float(bits.sum() / length.sum())
        spread = (bits - ratio * length).square().sum() / max(n - 1, 1)
        return ratio, float((spread / n).sqrt() / length.double().mean())


@dataclasses.dataclass(frozen=True)
class Rebuilt:
    features: Tensor
    psnr: Tensor
    ssim: Tensor
    lpips: Tensor | None


def condition_keys(system: Any) -> tuple[str, ...]:
    """What the caller of `system.sample` may give."""
    return tuple(getattr(system, "hears", ()))


@dataclasses.dataclass
class Evaluation:
    """The material of one call of `evaluate`; every part is made at its first use."""

    system: Any
    source: Any
    network: Features | None  # None where nothing asked for is looked at in features
    n: int
    seed: int = 0
    batch: int = 32
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # for system.sample: guidance, steps, …
    given: Mapping[str, Any] | None = None  # n values a key; None: from the set
    judge: Classifier | None = None
    lpips: nn.Module | None = None
    scenes: bool = False  # whether the samples are scenes, to be read back and judged by their captions
    gallery: Any = None  # where retrieval looks for the right picture; None: the set
    progress: Progress | None = None
    known: Reference | None = None

    @property
    def features(self) -> Features:
        if self.network is None:
            raise UsageError("These scores were to be measured without features. Hand some in.")
        return self.network

    def tell(self, what: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(what, done, total)

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.n)

    @cached_property
    def reference(self) -> Reference:
        if self.known is not None:
            if self.known.protocol["features_sha256"] != self.features.hash:
                raise UsageError("The reference was measured in other features than these. Measure it again.")
            return self.known
        return reference(self.source, self.features, self.n, self.seed, self.batch, self.progress)

    @cached_property
    def asked(self) -> list[int]:
        """The rows of the set whose labels and captions condition the n pictures."""
        return draw_rows(len(self.source), self.n, self.seed, "conditions")

    def conditions(self, rows: list[int]) -> dict[str, Any]:
        """What the system is conditioned on, of these rows of the set."""
        found: dict[str, Any] = {}
        for key in condition_keys(self.system):
            if key == "label" and hasattr(self.source, "label"):
                found[key] = torch.tensor([self.source.label(i) for i in rows])
            elif key == "text" and hasattr(self.source, "text"):
                found[key] = [self.source.text(i) for i in rows]
            else:
                batch = self.source.batch(rows)
                if key not in batch:
                    raise UsageError(
                        f"The system is conditioned on {key!r}, which the set lacks. Hand `given` in: {self.n} values."
                    )
                found[key] = batch[key]
        return found

    @cached_property
    def condition(self) -> dict[str, Any]:
        return dict(self.given) if self.given is not None else self.conditions(self.asked)

    def images(self) -> Iterator[Tensor]:
        """The n pictures of the system, in chunks, as a file would hold them."""
        chunk = 8 * self.batch
        for start in range(0, self.n, chunk):
            rows = list(range(start, min(start + chunk, self.n)))
            given = {
                key: value[rows] if isinstance(value, Tensor) else [value[i] for i in rows]
                for key, value in self.condition.items()
            }
            seeds = [self.seeds[i] for i in rows]
            images = self.system.sample(len(rows), given or None, seeds=seeds, batch=self.batch, **self.options)
            yield eight_bit(images.float())
            self.tell("samples", rows[-1] + 1, self.n)

    @cached_property
    def drawn(self) -> Drawn:
        features: list[Tensor] = []
        labels: list[Tensor] = []
        found: list[Verdict] = []
        for images in self.images():
            features += [self.features(part).cpu() for part in images.split(self.batch)]
            if self.judge is not None:
                labels.append(self.judge.predict(images))
            if self.scenes and "text" in self.condition:
                start = len(found)
                found += verdicts(images, self.condition["text"][start : start + len(images)])
        return Drawn(torch.cat(features), torch.cat(labels) if labels else None, found)

    @cached_property
    def among(self) -> Coverage:
        """Precision, recall, density and coverage, which share their distances."""
        return neighbourhoods(self.reference.features, self.drawn.features)

    @cached_property
    def rebuilt(self) -> Rebuilt:
        found: dict[str, list[Tensor]] = {"features": [], "psnr": [], "ssim": [], "lpips": []}
        for rows in self._reference_chunks("reconstructions"):
            images = eight_bit(self.source.batch(rows)["image"])
            again = eight_bit(self.system.reconstruct(images).float()).to(images.device)
            found["features"].append(self.features(again).cpu())
            found["psnr"].append(psnr(again, images))
            found["ssim"].append(ssim(again, images))
            if self.lpips is not None:
                with torch.inference_mode():
                    found["lpips"].append(self.lpips(again, images).flatten())
        joined = {key: torch.cat(parts) if parts else None for key, parts in found.items()}
        return Rebuilt(**joined)  # type: ignore[arg-type]

    @cached_property
    def bits(self) -> Tensor:
        """(count,) bits per dimension of the reference pictures, given their own labels and captions."""
        return self.bits_by()

    def bits_by(self, **options: Any) -> Tensor:
        """The same by another estimate of the prior's."""
        found = []
        for rows in self._reference_chunks("likelihood"):
            given, seeds = self.conditions(rows), [derive(self.seed, "bits", i) for i in rows]
            images = eight_bit(self.source.batch(rows)["image"])
            nats = self.system.bits_per_dim(images, given or None, seeds=seeds, **options)
            found.append(nats.double().cpu())
        return torch.cat(found)

    @cached_property
    def told(self) -> Told:
        """What the classes of the reference pictures were called, and what they are."""
        p, labels = [], []
        for rows in self._reference_chunks("labels"):
            batch = self.source.batch(rows)
            if "label" not in batch:
                raise UsageError("How well labels are told can be seen on a set that has some, and this one has none.")
            p.append(self.system.classify(eight_bit(batch["image"])))
            labels.append(batch["label"])
        return Told(torch.cat(p), torch.cat(labels))

    @cached_property
    def written(self) -> Written:
        """Likelihoods of the reference texts, given their own labels."""
        nats, characters, tokens = [], [], []
        codec = self.system.codec
        for rows in self._reference_chunks("likelihood"):
            texts = self.source.batch(rows)["text"]
            seeds = [derive(self.seed, "bits", i) for i in rows]
            nats.append(self.system.log_prob(texts, self.conditions(rows) or None, seeds=seeds).double().cpu())
            z = self.system.encode(texts)
            characters += [len(text) for text in codec.decode(z)]
            tokens.append(codec.mask(z).sum(1).cpu() - 1)  # the beginning is certain
        return Written(torch.cat(nats), torch.tensor(characters), torch.cat(tokens))

    @cached_property
    def tokens(self) -> Tensor:
        """(count, N) int64, the codes of the reference pictures."""
        found = []
        for rows in self._reference_chunks("codes"):
            found.append(self.system.encode(eight_bit(self.source.batch(rows)["image"])).cpu())
        return torch.cat(found)

    def _reference_chunks(self, what: str) -> Iterator[list[int]]:
        rows = self.rows
        for start in range(0, len(rows), self.batch):
            yield rows[start : start + self.batch]
            self.tell(what, min(start + self.batch, len(rows)), len(rows))

    @property
    def rows(self) -> list[int]:
        """The rows of the reference, without measuring its features."""
        if self.known is not None:
            return self.known.rows
        return sorted(draw_rows(len(self.source), min(self.n, len(self.source)), self.seed, "reference"))

    def protocol(self) -> dict[str, Any]:
        """What all scores of this evaluation share; says only what was done."""
        found: dict[str, Any] = {
            **({} if self.network is None else {"features": self.network.protocol()}),
            "reference": _origin(self.source, len(self.rows), self.seed) if self.known is None else self.known.protocol,
            "seed": self.seed,
            **({"images": "rounded to 8 bits"} if "image" in getattr(self.system, "entries", ("image",)) else {}),
            "versions": {"sfumato": VERSION, "torch": torch.__version__, "python": platform.python_version()},
        }
        if "drawn" in self.__dict__:
            whence = (
                "nothing"
                if not self.condition
                else "the caller"
                if self.given is not None
                else "rows of the set, by the seed"
            )
            found["samples"] = {
                "count": self.n,
                "batch": self.batch,
                "seeds": [self.seeds[0], self.seeds[-1]],
                "given": {"keys": list(self.condition), "from": whence},
                "options": {key: value for key, value in self.options.items() if isinstance(value, (int, float, str))},
            }
        return found
