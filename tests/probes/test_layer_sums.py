"""A layer's sums are those of its materialised map, in every family, in decoder and vision tower, with any padding."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject
from crosslens.analyses import metrics
from crosslens.probes.observe import sums as sums_of_layers
from crosslens.probes.observe.sums import DIAGONALS, NOTHING
from crosslens.probes.observe.tracing import tracing

from ..helpers import tiny, vision
from ..helpers.families import TEXT, build, prompts


@pytest.fixture(autouse=True, params=["held", "one after the other"])
def maps_are(request, monkeypatch):
    """Small maps are held for all who ask, large ones made again."""
    if request.param != "held":
        monkeypatch.setattr(sums_of_layers, "SCORES_BUDGET", 0)


def near(found, expected, name, atol=2e-6):
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=atol, equal_nan=True, msg=lambda m: f"{name}: {m}")


def compared(layer, groups):
    """Every sum against the same of the whole map; rows that see no key aside."""
    pattern = layer.pattern()
    b, _, q, k = pattern.shape
    sums = layer.sums
    visible = torch.cat([call.allowed().any(1) for call in layer.calls], 1) if len(layer.calls) == 1 else None
    near(sums.entropy, metrics.attention_entropy(pattern), "entropy")
    near(sums.squares, pattern.square().sum(-1), "squares")
    near(sums.spread_over_heads, pattern.std(1, correction=0).sum(-1), "spread over heads")
    near(sums.head_mean_entropy, metrics.attention_entropy(pattern.mean(1, keepdim=True))[:, 0], "entropy of the mean")
    for distance in range(DIAGONALS):
        near(sums.diagonals[:, :, distance:, distance], pattern.diagonal(-distance, 2, 3), f"diagonal {distance}")
        assert not sums.diagonals[:, :, :distance, distance].any()
    columns = torch.rand(b, groups, k, generator=torch.Generator().manual_seed(0)) > 0.5
    mass = torch.einsum("bhqk,bgk->bhqg", pattern, columns.float())
    near(sums.mass(columns), mass, "mass")
    whole = torch.stack([columns[:, 0], ~columns[:, 0]], 1)
    near(sums.mass(whole).sum(-1), pattern.sum(-1), "groups that are all keys sum to the row")
    if visible is None:
        return
    uniform = metrics.uniform_pattern(visible.expand(b, -1, -1))
    near(
        sums.uniform_mass(columns).expand(b, -1, -1, -1), torch.einsum("bhqk,bgk->bhqg", uniform, columns.float()), "u"
    )
    first = visible.any(1).int().argmax(-1)
    rest = pattern.scatter(3, first.reshape(-1, 1, 1, 1).expand(b, pattern.shape[1], q, 1), 0.0)
    twin = rest / rest.sum(-1, keepdim=True)
    twin[rest.sum(-1) < NOTHING] = torch.nan
    near(sums.twin_entropy, metrics.attention_entropy(twin), "twin entropy", 1e-5)
    near(sums.twin_squares, twin.square().sum(-1), "twin squares")
    near(sums.twin_mass(columns), torch.einsum("bhqk,bgk->bhqg", twin, columns.float()), "twin mass")
    near(sums.mass_and_twin(columns)[0], mass, "mass beside its twin")


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("family", TEXT)
def test_sums_are_those_of_the_map(family, padding):
    subject, layers = Subject(build(family)), []

    def look(layer):
        layers.append(layer.index)
        compared(layer, 3)

    with torch.no_grad(), tracing(subject, look):
        subject.forward(prompts(padding))
    assert layers == [*range(subject.n_layers)]


@pytest.mark.parametrize("family", vision.VISION)
def test_in_the_tower_too(family):
    model = vision.build(family)
    subject, layers = Subject(model), []
    if subject.vision is None:
        pytest.skip("no vision tower")

    def look(layer):
        layers.append(layer.index)
        compared(layer, 2)

    with torch.no_grad(), tracing(subject, look, stack="vision"), tracing(subject, lambda layer: compared(layer, 2)):
        subject.forward(vision.inputs(model, "left"))
    assert layers


def test_more_groups_than_a_head_is_wide():
    subject = tiny.subject()
    batch = subject.batch(["w1 w2 w3 w4 w5", "w3 w1"])
    with torch.no_grad(), tracing(subject, lambda layer: compared(layer, 2 * subject.d_head + 1)):
        subject.forward(batch)


def test_half_precision_sums_in_float32():
    subject = Subject(build("llama").to(torch.bfloat16))
    with torch.no_grad(), tracing(subject, lambda layer: compared(layer, 2)):
        subject.forward(prompts("right"))


def test_sums_are_taken_once(monkeypatch):
    subject = tiny.subject()
    counted = []

    def look(layer):
        patterns = type(layer.attention).patterns
        monkeypatch.setattr(type(layer.attention), "patterns", lambda call: counted.append(1) or patterns(call))
        assert layer.sums.entropy.shape == layer.sums.squares.shape == layer.sums.first.shape
        assert layer.sums is layer.sums
        monkeypatch.undo()

    with torch.no_grad(), tracing(subject, look):
        subject.forward(subject.batch(["w1 w2 w3"]))
    assert len(counted) == subject.n_layers


def test_uniform_attention_gives_the_nulls():
    """Scores of 0: entropy ln n, Σ A² 1/n, every diagonal 1/n, mass n_g / n."""
    model = build("llama")
    for name, weight in model.named_parameters():
        if "q_proj" in name:
            weight.data.zero_()
    subject = Subject(model)

    def look(layer):
        seen, sums = layer.sums.seen.float(), layer.sums
        near(sums.entropy, seen.log().expand_as(sums.entropy), "entropy")
        near(sums.squares, (1 / seen).expand_as(sums.squares), "squares")
        near(sums.diagonals[..., 0], (1 / seen).expand_as(sums.first), "own key")
        near(sums.spread_over_heads, torch.zeros_like(sums.spread_over_heads), "heads are alike")
        columns = torch.ones(1, 1, 9, dtype=torch.bool).expand(3, -1, -1)
        near(sums.mass(columns), sums.uniform_mass(columns).expand(3, subject.n_heads, -1, -1), "mass")

    with torch.no_grad(), tracing(subject, look):
        subject.forward(prompts("none", lengths=(9, 9, 9)))
