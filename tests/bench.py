"""Benchmarks: ratios to plain forwards in one run, medians of interleaved rounds with their spread.

    make bench          all
    python tests/bench.py observe knockout      some: the functions `bench_…` below
    make bench-short    one limit, of a model at rest, in a few seconds; exit code 1 where it is not kept
    BENCH_ROUNDS=3 …                            fewer rounds

Plain forward: the same batch through Hugging Face's SDPA, no cache, `logits_to_keep=1`, the same threads.
"""

from __future__ import annotations

import copy
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import pandas as pd
import torch
from crosslens import Subject, knockout_sweep, load, patch_sweep, record
from crosslens.analyses import metrics
from crosslens.analyses.attention import attention_profile, sinks
from crosslens.analyses.attention._modality_rows import shares
from crosslens.analyses.common.contrast import contrast
from crosslens.analyses.common.descent import Descent, frozen
from crosslens.analyses.flow import head_divergence, routes
from crosslens.analyses.flow._route_rows import route_rows
from crosslens.analyses.lenses import _attention_lens, _tuned_lens, lenses
from crosslens.analyses.neurons import neurons
from crosslens.analyses.redundancy import redundancy
from crosslens.analyses.repairs import repairs
from crosslens.analyses.steered import lofit
from crosslens.analyses.steered._lofit_training import Prompts, learned_scales
from crosslens.data.tasks import colored_objects, ioi, open_task, passages
from crosslens.probes.intervene.attribution import frozen_weights
from crosslens.probes.intervene.edge_ablation import edge_sweep
from crosslens.probes.intervene.edge_attribution import edge_attribution
from crosslens.probes.intervene.edge_graph import possible_edges
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.paths import Receiver, path_sweep
from crosslens.probes.model.attention import NAME
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.answers import with_answers
from crosslens.probes.runs.results import How, observe
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))
SINKS = How(sinks.Options(), sinks.Learned((507, 247), 17.4))


def interleaved(
    works: dict[str, Callable[[], Any]], rounds: int = ROUNDS, clock: Callable[[], float] = perf_counter
) -> dict[str, list[float]]:
    """Time every work in turn, `rounds` times, and print each as a ratio to the first; returns the seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            start = clock()
            work()
            seconds[name].append(clock() - start)
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

    observe = staticmethod(lenses.observe)


def observing(subject: Any, batch: Any) -> Callable[[], Any]:
    """Both analyses on one forward, lens reads left out."""
    riders = {"sinks": (sinks, SINKS), "lenses": (WithoutReads, How(lenses.Options()))}
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


def bench_attention() -> None:
    """What the analyses of attention take from one forward of 16 × 256 tokens; the limit of all together is 1.5."""
    subject, batch = subject_and_batch()
    profile = How(attention_profile.Options(maps=False))
    takers: dict[str, Callable[[Any], Any]] = {
        "sums alone": lambda layer: layer.sums.entropy,
        "modality": lambda layer: shares(layer, batch),
        "attention_profile without maps": lambda layer: attention_profile.observe(layer, batch, profile),
        "sinks": lambda layer: sinks.observe(layer, batch, SINKS),
        "redundancy": lambda layer: redundancy.observe(layer, batch, How(redundancy.Options())),
    }

    def riding(names: Collection[str]) -> None:
        with torch.no_grad(), tracing(subject, lambda layer: [takers[name](layer) for name in names]):
            subject.forward(batch)

    works: dict[str, Callable[[], Any]] = {"plain forward, 16 × 256": plain(subject, batch)}
    works |= {name: partial(riding, [name]) for name in takers} | {"all of them": partial(riding, list(takers))}
    interleaved(works, min(ROUNDS, 5))


def bench_neurons() -> None:
    """What `neurons` counts on 16 × 256 tokens; the limit is 1.25."""
    subject, batch = subject_and_batch()
    label = {"label": "English"}
    labelled = replace(batch, examples=[replace(example, meta=label) for example in batch.examples])

    how = How(neurons.Options(), neurons.Learned(["English", "French"]))

    def counting() -> None:
        with torch.no_grad(), tracing(subject, lambda layer: neurons.observe(layer, labelled, how)):
            subject.forward(batch)

    interleaved({"plain forward, 16 × 256": plain(subject, batch), "neurons": counting}, min(ROUNDS, 5))


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


def bench_learning() -> None:
    """One step of learning a lens on 256 positions, in plain unembeddings of as many; both read kept activations."""
    subject = load("smollm2", check=False)
    z, states, final = (torch.randn(256, *shape) for shape in ((9, 64), (576,), (576,)))
    weight = subject.model.lm_head.weight
    step = Descent(1, 256, 1e-3)
    nowhere = Path("no-checkpoint")
    works = {
        "plain unembedding, 256 positions": lambda: torch.no_grad()(lambda: states @ weight.T)(),
        "Attention Lens, start and one step": lambda: _attention_lens.train(subject, 15, z, final, step, nowhere),
        "tuned lens, ridge and one step": lambda: _tuned_lens.train(subject, 15, states, final, "ridge", step, nowhere),
    }
    interleaved(works, 7)


def bench_lofit() -> None:
    """One step of LoFiT's first stage on 8 prompts, in forwards with a way back to the first layer; limit 1.5."""
    subject = load("smollm2", check=False)
    prompts = Prompts(ioi.examples(n=8, tokenizer=subject.tokenizer), {"template": "raw"})
    start = {(0, "resid_pre"): lambda x: x.detach().requires_grad_()}

    def forward_and_back() -> None:
        batch = prompts.batch(subject, range(8))
        with frozen(subject.model), tracing(subject, rewrites=start):
            logits = subject.logits_at(batch, batch.last, gradient=True)
        torch.nn.functional.cross_entropy(logits, batch.answers).backward()

    works = {
        "forward and backward, 8 prompts": forward_and_back,
        "LoFiT, one step of scales": lambda: learned_scales(subject, prompts, lofit.Options(steps=1), 0),
    }
    interleaved(works)


