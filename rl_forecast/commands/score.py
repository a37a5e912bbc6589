"""``rl-forecast score``: failure scores of a language model on a file of prompts."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from rl_forecast.commands.shared import Parser, count, number
from rl_forecast.errors import InputError

if TYPE_CHECKING:
    import argparse

    from rl_forecast.experiments.prompt_scoring import Way

_EPILOG = """\
prompts file: one JSON object a line
  {"prompt": "...", "forbidden": ["...", "..."], "answer": "...", "id": 17}
  prompt     text, or a list of {"role", "content"} for the tokenizer's chat template
  forbidden  text or texts that must not be produced (or, with --way keyword, appear)
  answer     the output whose positions --given scores; optional
  id         whole number or text; optional

three ways to score a behaviour:
  specific   exact probability that the output begins with a forbidden text
  keyword    probability that a forbidden text begins anywhere in a sampled output, or in the prompt's answer (--given)
  judge      failures among sampled outputs, by a function or a regular expression: counts, which forecast reads as such

examples:
  rl-forecast score --model ./model --prompts prompts.jsonl --out scores.parquet
  rl-forecast score --model ./model --prompts prompts.jsonl --out judged.parquet --judge-regex "(?i)secret" --samples 50
  rl-forecast forecast scores.parquet -n 1e4 1e6

The same command resumes an interrupted run: finished shards are kept in OUT.parts.
"""


def _parser() -> Parser:
    parser = Parser(
        "score",
        "--model MODEL --prompts FILE --out FILE [options]",
        "Score prompts under a causal language model and write a table that forecast reads.",
        _EPILOG,
    )
    parser.add_argument("--model", required=True, help="folder written by save_pretrained, or hub id (safetensors)")
    parser.add_argument("--prompts", required=True, metavar="FILE", help="prompts and forbidden texts (.jsonl)")
    parser.add_argument("--out", required=True, metavar="FILE", help="scores to write (.parquet)")
    parser.add_argument("--way", choices=("specific", "keyword", "judge"), help="default: specific; judge with a judge")
    parser.add_argument("--forbidden", nargs="+", default=[], metavar="TEXT", help="for prompts that name none")
    parser.add_argument("--restart", action="store_true", help="begin again: forget finished shards and the old file")
    sampling = parser.add_argument_group("sampled outputs (keyword, judge)")
    sampling.add_argument("--samples", type=count, metavar="J", help="outputs of each prompt (default 10)")
    sampling.add_argument("--max-new-tokens", type=count, metavar="T", help="longest output (default 32)")
    sampling.add_argument("--temperature", type=number, help="judge only (default 1, the model's own distribution)")
    sampling.add_argument("--seed", type=int, default=0, help="of the samples (default 0)")
    sampling.add_argument("--given", action="store_true", help="keyword only: positions of each prompt's answer")
    judge = parser.add_argument_group("judge")
    judge.add_argument("--judge", metavar="MODULE:FUNCTION", help="function(prompt, output) -> True for a failure")
    judge.add_argument("--judge-regex", metavar="PATTERN", help="a failure is an output in which this is found")
    machine = parser.add_argument_group("machine")
    dtypes = ("float32", "bfloat16", "float16")
    machine.add_argument("--dtype", choices=dtypes, default="float32", help="of the weights (default float32)")
    machine.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    machine.add_argument("--max-batch-tokens", type=count, default=16_384, help="of one forward pass (default 16384)")
    machine.add_argument("--shard", type=count, default=256, help="prompts of a shard (default 256)")
    return parser


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    way = _way(args)

    from rich.console import Console

    from rl_forecast.experiments.prompt_scoring import REGEX, ScoringSettings, score_prompts

    if args.judge_regex is not None:
        args.judge = f"{REGEX}{args.judge_regex}"
    args.way, args.forbidden = way, tuple(args.forbidden)
    # what was not given has its default there
    given = {f.name: value for f in fields(ScoringSettings) if (value := getattr(args, f.name)) is not None}
    settings = ScoringSettings(**given)
    table = score_prompts(settings, Console(stderr=True), args.restart)
    if way == "judge":
        failures, samples = int(table["failures"].sum()), int(table["samples"].sum())
        result = f"{failures} failures in {samples} outputs, the worst prompt {table['failures'].to_numpy().max()}"
    else:
        from rl_forecast.scores import format_probability, psi_from_log_p

        result = f"worst p = {format_probability(float(psi_from_log_p(table['log_p'].to_numpy().max())))}"
    print(f"{args.out}: {table.height} prompts, {result}")
    print(f"next: rl-forecast forecast {args.out} -n 1e6")
    return 0


def _way(args: argparse.Namespace) -> Way:
    """The way that was asked for; options of another way are refused rather than ignored."""
    judged = args.judge is not None or args.judge_regex is not None
    way: Way = args.way or ("judge" if judged else "specific")
    sampled = way == "judge" or (way == "keyword" and not args.given)
    unsampled = f"nothing is sampled with --way {way}{' --given' if args.given else ''}"
    refusals = {
        "--judge and --judge-regex are two judges: give one": args.judge is not None and args.judge_regex is not None,
        f"--judge and --judge-regex do not go with --way {way}": judged and way != "judge",
        "--forbidden does not go with --way judge: the judge says what is a failure": way == "judge" and args.forbidden,
        "--given goes with --way keyword": args.given and way != "keyword",
        "--temperature goes with --way judge": args.temperature is not None and way != "judge",
        f"--samples: {unsampled}": args.samples is not None and not sampled,
        f"--max-new-tokens: {unsampled}": args.max_new_tokens is not None and not sampled,
        f"--seed must not be negative, it is {args.seed}": args.seed < 0,
        f"--out {args.out}: the suffix must be .parquet": not args.out.lower().endswith((".parquet", ".pq")),
    }
    for line, is_so in refusals.items():
        if is_so:
            raise InputError(line)
    return way
