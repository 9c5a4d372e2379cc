"""Entropy and mutual information of yes-or-no answers, in bits: how unsure a model is, and how unsure of its mind."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def entropy_bits(probability: NDArray[np.floating[Any]] | float) -> NDArray[np.float64]:
    """The entropy of a yes-or-no answer, any shape: 0 where it is sure, 1 at a probability of one half.

    Source: Shannon, A mathematical theory of communication (1948).
    """
    p = np.clip(np.asarray(probability, dtype=np.float64), 0.0, 1.0)
    # x log x is 0 at 0; the smallest number keeps the logarithm finite there.
    tiny = np.finfo(np.float64).tiny
    entropy = -(p * np.log2(np.maximum(p, tiny)) + (1 - p) * np.log2(np.maximum(1 - p, tiny)))
    return np.asarray(np.clip(entropy, 0.0, 1.0))


def mutual_information_bits(members: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The mutual information between a yes-or-no answer and which member of an ensemble gives it (BALD).

    The entropy of the members' mean less the mean of their entropies: 0 where all say the same, however unsure each is;
    1 where half of them are sure of yes and half of no.

    Args:
        members: probabilities, shape (members, …).

    Returns:
        Shape (…).

    Source: Houlsby et al., Bayesian active learning for classification and preference learning (2011).
    """
    of_mean = entropy_bits(np.mean(members, axis=0, dtype=np.float64))
    return np.asarray(np.maximum(of_mean - entropy_bits(members).mean(axis=0), 0.0))
