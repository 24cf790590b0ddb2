"""Layers, masks or the whole model on another device: every sweep and repair as on one, and no layer is waited for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from crosslens import (
    Subject,
    ablation_sweep,
    attribution_sweep,
    capture,
    causal_trace,
    knockout_sweep,
    patch_sweep,
    path_sweep,
    record,
    repairs,
)
from crosslens.analyses.repairs._act import act_effects
from crosslens.probes.intervene.direct_attribution import direct_attribution
from crosslens.probes.intervene.edge_attribution import edge_attribution
from crosslens.probes.intervene.intervening import full_forward, intervening
from crosslens.probes.intervene.interventions import Add, Clamp, Knockout, Patch, ProjectOut, Scale
from crosslens.probes.intervene.measures import kl, logit_difference, probability
from crosslens.probes.intervene.paths import Receiver
from crosslens.probes.intervene.sweep import intervention_sweep, variant_sweep
from crosslens.probes.model import anatomy
from crosslens.probes.model.attention import NAME
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.results import How, observe
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from ..helpers import by_hand, tiny
from ..helpers.elsewhere import ELSEWHERE, WAITS, Elsewhere, TwoDevices, fetching, move, move_whole

FAMILY, SITES = "llava", ("z", "resid_pre", "attn_out", "mlp_out")
MEASURE = logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))


class Asked:
    """What every kind is asked of: two batches, and masks of one of them, which may lie on any device."""

    def __init__(self, subject: Subject, place: torch.device) -> None:
        self.subject = subject
        self.given, self.other = (by_hand.inputs(FAMILY, "left", seed=seed) for seed in (0, 1))
        last = torch.zeros_like(self.given["attention_mask"], dtype=torch.bool)
        last[:, -1] = True
        self.mask, self.last, self.near, self.direction = (
            tensor.to(place)
            for tensor in (self.given["attention_mask"].bool(), last, last.roll(-2, 1), torch.arange(32.0) / 32)
        )

    def pair(self) -> tuple[Any, Any]:
        return tuple(record(self.subject, one, SITES) for one in (self.given, self.other))

    def swept(self, intervention: Any, *over: str) -> Tensor:
        return intervention_sweep(self.subject, self.given, intervention, measure=MEASURE, over=("layer", *over)).values

    def generated(self, repair: Any) -> Tensor:
        inputs = {name: tensor.to(self.subject.device) for name, tensor in self.given.items()}
        with torch.no_grad(), repair:
            return self.subject.model.generate(**inputs, max_new_tokens=3, do_sample=False, pad_token_id=0)


def patched(a: Asked) -> list[Tensor]:
    base, donor = a.pair()
    return [patch_sweep(a.subject, base, donor, site, positions=a.near, measure=MEASURE).values for site in SITES]


def ablated(a: Asked) -> list[Tensor]:
    base, _ = a.pair()
    asked = {"positions": a.near, "measure": MEASURE}
    return [ablation_sweep(a.subject, base, site, by=by, **asked).values for site in SITES for by in ("zero", "mean")]


def put(a: Asked) -> list[Tensor]:
    """Any variants; and the same in whole forwards."""
    base, donor = a.pair()
    puts = [{i: (Patch(site, a.near, donor.layers[i].site(site)),)} for i in range(3) for site in SITES]
    sweep = variant_sweep(base, puts, a.near, measure=MEASURE)
    slow = [a.subject.unembed(a.subject.norm(full_forward(base, variant))).cpu() for variant in puts]
    torch.testing.assert_close(
        sweep.values, torch.stack([MEASURE(one, torch.arange(3)) for one in slow]), atol=1e-4, rtol=1e-4
    )
    return [sweep.values]


def cut(a: Asked) -> list[Tensor]:
    base, donor = a.pair()
    asked = {"source": a.near, "target": a.last, "window": 2}
    read = (MEASURE, probability(torch.tensor([3, 4, 5])), kl(base.logits))
    return [
        *(knockout_sweep(a.subject, base, measure=measure, **asked).values for measure in read),
        knockout_sweep(a.subject, base, measure=MEASURE, replace=donor, **asked).values,
    ]


def paths(a: Asked) -> list[Tensor]:
    base, donor = a.pair()
    receivers = ("final", [Receiver(2, 1, "q"), Receiver(1, 0, "v")])
    asked = {"measure": MEASURE, "positions": a.mask}
    return [path_sweep(a.subject, base, donor, some, **asked).values for some in receivers]


def attributed(a: Asked) -> list[Tensor]:
    base, donor = a.pair()
    asked = {"measure": MEASURE, "steps": 2}
    sites = [attribution_sweep(a.subject, base, donor, site, positions=a.near, **asked).values for site in SITES]
    edges = edge_attribution(a.subject, base, donor, positions=a.mask, **asked).values
    return [*sites, edges, *direct_attribution(a.subject, base, MEASURE)]


def changed(a: Asked) -> list[Tensor]:
    return [
        a.swept(Add("resid_post", a.near, a.direction)),
        a.swept(lambda layer: ProjectOut("resid_pre", a.near, a.direction), "position"),
        a.swept(Scale("z", a.near, 0.5), "head"),
        a.swept(Clamp("mlp_post", a.near, 0.0, 0.1, units=(1, 2))),
        a.swept(Knockout(a.last, a.near)),
    ]


def held(a: Asked) -> list[Tensor]:
    """Interventions while a model generates."""
    inside = {1: (Add("resid_post", a.near, 9 * a.direction), Knockout(a.last, a.near))}
    return [a.generated(intervening(a.subject, inside, a.given, generated=True))]


def repaired(a: Asked) -> list[Tensor]:
    var, act = {"dimensions": (3, 5), "tau": 0.5}, {"heads": [(1, 0), (2, 1)], "threshold": 0.05}
    every = {"layers": [0, 1, 2]}
    return [
        a.generated(repairs.vhr(a.subject, **every)),
        a.generated(repairs.vhr(a.subject, image="masked", heads="spread", **every)),
        *(a.generated(repairs.var(a.subject, columns=columns, **var, **every)) for columns in ("sinks", "random")),
        *(a.generated(repairs.act(a.subject, columns=columns, **act)) for columns in ("sinks", "random")),
        *act_effects(a.subject, a.given, MEASURE, **act).values(),
    ]


def seen(a: Asked) -> list[Tensor]:
    found = capture(
        a.subject, a.given, ["pattern", "z", "resid_mid", "vision.z"], queries=a.mask.int().argmax(1)[:, None]
    )
    return [*found.values(), torch.tensor(a.subject.check()["passed"].astype(bool).tolist())]


def traced(a: Asked) -> list[Tensor]:
    return [causal_trace(a.subject, *a.pair(), measure=MEASURE).values]


KINDS = (patched, ablated, traced, put, cut, paths, attributed, changed, held, repaired, seen)
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))


def brought(model: Any, where: str) -> tuple[Subject, torch.device, Any]:
    """The subject, where its masks lie, and what it takes: one layer elsewhere, all of it, or its masks alone."""
    cpu, layers = torch.device("cpu"), anatomy.find_layers(anatomy.find_decoder(model), 3)
    if where == "a layer":
        move(layers[1])
        for module in (layers[0], layers[2], anatomy.final_norm(anatomy.find_decoder(model))):
            fetching(module, cpu)
    if where == "the model":
        move_whole(model)
    return Subject(model.to(where) if where == "cuda" else model), ELSEWHERE if where == "the masks" else cpu


@pytest.mark.parametrize("where", ["a layer", "the model", "the masks", CUDA])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_sweep_and_repair(kind: Callable[[Asked], list[Tensor]], where):
    expected = kind(Asked(Subject(by_hand.build(FAMILY)), torch.device("cpu")))
    model = by_hand.build(FAMILY).requires_grad_(False)
    with nullcontext() if where == "cuda" else TwoDevices():
        subject, place = brought(model, where)
        tensors = kind(Asked(subject, place))
        found = [tensor.inner if isinstance(tensor, Elsewhere) else tensor.cpu() for tensor in tensors]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4, equal_nan=True)


# --- no layer is waited for


def deep(layers: int) -> Subject:
    """A Llama of so many layers, all of it elsewhere."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=512, num_hidden_layers=layers, **shape)).requires_grad_(False)
    return Subject(move_whole(model), tiny.tokenizer())


