"""Path patching equals the reference way: two eager forwards per sender, with hooks."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject, capture
from crosslens.data.errors import InterventionError, UserError
from crosslens.data.tasks import ioi
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.paths import Receiver, path_sweep
from crosslens.probes.intervene.recording import record

from ..helpers import by_hand, planted
from ..helpers.by_hand import FAMILIES, at_last
from .test_sweep import close, whole_logits

HEADS = [(0, 0), (0, 3), (1, 2), (2, 1)]


def pair(family, padding):
    given, other = by_hand.inputs(family, padding), by_hand.inputs(family, padding, seed=1)
    subject = Subject(by_hand.build(family))
    z = [capture(subject, one, ["z"]) for one in (given, other)]
    return subject, given, other, [[one[f"blocks.{i}.attn.hook_z"] for i in range(3)] for one in z]


def frozen(clean, donor, layer, head):
    """Every head's z as in the clean run, but the sender's."""

    def freeze(i):
        def change(z):
            z = clean[i].clone().reshape(z.shape)
            if i == layer:
                z[:, :, head] = donor[i][:, :, head]
            return z

        return change

    return {i: freeze(i) for i in range(len(clean))}


@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_sender_to_the_final_residual(family, mlps):
    subject, given, other, (clean, donor) = pair(family, "left" if mlps == "frozen" else "right")
    sweep = path_sweep(subject, given, other, measure=whole_logits, mlps=mlps)
    kept = record(subject, given, ["mlp_out"])
    still = {(i, "mlp_out"): lambda x, i=i: kept.layers[i].site("mlp_out").reshape(x.shape) for i in range(3)}
    outputs = still if mlps == "frozen" else {}
    for layer, head in HEADS:
        expected = by_hand.logits(family, given, z=frozen(clean, donor, layer, head), outputs=outputs)
        close(sweep.values[layer, head], at_last(expected, given))


def by_two_runs(family, given, z, receivers, where):
    """The reference: the first run says what the receivers hear, the second one is clean but for that."""
    heard = {}

    def listening(i):
        def read(query, key, value):
            heard[i] = {"q": query, "k": key, "v": value}
            return query, key, value

        return read

    by_hand.logits(family, given, z=z, reads={i: listening(i) for i in range(3)})

    def hearing(i):
        def read(*parts):
            named = {name: part.clone() for name, part in zip("qkv", parts, strict=True)}
            for layer, head, part in receivers:
                if layer == i:
                    named[part][:, head][where] = heard[i][part][:, head][where]
            return named["q"], named["k"], named["v"]

        return read

    return at_last(by_hand.logits(family, given, reads={r.layer: hearing(r.layer) for r in receivers}), given)


RECEIVERS = {
    "queries": [Receiver(2, 1, "q"), Receiver(1, 3, "q")],
    "keys": [Receiver(2, 0, "k")],
    "values": [Receiver(1, 1, "v"), Receiver(2, 3, "v")],
    "all": [Receiver(1, 0, "q"), Receiver(1, 0, "k"), Receiver(2, 2, "v"), Receiver(2, 3, "q")],
}


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("kind", RECEIVERS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_neox", "qwen3", "opt"])
def test_every_sender_to_heads(family, kind, padding):
    subject, given, other, (clean, donor) = pair(family, padding)
    mask = given["attention_mask"].bool()
    last = torch.zeros_like(mask).scatter(1, (mask * torch.arange(mask.shape[1])).argmax(1)[:, None], True)
    for where in (mask, last) if kind == "queries" else (mask,):
        positions = None if where is mask else where
        sweep = path_sweep(subject, given, other, RECEIVERS[kind], measure=whole_logits, positions=positions)
        for layer, head in HEADS:
            z = frozen(clean, donor, layer, head)
            close(sweep.values[layer, head], by_two_runs(family, given, z, RECEIVERS[kind], where))
        close(sweep.values[2, 0], sweep.clean)


def test_a_small_budget_changes_nothing():
    subject, given, other, _ = pair("llama", "left")
    correct, wrong = torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8])
    kwargs = {"measure": logit_difference(correct, wrong)}
    for receivers in ("final", RECEIVERS["all"]):
        whole = path_sweep(subject, given, other, receivers, **kwargs)
        chunked = path_sweep(subject, given, other, receivers, **kwargs, budget=50_000)
        torch.testing.assert_close(whole.values, chunked.values, atol=1e-5, rtol=1e-5)


def test_mistakes_are_one_line():
    subject, given, other, _ = pair("llama", "right")
    kwargs = {"measure": logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))}
    with pytest.raises(UserError, match="equal the base"):
        path_sweep(subject, given, given, **kwargs)
    with pytest.raises(UserError, match="differ in length"):
        path_sweep(subject, given, by_hand.inputs("llama", "right", lengths=(8, 7, 5)), **kwargs)
    with pytest.raises(UserError, match="no receiver"):
        path_sweep(subject, given, other, [Receiver(3, 0, "q")], **kwargs)
    with pytest.raises(UserError, match="receivers 'logits'"):
        path_sweep(subject, given, other, "logits", **kwargs)
    with pytest.raises(UserError, match="mlps"):
        path_sweep(subject, given, other, mlps="gone", **kwargs)


EVERY = [Receiver(1, head, part) for head in (0, 1) for part in "qkv"]


def edges(subject):
    """Mean effect of every sender on every receiver, "final" included: {(sender, receiver): effect}."""
    base, donor, answers, others = planted.prompts()
    measure = logit_difference(answers, others)
    found = {}
    for receiver in ["final", *EVERY]:
        kwargs = {} if receiver == "final" else {"receivers": [receiver]}
        try:
            sweep = path_sweep(subject, base, donor, measure=measure, **kwargs)
        except InterventionError:  # nobody moves anything there
            continue
        effects = (sweep.values - sweep.clean).mean(-1)
        for layer, head in ((0, 0), (0, 1), (1, 0), (1, 1)):
            found[(layer, head), receiver] = float(effects[layer, head])
    return found


def test_a_planted_induction_circuit_is_found_and_nothing_else():
    subject = planted.induction_model()
    base, _, answers, _ = planted.prompts()
    assert (subject.last_logits(base).argmax(-1) == answers).all()
    found = edges(subject)
    there = {edge for edge, effect in found.items() if abs(effect) > 1e-4}
    assert there == {((0, 0), Receiver(1, 0, "k")), ((1, 0), "final")}
    assert all(found[edge] < -1 for edge in there)


def test_nothing_is_found_where_nothing_was_planted():
    assert {
        edge for edge, effect in edges(planted.induction_model(planted=False)).items() if abs(effect) > 1e-4
    } == set()


@pytest.mark.real
def test_smollm2_equals_the_reference(smollm2):
    """12 heads drawn at random: exact effects and paths to the output, one plain forward each."""
    from crosslens.analyses.common.contrast import contrast
    from crosslens.probes.intervene.patching import patch_sweep
    from crosslens.probes.observe.tracing import tracing

    examples = ioi.examples(3, tokenizer=smollm2.tokenizer)
    batch = smollm2.batch(examples, bos=ioi.BOS, padding="left")
    found = contrast(smollm2, batch)
    rows, everywhere = torch.arange(3), batch.mask
    clean, donor = ([layer.site("z") for layer in run.layers] for run in (found.base, found.donor))
    exact = patch_sweep(smollm2, found.base, found.donor, "z", positions=everywhere, measure=found.measure)
    direct = path_sweep(smollm2, found.base, found.donor, measure=found.measure)
    for place in torch.randperm(270, generator=torch.Generator().manual_seed(0))[:12].tolist():
        layer, head = divmod(place, 9)

        def change(z, layer=layer, head=head):
            z = z.clone()
            z[:, :, head] = donor[layer][:, :, head]
            return z

        for sweep, rewrites in (
            (exact, {(layer, "z"): change}),
            (direct, {(i, "z"): f for i, f in frozen(clean, donor, layer, head).items()}),
        ):
            with tracing(smollm2, rewrites=rewrites):
                expected = found.measure(smollm2.last_logits(batch), rows)
            torch.testing.assert_close(sweep.values[layer, head], expected, atol=1e-4, rtol=0)