def bridge_of(subject: Any) -> Any:
    """TransformerLens on the same weights."""
    from transformer_lens.model_bridge import TransformerBridge

    model = copy.deepcopy(subject.model)
    model.config.architectures = [type(model).__name__]
    tokenizer = copy.deepcopy(subject.tokenizer)
    return TransformerBridge.boot_transformers("smollm2", hf_model=model, tokenizer=tokenizer, device="cpu")


def bench_transformerlens() -> None:
    """TransformerLens' run_with_cache of the sites that `sinks` reads, beside capture-free observation."""
    subject, batch = subject_and_batch()
    bridge = bridge_of(subject)
    names = lambda name: name.endswith(("hook_pattern", "hook_resid_pre"))  # noqa: E731
    ids = batch.inputs["input_ids"]
    with torch.no_grad():
        works = {
            "plain forward, 16 × 256": plain(subject, batch),
            "sinks + lenses without reads": observing(subject, batch),
            "TransformerLens run_with_cache, same sites": lambda: bridge.run_with_cache(ids, names_filter=names),
        }
        interleaved(works, min(ROUNDS, 7))


def long_prompt() -> tuple[Any, dict[str, Any], dict[str, torch.Tensor]]:
    """A random Llama of SmolLM2's shape, and a LLaVA-like prompt: 620 tokens, 576 of them image, 23 question."""
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    config = LlamaConfig(vocab_size=49152, num_key_value_heads=3, tie_word_embeddings=True, **shape)
    torch.manual_seed(0)
    subject = Subject(LlamaForCausalLM(config))
    place = torch.arange(620)[None]
    roles = {"image": (place >= 5) & (place < 581), "question": (place >= 581) & (place < 604), "last": place == 619}
    ids = torch.randint(49152, (1, 620))
    return subject, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, roles


def bench_knockout() -> None:
    """30 windows of one flow, 620 tokens, beside the clean pass; limits: 0.3 to the last position, 1.5 to 23 rows."""
    subject, inputs, roles = long_prompt()
    base, measure = record(subject, inputs), logit_difference(torch.tensor([5]), torch.tensor([6]))

    def sweep(source: str, target: str) -> Callable[[], Any]:
        return lambda: knockout_sweep(subject, base, roles[source], roles[target], window=9, measure=measure)

    works = {
        "plain forward, 1 × 620": plain(subject, inputs),
        "clean pass, recorded": lambda: record(subject, inputs),
        "30 windows, image → last": sweep("image", "last"),
        "30 windows, question → last": sweep("question", "last"),
        "30 windows, image → question": sweep("image", "question"),
    }
    interleaved(works)


def bench_patching() -> None:
    """All 270 heads at the last position, 64 prompts, reading two logits; the limit is 1.5 times the floor."""
    subject = load("smollm2", check=False)
    for task in (ioi, colored_objects):
        examples = task.examples(n=64, seed=0, tokenizer=subject.tokenizer)
        same = max({len(e.text.split()) for e in examples}, key=[len(e.text.split()) for e in examples].count)
        examples = [e for e in examples if len(e.text.split()) == same]
        batch = subject.batch(examples, bos=task.BOS)
        twins = subject.batch([e.corrupt for e in examples], bos=task.BOS)
        measure, last = logit_difference(batch.answers, batch.wrong), batch.final
        positions = int(batch.mask.sum()) / len(examples)
        layers = subject.n_layers
        floor = layers * subject.n_heads * (layers + 1) / 2 / layers / positions
        name = task.__name__.rpartition(".")[2]
        print(f"  {name}: {len(examples)} prompts of {positions:.1f} tokens; arithmetic floor {floor:.2f} forwards")
        base, donor = record(subject, batch, ["z"]), record(subject, twins, ["z"])
        sweep = partial(patch_sweep, subject, base, donor, "z", positions=last, measure=measure)
        works = {"plain forward": plain(subject, batch), "270 heads, last position": sweep}
        works |= {"TransformerLens, 9 of the 270": _transformerlens_heads(subject, batch, twins)} if task is ioi else {}
        interleaved(works, min(ROUNDS, 7))


