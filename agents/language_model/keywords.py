"""Probability that a keyword is emitted at any position of a continuation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from agents.language_model.encoding import pack_rows, without_implied

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agents.language_model.scorer import ContinuationScorer

__all__ = ["keyword_log_hazards", "keyword_log_p"]

# Below exp(-30) a sum of hazards equals one minus the product of their complements to float64 rounding.
_FIRST_ORDER = -30.0


def keyword_log_hazards(
    scorer: ContinuationScorer,
    prompt: Sequence[int],
    continuations: Sequence[Sequence[int]],
    keywords: Sequence[Sequence[int]],
) -> list[NDArray[np.float64]]:
    """Log probability that a keyword begins at each position of some continuations.

    ``h_t = P(some keyword is spelled from position t on | prompt, first t tokens of the continuation)``, exact by the
    chain rule over the keyword's tokens.

    :param scorer: holds the model
    :param prompt: tokens of the prompt
    :param continuations: tokens of each continuation, at least one
    :param keywords: tokens of each keyword
    :return: of each continuation log h, shape (n_positions,), as many as it has tokens
    """
    keywords = without_implied([list(tokens) for tokens in keywords])
    prompt, paths = list(prompt), [list(path) for path in continuations]
    if all(len(tokens) == 1 for tokens in keywords):
        return [_single_tokens(scorer, prompt, path, [tokens[0] for tokens in keywords]) for path in paths]
    heads = [prompt + path[:t] for path in paths for t in range(len(path))]
    log_h = scorer.score(pack_rows(range(len(heads)), heads, [keywords] * len(heads))).double().cpu().numpy()
    return np.split(log_h, np.cumsum([len(path) for path in paths])[:-1])


@torch.no_grad()
def _single_tokens(
    scorer: ContinuationScorer, prompt: list[int], continuation: list[int], keywords: list[int]
) -> NDArray[np.float64]:
    """One forward pass tells every position."""
    logits = scorer.logits(prompt + continuation[:-1], len(continuation))
    log_p = logits.double().log_softmax(dim=-1)[:, keywords].logsumexp(dim=-1)
    return log_p.clamp(max=0.0).cpu().numpy()


def keyword_log_p(log_hazards: Sequence[NDArray[np.float64]]) -> float:
    """Log probability that a keyword is emitted at any position, averaged over continuations.

    ``p = mean_j (1 - prod_t (1 - h_jt))`` (our reading of the keyword score of arXiv 2502.16797). For keywords of one
    token and continuations sampled with the keyword kept out, this is an unbiased estimate of the probability that a
    sampled output holds the keyword: each path is one on which it has not been emitted yet, weighted by the
    probability of having avoided it. For longer keywords the starts at different positions are counted as if
    independent, which is wrong only in second order of the hazards.

    :param log_hazards: of each continuation, shape (n_positions,)
    :return: natural log of p; the mean is taken of probabilities, not of logs
    """
    each = [_any_position(h) for h in log_hazards]
    return min(0.0, float(np.logaddexp.reduce(each)) - math.log(len(each)))


def _any_position(log_hazard: NDArray[np.float64]) -> float:
    if log_hazard.max() < _FIRST_ORDER:
        return float(np.logaddexp.reduce(log_hazard))
    with np.errstate(divide="ignore"):
        log_survival = np.log1p(-np.exp(log_hazard)).sum()
        return float(np.log(-np.expm1(log_survival)))
