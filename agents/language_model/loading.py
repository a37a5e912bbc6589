"""Models and tokenizers by folder or hub id, and one clear line where they cannot be had."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_FINGERPRINTED = (".safetensors", ".json", ".jinja", ".model", ".txt")


def load_language_model(name: str, dtype: str = "float32", device: str = "auto") -> tuple[Any, Any]:
    """A causal language model in evaluation mode, and its tokenizer.

    Weights are read from safetensors only, and no code out of a repository is run: nothing is unpickled.

    :param name: folder written by ``save_pretrained``, or hub id
    :param dtype: of the weights; bfloat16 moves psi by up to about 0.1
    :param device: ``cpu``, ``cuda``, ... or ``auto``: a GPU where there is one
    :raises ValueError: one line: nothing there, no causal language model, weights missing, no such device
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: no GPU is available here, use cpu")
    if _is_folder(name) and not (Path(name) / "config.json").is_file():
        is_adapter = (Path(name) / "adapter_config.json").is_file()
        what = "merge this adapter into its base model and save that" if is_adapter else "it has no config.json"
        raise ValueError(f"{name} is not a folder with a model: {what}")
    with _one_line_errors(f"cannot load a causal language model from {name}"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True
        )
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"{name} lacks {len(missing)} weights of a {type(model).__name__}, such as {missing[0]}: it was saved "
            "without its language-model head, or by another architecture"
        )
    with _one_line_errors(f"cannot load a tokenizer from {name}"):
        tokenizer = AutoTokenizer.from_pretrained(name)
    with _one_line_errors(f"device {device!r}"):
        return model.to(device).eval(), tokenizer


def model_fingerprint(name: str) -> str:
    """What tells whether a model has changed: the commit of a hub id, or a digest of a folder's files."""
    if not _is_folder(name):
        from transformers import AutoConfig

        with _one_line_errors(f"cannot load a causal language model from {name}"):
            return f"{name}@{getattr(AutoConfig.from_pretrained(name), '_commit_hash', None)}"
    digest = hashlib.sha256()
    for path in sorted(Path(name).iterdir()):
        if path.is_file() and path.suffix in _FINGERPRINTED:
            digest.update(path.name.encode())
            with path.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _is_folder(name: str) -> bool:
    """Whether a name is meant as a folder; a hub id is ``name`` or ``owner/name``."""
    path = Path(name)
    is_path = path.is_absolute() or name.startswith((".", "~")) or len(path.parts) > 2 or path.exists() or not name
    if is_path and not path.is_dir():
        raise ValueError(f"no folder {name!r} (and a hub id is written owner/name)")
    return is_path


@contextmanager
def _one_line_errors(what: str) -> Iterator[None]:
    """No progress bars and reports of transformers; its errors in one line."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"{what}: {lines[0] if lines else type(error).__name__}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
