"""Likelihoods: features → distribution. The decoder's p(x|z), and the head of a sequence prior.

    name              log p                                               values    features for c channels
    normal            −(x − μ)² / 2σ² − log σ − ½ log 2π                  density   c, or 2c with a σ per element
    laplace           −|x − μ| / b − log 2b                               density   c, or 2c
    logit-laplace     −|logit v − μ| / b − log 2b v(1 − v) + log dv/dx    density   2c
    mixture           log Σ π_k N(x; μ_k, diag σ_k²)                      density   K (1 + 2c)
    logistic-mixture  log Σ π_k Π_c [F(x + ½ − m_kc) − F(x − ½ − m_kc)]   8-bit     K (1 + 2c + c (c − 1) / 2)
    levels            log softmax(features)[x]                            8-bit     256 c
    bernoulli         log σ(±features)                                    −1 or 1   c
    categorical       log softmax(features)[z]                            tokens    K

A likelihood is a module: `channels(c)` says how many features it wants for c data channels, and calling it on features
(channels at `dim`) gives a distribution with

    log_prob(x)     nats, elementwise; summed over all but the batch it is log p of an image. The mixtures couple the
                    channels, so there `dim` is summed already
    mean            what to show: the mean, or for tokens the mode
    sample(noise)   a draw, row i from row i of the noise
    cooled(T)       of normals, Laplaces and mixtures: the same with every scale T times as large (arXiv:2312.02116)

A density is over x in [−1, 1]; a discrete log-probability is of the 8-bit value k = round((x + 1) · 127.5).
A scale never falls below a floor, by s² ← s² + floor², so that no region of constant colour has infinite density and
the gradient never stops.

Sources: discretised logistics Salimans et al. 2017, arXiv:1701.05517; logit-Laplace Ramesh et al. 2021,
arXiv:2102.12092; learned σ Rybkin et al. 2021, arXiv:2006.13202.
"""

from sfumato.likelihoods.centred import SWIFT, Laplace, LaplaceOf, LogitLaplace, LogitLaplaceOf, Normal, NormalOf, Scale
from sfumato.likelihoods.contract import LIKELIHOODS, Distribution, Likelihood
from sfumato.likelihoods.letters import Bernoulli, Categorical, CategoricalOf, Levels
from sfumato.likelihoods.logistic import DiscretisedLogisticMixture
from sfumato.likelihoods.mixture import Mixture, MixtureOf
from sfumato.likelihoods.numbers import HALF_LOG_TAU, STEP, from_levels, to_levels

__all__ = [
    "Bernoulli",
    "Categorical",
    "CategoricalOf",
    "DiscretisedLogisticMixture",
    "Distribution",
    "HALF_LOG_TAU",
    "LIKELIHOODS",
    "Laplace",
    "LaplaceOf",
    "Levels",
    "Likelihood",
    "LogitLaplace",
    "LogitLaplaceOf",
    "Mixture",
    "MixtureOf",
    "Normal",
    "NormalOf",
    "STEP",
    "SWIFT",
    "Scale",
    "from_levels",
    "to_levels",
]