def works(subject: Subject) -> dict[str, Callable[[], Any]]:
    """What runs layer by layer."""
    batch = subject.batch(tiny.examples(3, tokenizer=subject.tokenizer))
    twins = batch.inputs | {"input_ids": (batch.inputs["input_ids"] + 7) % 50 + 1}
    base, donor = (record(subject, one, ("z", "mlp_out")) for one in (batch, twins))
    last, near = batch.final, batch.final.roll(-2, 1)
    at, every = {"positions": last, "measure": MEASURE}, {"source": near, "target": last, "window": 2}
    row = {"row": (_Row(), How(None))}

    def watched() -> None:
        with tracing(subject, lambda layer: None):
            subject.forward(batch)

    return {
        "a forward": lambda: subject.forward(batch),
        "watched": watched,
        "observed": lambda: observe(subject, batch, row),
        "captured": lambda: capture(subject, batch, ["pattern", "z", "resid_mid"], queries=batch.last[:, None]),
        "recorded": lambda: record(subject, batch, ("z",)),
        "cut": lambda: knockout_sweep(subject, base, measure=MEASURE, **every),
        "resampled": lambda: knockout_sweep(subject, base, measure=MEASURE, replace=donor, **every),
        "patched heads": lambda: patch_sweep(subject, base, donor, "z", **at),
        "patched layers": lambda: patch_sweep(subject, base, donor, "resid_pre", **at),
        "ablated": lambda: ablation_sweep(subject, base, "mlp_out", by="mean", **at),
        "attributed": lambda: attribution_sweep(subject, base, donor, "z", **at),
        "paths": lambda: path_sweep(subject, base, donor, measure=MEASURE),
    }


class _Row:
    """An analysis of one row a layer."""

    @staticmethod
    def observe(layer: Any, batch: Any, how: Any) -> dict[str, Tensor]:
        return {"length": layer.resid_post.norm(dim=-1).amax(1)}


def test_no_layer_is_waited_for():
    """A GPU computes ahead of the program unless a number is asked for: as often in 3 layers as in 6."""
    counts = []
    with TwoDevices(), torch.no_grad():
        for layers in (3, 6):
            counts.append({})
            for name, work in works(deep(layers)).items():
                work()  # what is proved once
                WAITS.clear()
                work()
                counts[-1][name] = dict(WAITS)
    assert counts[0] == counts[1]
    assert counts[0]["a forward"] == counts[0]["watched"]


class Operations(TorchDispatchMode):
    """Counts what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.name()] += 1
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_an_opened_model_at_rest_computes_nothing_more(family):
    """The operations of a forward are those of Hugging Face's own SDPA."""
    subject, given = Subject(by_hand.build(family)), by_hand.inputs(family, "left")
    counted = []
    for implementation in ("sdpa", NAME):
        subject.text_config._attn_implementation = implementation
        with Operations() as operations:
            subject.forward(given)
        counted.append(operations.counts)
    assert counted[0] == counted[1]
