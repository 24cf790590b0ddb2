"""A dictionary of a site: states written as few directions each (a sparse autoencoder of the TopK kind).

encode(x) = the k largest of relu((x − b_dec) · W_enc + b_enc), decode(f) = f · W_dec + b_dec, as in arXiv 2406.04093
(TopK, -style). Whatever else has `encode` and `decode` of these shapes (a model of sae-lens, say) can stand for one in
`Ways`. On disk: safetensors and JSON, ours in the cache or sae-lens' cfg.json and sae_weights.safetensors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...data.errors import UserError
from ...probes.model.stack import DECODER
from ...probes.observe.capture import parse_site
from ...probes.runs import costs, lens_store

WHAT = "dictionary"
WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")


@dataclass(frozen=True, eq=False, repr=False)
class Dictionary:
    """site: a full name, "blocks.15.hook_resid_post". k: how many features a state has at most."""

    site: str
    k: int
    W_enc: Float[Tensor, "d feature"]
    b_enc: Float[Tensor, "feature"]
    W_dec: Float[Tensor, "feature d"]
    b_dec: Float[Tensor, "d"]

    def encode(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n feature"]:
        """Activations ≥ 0 of every feature, at most k of them above 0; float32."""
        W_enc, b_enc, b_dec = (tensor.to(x.device) for tensor in (self.W_enc, self.b_enc, self.b_dec))
        return largest((x.float() - b_dec) @ W_enc + b_enc, self.k)

    def decode(self, activations: Float[Tensor, "*n feature"]) -> Float[Tensor, "*n d"]:
        """The state that activations stand for."""
        return activations @ self.W_dec.to(activations.device) + self.b_dec.to(activations.device)

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in WEIGHTS}


def largest(values: Float[Tensor, "*n feature"], k: int) -> Float[Tensor, "*n feature"]:
    """The k largest values of a row where they are above 0, all others 0. With gradient."""
    top = values.relu().topk(min(k, values.shape[-1]), -1)
    return torch.zeros_like(values).scatter(-1, top.indices, top.values)


def site_of(subject: Any, asked: str) -> str:
    """The full name of a dictionary's site; by default what leaves the middle layer.

    UserError: unknown, of all layers, of a vision tower, of heads, or one that cannot be changed.
    """
    name = asked or f"blocks.{subject.n_layers // 2}.hook_resid_post"
    place = parse_site(subject, name)
    if place.layer is None or place.stack != DECODER or len(place.site.axes) != 3 or not place.site.writable:
        raise UserError(
            f"--dictionaries.site {name}: one place of one decoder layer is needed that has no heads and can be "
            f"changed, as blocks.{subject.n_layers // 2}.hook_resid_post"
        )
    subject.decoder.require(place.layer, place.site)
    return name


def open_dictionary(subject: Any, name: str, asked: str = "") -> tuple[Dictionary, dict[str, Any]]:
    """A dictionary by its name in the cache or its directory (ours or sae-lens'), and its record ({} of sae-lens).

    asked: the site that it should read, "" for its own. UserError: not there, of another model, site or width.
    """
    if (Path(name) / "cfg.json").is_file():
        found, record = from_sae_lens(Path(name)), {}
    else:
        weights, record = lens_store.read(name, subject, WEIGHTS, WHAT)
        found = Dictionary(record["site"], record["k"], **weights)
    site, width = site_of(subject, found.site), len(found.b_dec)
    if asked and asked != site:
        raise UserError(f"dictionary {Path(name).name} is of {site}, not of {asked}: leave --dictionaries.site out")
    place = parse_site(subject, site)
    if width != (own := costs.width(subject, place.site.name)):
        raise UserError(
            f"dictionary {Path(name).name} is of states {width} wide; {subject.name} has {own} at {site}: learn one "
            "for this model (leave --dictionaries.dictionary out)"
        )
    return found, record


def from_sae_lens(directory: Path) -> Dictionary:
    """What sae-lens saved (6.x: cfg.json, sae_weights.safetensors), read without the library.

    UserError: another kind than "topk" and "standard" (all features that are above 0), states that it normalises
    first, a site that it does not name in TransformerLens' way.
    """
    try:
        config = json.loads((directory / "cfg.json").read_text("utf-8"))
        weights = load_file(directory / "sae_weights.safetensors")
        told = config.get("metadata") or config.get("meta") or config
        kind, site, made = config["architecture"], told["hook_name"], [weights[name].float() for name in WEIGHTS]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{directory} cannot be read as a dictionary of sae-lens: {error!r}") from error
    if kind not in ("topk", "standard") or config.get("normalize_activations", "none") != "none":
        raise UserError(
            f"{directory.name} is a dictionary of the kind {kind} on states with normalize_activations = "
            f"{config.get('normalize_activations', 'none')}: topk and standard on states as they are can be read here"
        )
    if config.get("rescale_acts_by_decoder_norm") or config.get("reshape_activations", "none") != "none":
        raise UserError(f"{directory.name} rescales or reshapes its states: save it without (fold_W_dec_norm)")
    W_enc, b_enc, W_dec, b_dec = made
    if not config.get("apply_b_dec_to_input", True):
        b_enc = b_enc + b_dec @ W_enc  # ours takes b_dec off the state first
    return Dictionary(site, config["k"] if kind == "topk" else len(b_enc), W_enc, b_enc, W_dec, b_dec)
