"""Memory that `--plan` foretells beside the peak of the run itself: random models of real shapes in bfloat16.

    python tests/bench_plan.py 1B sinks lenses        a shape of SHAPES; analyses of RUNS, or all of them

One line an analysis: what was foretold, the process's high-water mark, their ratio, seconds. Models are made once, in
the cache; 3B takes 7 GB of disk there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from crosslens import load
from crosslens.data.cached import cache_root
from crosslens.tests.helpers.noise import fill
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

# Llama 3.2 1B and 3B, Gemma 3 270M.
_LLAMA = {"model_type": "llama", "vocab_size": 128_256, "num_key_value_heads": 8, "intermediate_size": 8192}
SHAPES: dict[str, dict[str, Any]] = {
    "1B": _LLAMA | {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32},
    "3B": _LLAMA | {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24},
    "gemma": {
        "model_type": "gemma3_text",
        "vocab_size": 262_144,
        "hidden_size": 640,
        "num_hidden_layers": 18,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "intermediate_size": 2048,
    },
}
RUNS = {
    "sinks": ["--task", "passages", "--limit", "8"],
    "lenses": ["--task", "facts", "--limit", "16"],
    "information_flow": ["--task", "facts", "--limit", "8"],
    "circuits": ["--task", "ioi", "--limit", "8"],
    "edges": ["--task", "ioi", "--limit", "8"],
    "learned_lenses": ["--task", "facts", "--limit", "8"],
}


def model_of(shape: str) -> Path:
    """The directory of a random model of that shape, with SmolLM2's tokenizer: its words are the first of the rows."""
    directory = cache_root() / "shapes" / shape
    if not (directory / "config.json").exists():
        asked = {key: value for key, value in SHAPES[shape].items() if key != "model_type"}
        config = AutoConfig.for_model(SHAPES[shape]["model_type"], **asked, tie_word_embeddings=True)
        with no_init_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        fill(model)
        load("smollm2", check=False).tokenizer.save_pretrained(directory)
        model.save_pretrained(directory)
    return directory


def command(directory: Path, analysis: str, out: str) -> list[str]:
    asked = ["--subject", str(directory), "--dtype", "bfloat16", "--out", out]
    return [sys.executable, "-m", "crosslens", "run", analysis, *RUNS[analysis], *asked]


def peak_of(words: list[str]) -> float:
    """GB (10⁹ bytes) of a command's process at its largest."""
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(running.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(words)}")
    return used.ru_maxrss * 1024 / 1e9


def planned(words: list[str]) -> float:
    told = subprocess.run([*words, "--plan"], check=True, capture_output=True, text=True).stdout
    (number, unit), *_ = re.findall(r"about ([\d.,]+) (GB|MB) at most", told)
    return float(number.replace(",", "")) / (1 if unit == "GB" else 1000)


def main() -> None:
    shape, *chosen = sys.argv[1:] or ["1B"]
    directory = model_of(shape)
    for analysis in chosen or RUNS:
        with tempfile.TemporaryDirectory() as out:
            words = command(directory, analysis, out)
            told, start = planned(words), perf_counter()
            peak = peak_of(words)
        seconds = perf_counter() - start
        print(f"{shape} {analysis:18s}{told:7.2f} GB told {peak:7.2f} GB seen {told / peak:6.2f} {seconds:8.0f} s")


if __name__ == "__main__":
    main()
