"""Likelihoods as bits per dimension, and codebooks as perplexities: the units that papers print.

    8-bit values     bits/dim = −log p(k) / (D ln 2)                     a uniform guess costs 8
    density on x     bits/dim = −(log p(x) + D ln δ) / (D ln 2)          since P(k) ≈ p(x) δ, x = k / δ⁻¹ − 1

with D the entries of one picture and δ = 1 / 127.5 the width of one of the 256 values on [−1, 1]. log p in nats.

    perplexity of code frequencies p:  exp(−Σ p log p), at most K;  usage: the part of the K codes that occur at all
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

BIN = 1 / 127.5


def bits_per_dim(nats: Tensor, dims: int, discrete: bool, bin_width: float = BIN) -> Tensor:
    """log p (B,) in nats → bits per dimension (B,). `discrete`: of 8-bit values; else a density of dequantised ones."""
    return -(nats / dims + (0.0 if discrete else math.log(bin_width))) / math.log(2)


def protocol(kind: str, discrete: bool | None = None, bin_width: float = BIN) -> dict[str, Any]:
    """What a number of bits per dimension means: "exact" or a "bound", and how 8-bit values became continuous."""
    found: dict[str, Any] = {"kind": kind, "data": "8-bit values", "unit": "bits per dimension"}
    if discrete is not None:
        found["dequantisation"] = (
            "none: probabilities of the values" if discrete else f"uniform, bin width {bin_width:.6g}"
        )
    return found


def histogram(tokens: Tensor, alphabet: int) -> Tensor:
    """How often each of the `alphabet` codes occurs: (K,) int64."""
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < alphabet:
        raise ValueError(f"Tokens lie in 0 … {alphabet - 1}, not {int(tokens.min())} … {int(tokens.max())}.")
    return torch.bincount(tokens.flatten().cpu(), minlength=alphabet)


def perplexity(counts: Tensor) -> float:
    p = counts.double() / counts.sum().clamp_min(1)
    return math.exp(float(torch.special.entr(p).sum()))


def usage(counts: Tensor) -> float:
    return float((counts > 0).double().mean())
