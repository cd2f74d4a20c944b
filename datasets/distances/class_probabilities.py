"""Numbers from the class logits of a tagging network: inception score, and the divergence of generated from reference clips.

Sources: av-benchmark and audioldm_eval, which agree in the inception score and differ in the logarithm of the divergence.
"""

from __future__ import annotations

import itertools
from typing import Literal, NamedTuple

import numpy as np

from avpref.datasets.distances.frechet import Features, FloatArray
from avpref.errors import InputError

PUBLISHED_SEED = 2020
NUM_SPLITS = 10
LOG_OFFSET = 1e-6
Rule = Literal["av_benchmark", "audioldm_eval"]
Activation = Literal["softmax", "sigmoid"]


class InceptionScore(NamedTuple):
    """Mean and population standard deviation over the splits."""

    mean: float
    std: float


def inception_score(logits: Features, num_splits: int = NUM_SPLITS, seed: int = PUBLISHED_SEED) -> InceptionScore:
    """exp(mean KL(p ‖ mean p)) over ``num_splits`` parts of the shuffled rows of logits [N, C].

    Raises InputError for fewer rows than splits: an empty split has no score, and the published tools answer NaN.
    """
    if len(logits) < num_splits:
        found = f"{len(logits)} clips for an inception score of {num_splits} splits"
        raise InputError(found, f"at least {num_splits} clips", "evaluate more clips")
    shuffled = np.asarray(logits, np.float64)[np.random.RandomState(seed).permutation(len(logits))]
    probabilities = softmax(shuffled)
    bounds = [index * len(logits) // num_splits for index in range(num_splits + 1)]
    scores = [_score(probabilities[start:end]) for start, end in itertools.pairwise(bounds)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def divergence(generated: Features, reference: Features, rule: Rule, activation: Activation = "softmax") -> float:
    """Mean over rows of Σ p_ref (log p_ref − log p_gen), from logits [N, C] of the same clips in the same order.

    ``av_benchmark`` takes the logarithm exactly, ``audioldm_eval`` adds 1e-6 inside that of the generated clips. With ``sigmoid``
    the term of the absent class is left out, as published. Raises InputError for sets of different size.
    """
    if np.shape(generated) != np.shape(reference):
        found = f"logits of shape {list(np.shape(generated))} and {list(np.shape(reference))}"
        raise InputError(found, "one row per clip in both sets", "compare the same clips")
    ours, theirs = np.asarray(generated, np.float64), np.asarray(reference, np.float64)
    exact = softmax(theirs) if activation == "softmax" else _sigmoid(theirs)
    log_exact = _logarithm(theirs, "av_benchmark", activation)
    return float((exact * (log_exact - _logarithm(ours, rule, activation))).sum() / len(ours))


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities [N, C]."""
    return np.exp(_log_softmax(logits))


def _score(probabilities: FloatArray) -> float:
    mean = probabilities.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(probabilities > 0, probabilities * np.log(probabilities / mean), 0.0)
    return float(np.exp(terms.sum(1).mean()))


def _logarithm(logits: FloatArray, rule: Rule, activation: Activation) -> FloatArray:
    if rule == "av_benchmark":
        return _log_softmax(logits) if activation == "softmax" else -np.logaddexp(0, -logits)
    return np.log((softmax(logits) if activation == "softmax" else _sigmoid(logits)) + LOG_OFFSET)


def _log_softmax(logits: FloatArray) -> FloatArray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _sigmoid(logits: FloatArray) -> FloatArray:
    return np.exp(-np.logaddexp(0, -logits))
