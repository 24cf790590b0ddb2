"""Coordinates of what writers say: their attributions are those of the edges, their circuits plain hooks'."""

from __future__ import annotations

import pytest
import torch
from crosslens.data.errors import UserError
from crosslens.probes.intervene.edge_ablation import edge_sweep
from crosslens.probes.intervene.edge_attribution import edge_attribution
from crosslens.probes.intervene.edge_graph import every_writer, possible_edges
from crosslens.probes.intervene.unit_attribution import unit_attribution
from crosslens.probes.observe.tracing import tracing

from .test_edge_activations import FAMILIES, recorded_twins
from .test_edge_rows import MEASURE


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_writers_coordinates_add_up_to_its_edges(family, padding):
    subject, base, donor = recorded_twins(family, padding)
    units = unit_attribution(subject, base, donor, measure=MEASURE, steps=2)
    edges = edge_attribution(subject, base, donor, measure=MEASURE, steps=2).values.nansum((0, 2))
    assert units.shape == (subject.d_model, len(edges))
    torch.testing.assert_close(units.sum(0), edges, atol=1e-5 * float(edges.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "phi"])
def test_all_coordinates_of_some_writers_are_all_their_edges(family):
    subject, base, donor = recorded_twins(family)
    possible = possible_edges(base)
    some = torch.rand(possible.shape[1], generator=torch.Generator().manual_seed(0)) < 0.5
    edges = edge_sweep(subject, base, donor, [some[None].expand(len(possible), -1)], measure=MEASURE)
    units = edge_sweep(subject, base, donor, [some[None].expand(subject.d_model, -1)], measure=MEASURE, units=True)
    torch.testing.assert_close(units.values, edges.values, atol=1e-5, rtol=1e-4)
    assert (units.values - units.clean).abs().max() > 1e-3


def test_some_coordinates_of_one_mlp_are_a_hook_on_it():
    subject, base, donor = recorded_twins("llama")
    lost = torch.arange(subject.d_model) % 3 == 0
    kept = torch.ones(subject.d_model, len(list(every_writer(base))), dtype=torch.bool)
    place = next(i for i, writer in enumerate(every_writer(base)) if writer.kind == "mlp" and writer.layer == 1)
    kept[lost, place] = False
    said = donor.layers[1].site("mlp_out")
    with tracing(subject, rewrites={(1, "mlp_out"): lambda own: own.where(~lost, said.to(own))}):
        logits = subject.logits_at(base.inputs, base.last).float()
    sweep = edge_sweep(subject, base, donor, [kept], measure=MEASURE, units=True)
    torch.testing.assert_close(sweep.values[0], MEASURE(logits, torch.arange(len(logits))), atol=1e-5, rtol=1e-4)


def test_a_circuit_of_another_shape_is_told():
    subject, base, donor = recorded_twins("llama")
    with pytest.raises(UserError, match=r"a circuit of \d+ units × \d+ writers"):
        edge_sweep(subject, base, donor, [possible_edges(base)[:5]], measure=MEASURE, units=True)