def _transformerlens_heads(subject: Any, batch: Any, twins: Any) -> Callable[[], Any]:
    """`get_act_patch_attn_head_out_by_pos` at the last position, heads of one layer; prompts are as long."""
    from transformer_lens.patching import generic_activation_patch, layer_pos_head_vector_patch_setter

    bridge = bridge_of(subject)
    ids, donors, last = batch.inputs["input_ids"], twins.inputs["input_ids"], batch.inputs["input_ids"].shape[1] - 1
    rows = torch.arange(len(ids))
    heads = [(subject.n_layers // 2, last, head) for head in range(subject.n_heads)]

    def difference(logits: torch.Tensor) -> torch.Tensor:
        return (logits[rows, last, batch.answers] - logits[rows, last, batch.wrong]).mean()

    def work() -> None:
        _, cache = bridge.run_with_cache(donors, names_filter=lambda name: name.endswith("attn.hook_z"))
        index = pd.DataFrame(heads, columns=["layer", "pos", "head"])
        setter = layer_pos_head_vector_patch_setter
        generic_activation_patch(bridge, ids, cache, difference, setter, "z", index_df=index)

    return torch.no_grad()(work)


def bench_batches() -> None:
    """Attention output of 30 layers at the last position, 8, 64 and 256 IOI prompts at a time: flat per example."""
    subject, measured = load("smollm2", check=False), {}
    for n in (8, 64, 256):
        batch = subject.batch(ioi.examples(n=n, seed=0, tokenizer=subject.tokenizer), bos=ioi.BOS)
        twins = subject.batch([e.corrupt for e in batch.examples], bos=ioi.BOS)
        base, donor = record(subject, batch, ["attn_out"]), record(subject, twins, ["attn_out"])
        measure = logit_difference(batch.answers, batch.wrong)
        sweep = partial(patch_sweep, subject, base, donor, "attn_out", positions=batch.final, measure=measure)
        # As many repetitions of the smaller batches as make the same number of prompts.
        measured[f"256 prompts, {n} at a time"] = partial(_repeat, sweep, 256 // n)
    interleaved(measured, min(ROUNDS, 3))


def _repeat(work: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        work()


def captions_of_scenes(count: int, start: int = 0, subject: Any = None) -> tuple[Any, Any]:
    """The subject `scenes` and a batch of teacher-forced true captions."""
    subject = subject or load("scenes", check=False)
    examples = open_task("scenes:kinds=caption").examples(subject.tokenizer, start + count, 0)[start:]
    return subject, subject.batch(with_answers(examples, {e.id: e.answer for e in examples}))


ROLES = ("special", "text", "question", "answer", "image")
DIVERGENCE = How(head_divergence.Options(ways=("dropped",), question=""))


def bench_divergence() -> None:
    """VHD (image dropped) + sinks over 64 captions against plain teacher-forced forwards; the limit is 2.3."""
    subject, batch = captions_of_scenes(64)
    found = How(sinks.Options(roles=ROLES), sinks.Learned((507, 247), 17.4))
    riders = {"sinks": (sinks, found), "head_divergence": (head_divergence, DIVERGENCE)}
    works = {
        "plain forward, 64 captions": plain(subject, batch),
        "head_divergence": lambda: observe(subject, batch, {"head_divergence": riders["head_divergence"]}),
        "head_divergence + sinks": lambda: observe(subject, batch, riders),
    }
    interleaved(works, min(ROUNDS, 7))


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
        seconds = interleaved(works, min(ROUNDS, 5))
        forward, ours, theirs = (np.median(t) for t in seconds.values())
        whole = theirs * 270 / len(sampled)
        print(
            f"  × floor {ours / forward / floor:.2f} (limit 1.5); reference way {whole / ours:.0f} × as long (limit 50)"
        )


def bench_receivers() -> None:
    """Path patching into one head's query at the last position, in its arithmetic floor; the limit is 1.5."""
    subject = load("smollm2", check=False)
    batch = subject.batch(ioi.examples(4, tokenizer=subject.tokenizer), bos=ioi.BOS)
    found, layer = contrast(subject, batch, ("z",)), subject.n_layers // 2
    floor = _path_floor(subject, batch.mask.shape[1], layer)
    print(f"  4 × {batch.mask.shape[1]} tokens, receivers in layer {layer}: floor {floor:.2f} forwards")
    asked: dict[str, Any] = {"measure": found.measure, "positions": found.base.final}
    works: dict[str, Callable[[], Any]] = {"plain forward": plain(subject, batch)}
    works[f"path_sweep into the query of {layer}.0"] = partial(
        path_sweep, subject, found.base, found.donor, [Receiver(layer, 0, "q")], **asked
    )
    forward, ours = (np.median(t) for t in interleaved(works, min(ROUNDS, 5)).values())
    print(f"  × floor {ours / forward / floor:.2f} (limit 1.5)")


def bench_edges() -> None:
    """Every edge by five gradients, in pairs of a forward and a backward; a circuit of edges run for real."""
    subject = load("smollm2", check=False)
    batch = subject.batch(ioi.examples(16, tokenizer=subject.tokenizer), bos=ioi.BOS)
    found = contrast(subject, batch)
    asked: dict[str, Any] = {"measure": found.measure}
    works = {
        "a forward and a backward": partial(_with_backward, subject, batch),
        "edge_attribution, 5 steps": partial(edge_attribution, subject, found.base, found.donor, **asked, steps=5),
        "edge_sweep, 3 circuits": partial(
            edge_sweep, subject, found.base, found.donor, [possible_edges(found.base).tril()] * 3, **asked
        ),
    }
    pair, five, circuits = (np.median(t) for t in interleaved(works, min(ROUNDS, 5)).values())
    print(f"  five steps × {five / pair:.1f} pairs (limit 12); a circuit × {circuits / 5 / pair:.2f} pairs, proofs too")


def bench_routes() -> None:
    """The route of a prompt and its control, in forwards of the same prompts; the limit is 3 a prompt."""
    subject = load("smollm2", check=False)
    batch = subject.batch(ioi.examples(16, tokenizer=subject.tokenizer), bos=ioi.BOS)
    works = {
        "plain forward": plain(subject, batch),
        "routes and their control": partial(route_rows, subject, batch, routes.Options(causal=False)),
    }
    forward, found = (np.median(t) for t in interleaved(works, min(ROUNDS, 5)).values())
    print(f"  × {found / forward:.1f} forwards, for two routes a prompt")


def _with_backward(subject: Any, batch: Any) -> None:
    """The gradient of all last logits at the embeddings, weights frozen."""
    inputs = dict(batch.inputs)
    embedded = subject.model.get_input_embeddings()(inputs.pop("input_ids")).detach().requires_grad_()
    with frozen_weights(subject.model):
        subject.model(inputs_embeds=embedded, use_cache=False, **inputs).logits[:, -1].sum().backward()


def _path_floor(subject: Any, positions: int, receiver: int | None = None) -> float:
    """MLPs of every sender behind its own layer at one position, in forwards of so many tokens (multiplications);
    into a receiver's layer those before it alone, and behind it whole layers.
    """
    d, inner, layers = subject.d_model, subject.text_config.intermediate_size, subject.n_layers
    kv = subject.n_kv_heads * subject.d_head
    mlp, attention = 3 * d * inner, 2 * d * d + 2 * d * kv
    forward = positions * layers * (mlp + attention) + subject.model.lm_head.weight.numel()
    before = layers if receiver is None else receiver
    behind = before * (layers - before) * (mlp + attention)
    return subject.n_heads * (before * (before + 1) / 2 * mlp + behind) / forward


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


# What a forward may cost through an opened subject that nobody observes, in plain forwards.
AT_REST = 1.05


def at_rest(rounds: int = 15, tries: int = 3) -> int:
    """A few random layers of SmolLM2's shape on one thread; 0 if the limit is kept.

    Least processor time of interleaved rounds: others on the machine make rounds longer, never shorter.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    subject = Subject(LlamaForCausalLM(LlamaConfig(vocab_size=512, num_hidden_layers=4, **shape)))
    ids = torch.randint(512, (2, 128))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    works = plain(subject, batch), lambda: subject.forward(batch)
    for _ in range(tries):
        least = [min(times) for times in zip(*(map(_processor_time, works) for _ in range(rounds)), strict=True)]
        print(f"through crosslens, nobody watching: × {least[1] / least[0]:.3f} of a plain forward (limit {AT_REST})")
        if least[1] <= AT_REST * least[0]:
            return 0
    return 1


def _processor_time(work: Callable[[], Any]) -> float:
    start = process_time()
    work()
    return process_time() - start


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
    if words == ["--short"]:
        sys.exit(at_rest())
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, bench in [(n.removeprefix("bench_"), f) for n, f in globals().items() if n.startswith("bench_")]:
        if not words or name in words:
            print((bench.__doc__ or name).splitlines()[0])
            bench()


if __name__ == "__main__":
    main()
