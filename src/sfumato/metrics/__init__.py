"""Metrics: how good samples, reconstructions and likelihoods are; every score carries its protocol.

evaluate(system, source)      the scores of a system against a set          METRICS      the table of them
extractor(name)               a feature network                             EXTRACTORS   the table of them
"""

from sfumato.metrics.classifier import Classifier, accuracy, fit_classifier
from sfumato.metrics.coverage import Coverage, nearest, neighbourhoods
from sfumato.metrics.evaluation import Evaluation, Reference, reference
from sfumato.metrics.features import EXTRACTORS, Features, extractor, gather, run
from sfumato.metrics.fidelity import eight_bit, psnr, ssim
from sfumato.metrics.frechet import Moments, frechet_distance, score_name
from sfumato.metrics.kernel import kernel_distance, mmd
from sfumato.metrics.table import METRICS, Metric, Score, applicable, evaluate

__all__ = [
    "EXTRACTORS",
    "METRICS",
    "Classifier",
    "Coverage",
    "Evaluation",
    "Features",
    "Metric",
    "Moments",
    "Reference",
    "Score",
    "accuracy",
    "applicable",
    "eight_bit",
    "evaluate",
    "extractor",
    "fit_classifier",
    "frechet_distance",
    "gather",
    "kernel_distance",
    "mmd",
    "nearest",
    "neighbourhoods",
    "psnr",
    "reference",
    "run",
    "score_name",
    "ssim",
]
