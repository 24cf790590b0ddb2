"""Benchmarks: ratios to plain forwards in one run, medians of interleaved rounds with their spread.

    make bench          all
    python tests/bench.py observe lens memory transformerlens divergence repairs

Plain forward: the same batch through Hugging Face's SDPA, no cache, `logits_to_keep=1`, the same threads.
"""

from __future__ import annotations

import copy
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from time import perf_counter
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch
from crosslens import load
from crosslens.analyses import head_divergence, lenses, metrics, repairs, sinks
from crosslens.data import passages
from crosslens.data.tasks import open_task
from crosslens.probes.answers import with_answers
from crosslens.probes.attention import NAME
from crosslens.probes.rows import observe
from transformers import LogitsProcessor

ROUNDS = 9
SINKS = sinks.Options(dimensions=(507, 247), tau=17.4)


def interleaved(works: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> None:
    """Time every work in turn, `rounds` times, and print each as a ratio to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            start = perf_counter()
            work()
            seconds[name].append(perf_counter() - start)
    base = np.array(next(iter(seconds.values())))
    for name, times in seconds.items():
        ratios = np.array(times) / base
        low, high = np.quantile(ratios, [0.25, 0.75])
        print(f"  {name:44s}{np.median(times):8.3f} s   × {np.median(ratios):5.2f}   [{low:.2f}, {high:.2f}]")


def subject_and_batch() -> tuple[Any, Any]:
    """SmolLM2 and 16 passages of 256 tokens."""
    subject = load("smollm2", check=False)
    return subject, subject.batch(passages.examples(n=16, tokenizer=subject.tokenizer, tokens=255))


def plain(subject: Any, batch: Any) -> Callable[[], Any]:
    """The plain forward of this module's first lines."""

    def work() -> None:
        subject.text_config._attn_implementation = "sdpa"
        try:
            subject.forward(batch)
        finally:
            subject.text_config._attn_implementation = NAME

    return work


class WithoutReads:
    """lenses without its reads: what riding on the forward costs."""

    layer_rows = staticmethod(lenses.layer_rows)


def observing(subject: Any, batch: Any) -> Callable[[], Any]:
    """Both analyses on one forward, lens reads left out."""
    riders = {"sinks": (sinks, SINKS), "lenses": (WithoutReads, lenses.Options())}
    return lambda: observe(subject, batch, riders)


def bench_observe() -> None:
    """sinks + lenses (without reads) on 16 × 256 tokens; the limit is 1.25."""
    subject, batch = subject_and_batch()
    works = {
        "plain forward, 16 × 256": plain(subject, batch),
        "through crosslens, nobody watching": lambda: subject.forward(batch),
        "sinks + lenses without reads": observing(subject, batch),
    }
    interleaved(works)


def bench_lens() -> None:
    """One lens read of 64 positions (probability, rank, KL, entropy) against a plain unembedding; the limit is 2."""
    subject = load("smollm2", check=False)
    states = torch.randn(64, subject.d_model)
    ids = torch.randint(1000, (64, 2))
    with torch.no_grad():
        final = subject.unembed(subject.norm(states))
        reference = (final.softmax(-1), metrics.entropy(final))
        weight = subject.model.lm_head.weight
        works = {
            "plain unembedding, 64 positions": lambda: states @ weight.T,
            "lens read": lambda: lenses._read(subject, states, lenses.NORMS[0], ids, reference),
        }
        interleaved(works, 21)


def bench_transformerlens() -> None:
    """TransformerLens' run_with_cache of the sites that `sinks` reads, beside capture-free observation."""
    from transformer_lens.model_bridge import TransformerBridge

    subject, batch = subject_and_batch()
    model = copy.deepcopy(subject.model)
    model.config.architectures = [type(model).__name__]
    tokenizer = copy.deepcopy(subject.tokenizer)
    bridge = TransformerBridge.boot_transformers("smollm2", hf_model=model, tokenizer=tokenizer, device="cpu")
    names = lambda name: name.endswith(("hook_pattern", "hook_resid_pre"))  # noqa: E731
    ids = batch.inputs["input_ids"]
    with torch.no_grad():
        works = {
            "plain forward, 16 × 256": plain(subject, batch),
            "sinks + lenses without reads": observing(subject, batch),
            "TransformerLens run_with_cache, same sites": lambda: bridge.run_with_cache(ids, names_filter=names),
        }
        interleaved(works, 7)


def captions_of_scenes(count: int, start: int = 0, subject: Any = None) -> tuple[Any, Any]:
    """The subject `scenes` and a batch of teacher-forced true captions."""
    subject = subject or load("scenes", check=False)
    examples = open_task("scenes:kinds=caption").examples(subject.tokenizer, start + count, 0)[start:]
    return subject, subject.batch(with_answers(examples, {e.id: e.answer for e in examples}))


ROLES = ("special", "text", "question", "answer", "image")
DIVERGENCE = head_divergence.Options(ways=("dropped",), question="")


def bench_divergence() -> None:
    """VHD (image dropped) + sinks over 64 captions against plain teacher-forced forwards; the limit is 2.3."""
    subject, batch = captions_of_scenes(64)
    found = sinks.Options(dimensions=(507, 247), tau=17.4, roles=ROLES)
    riders = {"sinks": (sinks, found), "head_divergence": (head_divergence, DIVERGENCE)}
    works = {
        "plain forward, 64 captions": plain(subject, batch),
        "head_divergence": lambda: observe(subject, batch, {"head_divergence": riders["head_divergence"]}),
        "head_divergence + sinks": lambda: observe(subject, batch, riders),
    }
    interleaved(works, 7)


class Clock(LogitsProcessor):
    """Notes when each token's logits are there."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.stamps.append(perf_counter())
        return scores


def bench_repairs() -> None:
    """Seconds per decoded token (the prompt left out) under each repair, batch 1; the limit of VAR is 1.15."""
    subject = load("scenes", check=False)
    batch = subject.batch(open_task("scenes:kinds=caption").examples(subject.tokenizer, 1, 0), padding="left")
    repaired = {
        "plain": nullcontext,
        "VAR": lambda: repairs.var(subject, dimensions=(507, 247), tau=17.4),
        "ACT": lambda: repairs.act(subject),
        "VHR": lambda: repairs.vhr(subject),
    }
    seconds: dict[str, list[float]] = {name: [] for name in repaired}
    for turn in range(8):
        for name, opened in repaired.items():
            clock = Clock()
            with opened():
                subject.model.generate(
                    **batch.inputs, max_new_tokens=33, min_new_tokens=33, do_sample=False, logits_processor=[clock]
                )
            if turn:
                seconds[name].append(float(np.median(np.diff(clock.stamps))))
    for name, times in seconds.items():
        ratios = np.array(times) / np.array(seconds["plain"])
        low, high = np.quantile(ratios, [0.25, 0.75])
        print(f"  {name:44s}{np.median(times):8.4f} s   × {np.median(ratios):5.2f}   [{low:.2f}, {high:.2f}]")


def bench_divergence_memory() -> None:
    """High-water marks of head divergence over 1 and over 4 batches of 16 captions: the same but for the rows."""
    peaks = {}
    for batches in ("1", "4"):
        asked = [sys.executable, __file__, f"--peak=divergence{batches}"]
        done = subprocess.run(asked, capture_output=True, text=True, check=True)
        peaks[batches] = float(done.stdout.split()[-1])
        name = f"{batches} batches of 16 captions"
        print(f"  {name:44s}{peaks[batches]:8.0f} MB  × {peaks[batches] / peaks['1']:5.2f}")


def diverging(batches: int) -> None:
    """Head divergence over so many batches, one after the other, rows thrown away as a run writes them."""
    subject = load("scenes", check=False)
    for index in range(batches):
        _, batch = captions_of_scenes(16, 16 * index, subject)
        observe(subject, batch, {"head_divergence": (head_divergence, DIVERGENCE)})


def bench_memory() -> None:
    """High-water marks of fresh processes, plain against observing; the limit is 1.15."""
    peaks = {}
    for what in ("plain", "observing"):
        done = subprocess.run([sys.executable, __file__, f"--peak={what}"], capture_output=True, text=True, check=True)
        peaks[what] = float(done.stdout.split()[-1])
    for what, peak in peaks.items():
        print(f"  {what:44s}{peak:8.0f} MB  × {peak / peaks['plain']:5.2f}")


def peak_of(what: str) -> None:
    """In a process of its own: do the work once and print the high-water mark in MB."""
    if what.startswith("divergence"):
        diverging(int(what.removeprefix("divergence")))
    else:
        subject, batch = subject_and_batch()
        {"plain": plain, "observing": observing}[what](subject, batch)()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Run the benchmarks named on the command line, or all."""
    words = sys.argv[1:]
    if words and words[0].startswith("--peak="):
        peak_of(words[0].removeprefix("--peak="))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, bench in [(n.removeprefix("bench_"), f) for n, f in globals().items() if n.startswith("bench_")]:
        if not words or name in words:
            print((bench.__doc__ or name).splitlines()[0])
            bench()


if __name__ == "__main__":
    main()
