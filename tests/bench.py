"""Benchmarks: ratios to plain forwards in one run, medians of interleaved rounds with their spread.

    make bench          all
    python tests/bench.py observe lens memory transformerlens

Plain forward: the same batch through Hugging Face's SDPA, no cache, `logits_to_keep=1`, the same threads.
"""

from __future__ import annotations

import copy
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch
from crosslens import load
from crosslens.analyses import lenses, metrics, sinks
from crosslens.analyses.contrast import contrast
from crosslens.data import colored_objects, ioi, passages
from crosslens.probes.attention import NAME
from crosslens.probes.paths import path_sweep
from crosslens.probes.rows import observe
from crosslens.probes.trace import tracing

ROUNDS = 9
SINKS = sinks.Options(dimensions=(507, 247), tau=17.4)


def interleaved(works: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Time every work in turn, `rounds` times, and print each as a ratio to the first; returns the seconds."""
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
    return seconds


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


def bench_paths() -> None:
    """Path patching of all 270 heads to the output: its arithmetic floor, and the reference way (a 12-head sample)."""
    subject = load("smollm2", check=False)
    for task in (ioi, colored_objects):
        batch = subject.batch(task.examples(16, tokenizer=subject.tokenizer), bos=task.BOS)
        found = contrast(subject, batch, ("z",))
        floor = _path_floor(subject, batch.mask.shape[1])
        print(f"  {task.__name__.rpartition('.')[2]}, 16 × {batch.mask.shape[1]} tokens: floor {floor:.2f} forwards")
        sampled = [divmod(i, subject.n_heads) for i in range(0, 270, 23)]
        works = {
            "plain forward": plain(subject, batch),
            "path_sweep, all heads to the output": partial(
                path_sweep, subject, found.base, found.donor, measure=found.measure
            ),
            f"reference way, {len(sampled)} of 270 heads": partial(_reference, subject, found, sampled),
        }
        seconds = interleaved(works, 5)
        forward, ours, theirs = (np.median(t) for t in seconds.values())
        whole = theirs * 270 / len(sampled)
        print(
            f"  × floor {ours / forward / floor:.2f} (limit 1.5); reference way {whole / ours:.0f} × as long (limit 50)"
        )


def _path_floor(subject: Any, positions: int) -> float:
    """MLPs of every sender behind its own layer at one position, in forwards of so many tokens (multiplications)."""
    d, inner, layers = subject.d_model, subject.text_config.intermediate_size, subject.n_layers
    kv = subject.n_kv_heads * subject.d_head
    mlp, attention = 3 * d * inner, 2 * d * d + 2 * d * kv
    forward = positions * layers * (mlp + attention) + subject.model.lm_head.weight.numel()
    return subject.n_heads * layers * (layers + 1) / 2 * mlp / forward


def _reference(subject: Any, found: Any, heads: list[tuple[int, int]]) -> None:
    """The released way: for every sender a forward with hooks, all other heads frozen; and one to read the effect."""
    clean, donor = ([layer.site("z") for layer in run.layers] for run in (found.base, found.donor))
    for layer, head in heads:

        def freeze(i: int, layer: int = layer, head: int = head) -> Callable[[Any], Any]:
            def change(z: Any) -> Any:
                z = clean[i].clone()
                if i == layer:
                    z[:, :, head] = donor[i][:, :, head]
                return z

            return change

        with tracing(subject, rewrites={(i, "z"): freeze(i) for i in range(subject.n_layers)}):
            subject.forward(found.base.inputs)
        subject.forward(found.base.inputs)


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
