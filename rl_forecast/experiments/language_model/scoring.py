"""Scores of held-out prompts: tokenized once, scored under every model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch

from agents.language_model.distributed import shared_scores
from rl_forecast.experiments.language_model.base_model import accuracy
from rl_forecast.experiments.language_model.held_out import score_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from agents.language_model.prompts import EncodedTask
    from agents.language_model.scorer import ContinuationScorer
    from rl_forecast.experiments.language_model.sources import HeldOut

__all__ = ["HeldOutPrompts", "samples_as_text"]

# Prompts scored between two reports of progress.
_CHUNK = 4000
_N_SAMPLES, _N_NEW_TOKENS = 5, 12


@dataclass(frozen=True, eq=False)
class HeldOutPrompts:
    """Held-out prompts as tokens.

    :param prompts: the prompts
    :param encoded: part to its tasks
    """

    prompts: HeldOut
    encoded: dict[str, list[EncodedTask]]

    @classmethod
    def encode(cls, scorer: ContinuationScorer, prompts: HeldOut) -> HeldOutPrompts:
        """Tokenize.

        :raises ValueError: bad prompts, in one line
        """
        return cls(prompts, {part: scorer.encode(tasks) for part, tasks in prompts.tasks.items()})

    def __len__(self) -> int:
        """Number of prompts to score."""
        return sum(len(encoded) for encoded in self.encoded.values())

    def score(
        self, agent: str, scorer: ContinuationScorer, report: Callable[[int], None] = lambda n: None
    ) -> tuple[pl.DataFrame, float]:
        """Score a model; several processes share the work.

        :param agent: its name
        :param scorer: its scorer
        :param report: called with the number of prompts scored since the last call
        :return: rows of ``scores.parquet``, and the share of clear tasks answered rightly
        """
        tables = []
        for part, encoded in self.encoded.items():
            scores = []
            for first in range(0, len(encoded), _CHUNK):
                chunk = encoded[first : first + _CHUNK]
                scores.append(shared_scores(scorer, chunk).double().cpu().numpy())
                report(len(chunk))
            tables.append(
                score_table(
                    agent,
                    part,
                    [task.task_id for task in encoded],  # type: ignore[arg-type]
                    np.concatenate(scores),
                    self.prompts.log_odds.get(part),
                    self.prompts.rare.get(part),
                )
            )
        return pl.concat(tables), accuracy(scorer, self.prompts.clear)

    def samples(self, scorer: ContinuationScorer, table: pl.DataFrame) -> str:
        """What the model says to its worst and to some other deployment prompts, as a Markdown table."""
        tasks = self.prompts.tasks["deployment"]
        log_p = table.filter(pl.col("part") == "deployment")["log_p"].to_numpy()
        chosen = [*np.argsort(-log_p)[:_N_SAMPLES], *range(min(_N_SAMPLES, len(tasks)))]
        return samples_as_text(scorer, [tasks[i].prompt for i in chosen], np.exp(log_p[chosen]).tolist())


@torch.no_grad()
def samples_as_text(scorer: ContinuationScorer, prompts: list[object], p: list[float]) -> str:
    """Greedy answers as a Markdown table.

    :param scorer: scorer of the model
    :param prompts: prompts, texts or chats
    :param p: failure probability of each
    """
    from agents.language_model.prompts import PromptTask

    tokenizer = scorer.tokenizer
    encoder_rows = scorer.encoder.prompts(
        [PromptTask(prompt, task_id=i) for i, prompt in enumerate(prompts)]  # type: ignore[arg-type]
    )
    lines = ["| p(forbidden) | prompt | greedy answer |", "|---:|---|---|"]
    for row, value in zip(encoder_rows, p, strict=True):
        ids = torch.tensor([row], device=scorer.device)
        output = scorer.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=_N_NEW_TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
        cells = [_cell(tokenizer.decode(ids[0])), _cell(tokenizer.decode(output[0, len(row) :]))]
        lines.append(f"| {value:.2g} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text fit for a cell of a Markdown table."""
    return "`" + " ".join(text.split()).replace("|", "\\|").replace("`", "'") + "`"
