"""How each method's error splits into what no training changes, curvature and rare modes, from a sweep's scores."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from rl_forecast.error_split import error_split
from rl_forecast.experiments.held_out import PARTS

if TYPE_CHECKING:
    from rl_forecast.experiments.config import EvaluationConfig
    from rl_forecast.experiments.run_folder import RunFolder
    from rl_forecast.experiments.sweep.config import SweepConfig
    from rl_forecast.experiments.sweep.jobs import FineTuneJob

__all__ = ["error_terms", "error_terms_markdown"]

#: Heading and column of each term.
_TERMS = (
    ("|error|", "total"),
    ("floor x sigma", "untrainable"),
    ("curvature", "curvature"),
    ("rare mode", "rare"),
    ("sigma", "sigma"),
)


def error_terms(jobs: list[FineTuneJob], sweep: SweepConfig, folder: RunFolder) -> pl.DataFrame:
    """Split the error of every finished job, and of the base agents.

    :param jobs: jobs of the comparison
    :param sweep: the sweep
    :param folder: its folder, with the scores of the jobs
    :return: one row per world, seed and method: ``total = untrainable + curvature + rare``, psi, and ``sigma``
    """
    rows = []
    for world, seed in sorted({(job.world, job.seed) for job in jobs}):
        scores = pl.read_parquet(folder.path / f"bases/{world}-{seed}.parquet")
        rows.append({"world": world, "seed": seed, "method": "base"} | _split(scores, sweep.run.evaluation))
    for job in jobs:
        scores = pl.read_parquet(folder.path / job.scores_key)
        row = {"world": job.world, "seed": job.seed, "method": job.method.name}
        rows.append(row | _split(scores, sweep.run.evaluation))
    return pl.DataFrame(rows)


def _split(scores: pl.DataFrame, evaluation: EvaluationConfig) -> dict[str, float]:
    sets = {}
    for part, n_sets in zip(PARTS, (evaluation.n_eval_sets, evaluation.n_deploy_sets), strict=True):
        of_part = scores.filter(pl.col("part") == part)
        sets[part] = [of_part[column].to_numpy().reshape(n_sets, -1) for column in ("psi", "rare")]
    (these, these_rare), (those, those_rare) = sets["evaluation"], sets["deployment"]
    split = error_split(these, those, these_rare, those_rare, evaluation.tail_k)
    return asdict(split) | {"untrainable": split.untrainable}


def error_terms_markdown(terms: pl.DataFrame) -> str:
    """One table a world: medians over seeds, and for each method the change against ``task_only``.

    :param terms: of :func:`error_terms`
    """
    parts = []
    for world in terms["world"].unique(maintain_order=True):
        of_world = terms.filter(pl.col("world") == world)
        reference = of_world.filter(pl.col("method") == "task_only").sort("seed")
        lines = [["method", *(heading.replace("|", "\\|") for heading, _ in _TERMS)]]
        for method in of_world["method"].unique(maintain_order=True):
            rows = of_world.filter(pl.col("method") == method).sort("seed")
            cells = [method]
            for _, column in _TERMS:
                values = rows[column].to_numpy()
                change = float(np.median(values - reference[column].to_numpy()))
                cells.append(f"{np.median(values):.2f}" + ("" if method == "task_only" else f" ({change:+.2f})"))
            lines.append(cells)
        lines.insert(1, ["---", *("---:" for _ in _TERMS)])
        parts.append(f"### {world}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n")
    return "\n".join(parts)
