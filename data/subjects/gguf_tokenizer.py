"""What a GGUF file says of its tokenizer, and what is lost of it on the way through transformers.

Names of pre-tokenizers as in llama.cpp's convert_hf_to_gguf_update.py. A wrong one splits words and digits otherwise
than the model was trained, and nothing fails: so an unknown one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError

MODEL, PRE, ADD_BOS = "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.add_bos_token"
KEYS = (MODEL, PRE, ADD_BOS)

# GPT-2's own splitting, and the same behind digits split one by one.
PLAIN = ("gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "mpt", "olmo", "jais", "exaone4", "trillion")
SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
# Llama 3's and those made like it: whole words of the vocabulary come before merges, and a BOS comes first.
WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken")


class Facts(NamedTuple):
    """pre: the pre-tokenizer's name, "" where the vocabulary needs none. add_bos: None where the file does not say."""

    pre: str
    add_bos: bool | None


def facts(gguf: Path, said: Mapping[str, Any]) -> Facts:
    """From the file's own fields. UserError: a byte-level vocabulary whose pre-tokenizer is not named, or not known."""
    add_bos = said.get(ADD_BOS)
    if said.get(MODEL) != "gpt2":
        return Facts("", add_bos)
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    pre = said.get(PRE)
    if pre is None:
        raise UserError(f"{gguf} does not name its pre-tokenizer ({PRE}): convert it again with a newer llama.cpp")
    if pre not in (*PLAIN, *SINGLE_DIGITS, *GGUF_PRE_TOKENIZER_SPLITS):
        raise UserError(f"{gguf}: unknown pre-tokenizer {pre!r} would split words wrongly: use the original checkpoint")
    return Facts(pre, True if add_bos is None and pre in WHOLE_WORDS else add_bos)


def restore(tokenizer: Any, facts: Facts) -> None:
    """What transformers' reader leaves out: single digits, whole words before merges, the BOS."""
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    if facts.pre in SINGLE_DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    if facts.pre in WHOLE_WORDS:
        backend.model.ignore_merges = True
    if facts.add_bos is not None and tokenizer.bos_token is not None:
        tokenizer.add_bos_token = facts.add_bos
