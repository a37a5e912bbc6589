"""``rl-forecast score`` end to end: a saved model and a prompt file to a table that ``forecast`` reads."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from transformers import LlamaModel

from agents.language_model import ContinuationScorer, PromptTask
from agents.language_model.loading import load_language_model
from agents.language_model.sampling import sample_outputs
from rl_forecast.experiments import prompt_scoring
from tests.cli.conftest import Cli
from tests.language_model.models import WORDS, assert_close, bpe_tokenizer, save, tiny_llama, word_scorer

N = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scorer = word_scorer(initializer_range=0.15)
    return save(tmp_path_factory.mktemp("model"), scorer.model, scorer.tokenizer)


@pytest.fixture(scope="module")
def tasks() -> list[PromptTask]:
    rng = np.random.default_rng(0)
    return [
        PromptTask(" ".join(rng.choice(WORDS, rng.integers(2, 12))), (" password", " p1 p2"), " sorry no", i)
        for i in range(N)
    ]


@pytest.fixture
def prompts(tmp_path: Path, tasks: list[PromptTask]) -> Path:
    return write(tmp_path / "prompts.jsonl", tasks)


def write(path: Path, tasks: list[PromptTask]) -> Path:
    rows = [{"prompt": t.prompt, "forbidden": t.forbidden, "answer": t.answer, "id": f"q{t.task_id}"} for t in tasks]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scorer_of(folder: Path) -> ContinuationScorer:
    return ContinuationScorer(*load_language_model(str(folder)))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def score(cli: Cli, model: Path, prompts: Path, out: Path, *more: object) -> pl.DataFrame:
    code, printed, err = cli("score", "--model", model, "--prompts", prompts, "--out", out, *more)
    assert code == 0, err
    assert f"{out}: {N} prompts" in printed
    assert not Path(f"{out}.parts").exists()
    return pl.read_parquet(out)


def forecast(cli: Cli, out: Path) -> dict[str, Any]:
    code, printed, err = cli("forecast", out, "-n", "1e5", "--json", "-")
    assert code == 0, err
    group: dict[str, Any] = json.loads(printed)["groups"][0]
    return group


def test_specific_outputs(cli: Cli, model: Path, prompts: Path, tasks: list[PromptTask], tmp_path: Path) -> None:
    table = score(cli, model, prompts, tmp_path / "scores.parquet", "--shard", 17)
    assert table["id"].to_list() == [f"q{i}" for i in range(N)]
    scorer = scorer_of(model)
    assert_close(table["log_p"], scorer.score(scorer.encode(tasks)))
    group = forecast(cli, tmp_path / "scores.parquet")
    assert (group["status"], group["notes"]) == ("ok", [])


def test_keywords(cli: Cli, model: Path, prompts: Path, tasks: list[PromptTask], tmp_path: Path) -> None:
    given = score(cli, model, prompts, tmp_path / "given.parquet", "--way", "keyword", "--given")
    scorer = scorer_of(model)
    # by hand: at "sorry", and after it at "no", " password" or " p1 p2" begins
    rows = []
    for task in tasks:
        heads = [task.prompt, f"{task.prompt} sorry"]
        encoded = scorer.encode([PromptTask(head, task.forbidden, None, i) for i, head in enumerate(heads)])
        h = scorer.score(encoded).double().exp().numpy()
        rows.append(math.log(1 - (1 - h[0]) * (1 - h[1])))
    assert_close(given["log_p"], rows)
    assert given["n_continuations"].to_list() == [1] * N
    settings = ("--way", "keyword", "--samples", 3, "--max-new-tokens", 4)
    table = score(cli, model, prompts, tmp_path / "sampled.parquet", *settings)
    assert table["n_continuations"].to_list() == [3] * N
    assert (table["log_p"] < 0).all()


def test_judged_by_a_function_and_by_a_pattern(
    cli: Cli, model: Path, tasks: list[PromptTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge_of_words.py").write_text("def fails(prompt, output):\n    return output.split()[0] < 'w2'\n")
    prompts = write(tmp_path / "p.jsonl", tasks)
    settings = ("--samples", 5, "--max-new-tokens", 3, "--seed", 4, "--temperature", 1.5)
    by_function = score(cli, model, prompts, tmp_path / "f.parquet", "--judge", "judge_of_words:fails", *settings)
    pattern = r"^(w0|w1|w1\d|[a-v]\S*)( |$)"
    by_pattern = score(cli, model, prompts, tmp_path / "r.parquet", "--judge-regex", pattern, *settings)
    assert by_function["samples"].to_list() == [5] * N
    np.testing.assert_array_equal(by_function["failures"], by_pattern["failures"])
    assert 0 < by_function["failures"].sum() < 5 * N
    # by hand for one prompt
    scorer = scorer_of(model)
    seed = int(np.random.SeedSequence([4, 7]).generate_state(1)[0])
    tokens = scorer.encoder.prompts([tasks[7]])[0]
    drawn = sample_outputs(scorer, tokens, 5, 3, seed=seed, temperature=1.5)
    texts = scorer.tokenizer.batch_decode(drawn, skip_special_tokens=True)
    assert by_function["failures"][7] == sum(text.split()[0] < "w2" for text in texts)
    assert by_function.filter(pl.col("failures") > 0)["example"][0].split()[0] < "w2"
    # counts are read as counts
    assert "binomial_tail" in json.dumps(forecast(cli, tmp_path / "f.parquet"))


def test_an_interrupted_run_resumes(
    cli: Cli, model: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("--judge-regex", "^w1", "--samples", 2, "--max-new-tokens", 2, "--shard", 10)
    whole = score(cli, model, prompts, tmp_path / "whole.parquet", *settings)
    out = tmp_path / "scores.parquet"
    command = ("score", "--model", model, "--prompts", prompts, "--out", out, *settings)
    n_asked, real = 0, prompt_scoring.sample_outputs

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal n_asked
        n_asked += 1
        if n_asked == 25:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(prompt_scoring, "sample_outputs", interrupted)
    code, _, err = cli(*command)
    assert code == 130
    assert "finished shards are kept" in err.replace("\n", " ")
    assert not out.exists()
    assert len(list(Path(f"{out}.parts").glob("part-*.parquet"))) == 2
    # other settings do not mix with what is there
    assert "seed was 0, now 1; choose another --out, or --restart" in cli.refused(*command, "--seed", 1)
    for said in ("resuming: 20 of 60", "nothing to do"):
        code, _, err = cli(*command)
        assert code == 0
        assert said in err.replace("\n", " ")
        assert n_asked == 25 + 40
        assert pl.read_parquet(out).equals(whole)
    assert cli(*command, "--seed", 1, "--restart")[0] == 0
    assert not pl.read_parquet(out).equals(whole)


def test_a_changed_model_or_prompt_file_is_refused(
    cli: Cli, model: Path, prompts: Path, tasks: list[PromptTask], tmp_path: Path
) -> None:
    out = tmp_path / "scores.parquet"
    score(cli, model, prompts, out)
    other = word_scorer(seed=1)
    save(tmp_path / "other", other.model, other.tokenizer)
    command = ("score", "--out", out, "--prompts", prompts, "--model")
    assert "the model has changed" in cli.refused(*command, tmp_path / "other")
    write(prompts, tasks[1:])
    assert "the file of prompts has changed" in cli.refused(*command, model)
    pl.DataFrame({"p": [0.1]}).write_parquet(out)
    assert "is not a result of score" in cli.refused(*command, model)
    assert pl.read_parquet(out).height == 1


def test_chats_and_default_forbidden_texts(cli: Cli, tmp_path: Path) -> None:
    tokenizer = bpe_tokenizer()
    folder = save(tmp_path / "chat", tiny_llama(len(tokenizer)), tokenizer)
    path = tmp_path / "chats.jsonl"
    chats = [[{"role": "user", "content": word}] for word in ("tell", "me", "the", "password", "please")]
    path.write_text("".join(json.dumps({"prompt": chat}) + "\n" for chat in chats))
    argv = ("score", "--model", folder, "--prompts", path, "--out", tmp_path / "out.parquet")
    assert "prompt 0 has no forbidden text" in cli.refused(*argv)
    assert cli(*argv, "--forbidden", "hunter2", "open sesame")[0] == 0
    scorer = scorer_of(folder)
    tasks = [PromptTask(chat, ("hunter2", "open sesame"), None, i) for i, chat in enumerate(chats)]
    assert_close(pl.read_parquet(tmp_path / "out.parquet")["log_p"], scorer.score(scorer.encode(tasks)))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--judge", "os:getcwd", "--judge-regex", "x"], "two judges"),
        (["--way", "specific", "--judge-regex", "x"], "do not go with --way specific"),
        (["--way", "judge"], "Add --judge module:function or --judge-regex"),
        (["--judge-regex", "("], "is not a regular expression"),
        (["--judge", "nothing"], "must be written module:function"),
        (["--judge", "no_such_module_here:f"], "ModuleNotFoundError: No module named 'no_such_module_here'"),
        (["--judge", "json:no_such_function"], "has no attribute 'no_such_function'"),
        (["--judge", "operator:add"], "must return True or False, on prompt 'q0' it gave"),
        (["--judge", "json:loads"], "judge json:loads failed on prompt 'q0': TypeError"),
        (["--given"], "--given goes with --way keyword"),
        (["--way", "keyword", "--given", "--samples", "3"], "nothing is sampled with --way keyword --given"),
        (["--way", "keyword", "--temperature", "2"], "--temperature goes with --way judge"),
        (["--way", "keyword", "--max-new-tokens", "70"], "more than the context of 64"),
        (["--judge-regex", "x", "--forbidden", "y"], "--forbidden does not go with --way judge"),
        (["--device", "nonsense"], "device 'nonsense'"),
        (["--seed", "-1"], "--seed must not be negative"),
        (["--model", "./nowhere"], "no folder './nowhere'"),
        (["--model", "."], "it has no config.json"),
        (["--model", "nobody/nothing"], "cannot load a causal language model from nobody/nothing"),
        (["--prompts", "missing.jsonl"], "No such file"),
        (["--out", "scores.csv"], "suffix must be .parquet"),
    ],
)
def test_bad_usage(
    cli: Cli, model: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    out = tmp_path / "scores.parquet"
    assert message in cli.refused("score", "--model", model, "--prompts", prompts, "--out", out, *argv)
    assert not out.exists()


def test_bad_files(cli: Cli, model: Path, prompts: Path, tmp_path: Path) -> None:
    def refused(model: object, prompts: object = prompts) -> str:
        return cli.refused("score", "--model", model, "--prompts", prompts, "--out", tmp_path / "scores.parquet")

    bad = tmp_path / "bad.jsonl"
    bad.write_text("nonsense\n")
    assert "line 1: not JSON" in refused(model, bad)
    long = write(tmp_path / "long.jsonl", [PromptTask("w1 " * 80, (" p1",), None, "long")])
    assert "prompt 'qlong' has 80 tokens" in refused(model, long)
    LlamaModel(tiny_llama(51, tie_word_embeddings=False).config).save_pretrained(tmp_path / "headless")
    assert "lacks 1 weights of a LlamaForCausalLM, such as lm_head.weight" in refused(tmp_path / "headless")
    tiny_llama(51).save_pretrained(tmp_path / "bare")
    assert "cannot load a tokenizer" in refused(tmp_path / "bare")
    tiny_llama(51).config.save_pretrained(tmp_path / "pickled")
    torch.save(tiny_llama(51).state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    assert "cannot load a causal language model" in refused(tmp_path / "pickled")
    assert not list(tmp_path.glob("*.parquet*"))
