"""The rule for the number of partitions, on noise that is known and on a loss that is measured."""

import numpy as np
import pytest
import torch

from rl_forecast import ForecastabilityLoss
from rl_forecast.forecasting.methods.exponential_pivot import mean_unbiased_factor
from rl_forecast.loss.partition_count import choose_n_partitions, gradient_noise


def test_known_noise() -> None:
    assert choose_n_partitions(lambda r: 1.0 / np.sqrt(r), 1.0) == 128  # 1 / sqrt(128) = 0.088, 1 / sqrt(64) = 0.125
    assert choose_n_partitions(lambda r: 1.0 / r, 1.0) == 16
    assert choose_n_partitions(lambda r: 0.0, 1.0) == 1
    assert choose_n_partitions(lambda r: 1.0, 1.0, largest=300) == 256
    with pytest.raises(ValueError, match="positive"):
        choose_n_partitions(lambda r: 1.0, 0.0)


def test_noise_of_replicates() -> None:
    rng = np.random.default_rng(0)
    g = rng.normal(5.0, [1.0, 2.0, 3.0], size=(20_000, 3))
    assert gradient_noise(g) == pytest.approx(np.sqrt(14.0), rel=0.02)
    with pytest.raises(ValueError, match="replicates"):
        gradient_noise(g[:1])


def test_the_rule_on_a_forecast_error() -> None:
    """Squared error of the linear forecast over random partitions: the chosen R really is quiet, half of it is not."""
    rng = np.random.default_rng(1)
    m, n, k = 100, 100, 10
    factor = mean_unbiased_factor(k, m, n)

    def gradient(x: np.ndarray, r: int) -> np.ndarray:
        total = np.zeros(x.size)
        for _ in range(r):
            order = rng.permutation(x.size)
            top = order[:m][np.argsort(-x[order[:m]])[:k]]
            worst = order[m:][np.argmax(x[order[m:]])]
            weight = np.zeros(x.size)
            weight[top] = factor / (k - 1)
            weight[top[-1]] = 1.0 - factor
            weight[worst] -= 1.0
            total += 2.0 * (weight @ x) * weight
        return total / r

    tasks = rng.exponential(size=(40, m + n))
    sampling = gradient_noise([gradient(np.sort(x), 64) for x in tasks])
    fixed = np.sort(tasks[0])

    def noise(r: int) -> float:
        return gradient_noise([gradient(fixed, r) for _ in range(40)])

    r = choose_n_partitions(noise, sampling, fraction=1.0, largest=1_024)
    assert 4 <= r <= 256
    assert noise(r) < 1.2 * sampling
    assert noise(r // 4) > sampling


def test_auto_is_the_rule_for_the_sizes_at_hand() -> None:
    psi = torch.as_tensor(np.random.default_rng(0).gumbel(size=2000))

    def chosen(n_eval: int) -> int:
        loss = ForecastabilityLoss(n_eval, 2000 - n_eval, n_partitions="auto")
        return len(loss(psi, np.random.default_rng(1)).error)

    assert 16 <= chosen(1000) <= 256
    assert chosen(182) > chosen(1000), "a small evaluation part moves more with its partition"
    with pytest.raises(ValueError, match="at least 1 or 'auto'"):
        ForecastabilityLoss(10, 10, n_partitions="many")  # type: ignore[arg-type]
