"""The table of sites: every place of a model that can be read or changed, one row each, in TransformerLens' names.

capture, tracing, sweeps, the activation cache, check and the table in FAMILIES.md read it: a new site is a new row.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..data.errors import UserError

# Beside the attention function ("attention") and what follows from other sites ("derived"), a site is what goes into or
# comes out of a module of the layer: ("input" or "output", the function of model/anatomy.py that finds the module).
Reads = str | tuple[str, str]


class SiteError(UserError, KeyError):
    """A site that does not exist, that a family lacks, or that cannot be changed."""

    __str__ = Exception.__str__  # a KeyError would quote its line


@dataclass(frozen=True)
class Site:
    """One place in every layer of a stack.

    name: short, as in `capture(subject, batch, ["z"])`. hook: the rest of the TransformerLens name after
    "blocks.<layer>.". axes: of the tensor that is read. reads: where it is read and changed, see `Reads`.
    what: in words. proof: the proof of `check` that holds it. writable: whether rewrites and sweeps may change it.
    """

    name: str
    hook: str
    axes: tuple[str, ...]
    reads: Reads
    what: str
    proof: str
    writable: bool = False

    @property
    def of_attention(self) -> bool:
        """Whether layers without attention lack it."""
        return self.reads == "attention" or self.reads[1] in ("query_projection", "key_projection", "output_projection")

    @property
    def in_module(self) -> bool:
        """Whether it is what a module of the layer reads or writes."""
        return isinstance(self.reads, tuple)


RESIDUAL = ("batch", "pos", "d_model")
HEADS = ("batch", "pos", "head", "d_head")
KV_HEADS = ("batch", "pos", "kv_head", "d_head")
NEURONS = ("batch", "pos", "d_mlp")

_ROWS = (
    Site(
        "resid_pre",
        "hook_resid_pre",
        RESIDUAL,
        ("input", "block"),
        "the residual stream that enters the layer",
        "a layer reads what the one before wrote",
        writable=True,
    ),
    Site(
        "q",
        "attn.hook_q",
        HEADS,
        ("output", "query_projection"),
        "queries before norm and rotation",
        "the projections' outputs are q and k",
    ),
    Site(
        "k",
        "attn.hook_k",
        KV_HEADS,
        ("output", "key_projection"),
        "keys before norm and rotation",
        "the projections' outputs are q and k",
    ),
    Site(
        "rot_q",
        "attn.hook_rot_q",
        HEADS,
        "attention",
        "queries as the attention reads them",
        "patterns equal eager attention's",
    ),
    Site(
        "rot_k",
        "attn.hook_rot_k",
        KV_HEADS,
        "attention",
        "keys as the attention reads them",
        "patterns equal eager attention's",
    ),
    Site(
        "v",
        "attn.hook_v",
        KV_HEADS,
        "attention",
        "values as the attention reads them",
        "pattern times v is attn_z",
    ),
    Site(
        "pattern",
        "attn.hook_pattern",
        ("batch", "head", "query_pos", "key_pos"),
        "attention",
        "attention after the softmax, float32",
        "patterns equal eager attention's",
    ),
    Site(
        "attn_z",
        "attn.hook_attn_z",
        HEADS,
        "attention",
        "what the attention gives: z, but where a gate or a norm stands between it and W_O",
        "pattern times v is attn_z",
        writable=True,
    ),
    Site(
        "z",
        "attn.hook_z",
        HEADS,
        ("input", "output_projection"),
        "the heads' outputs as W_O reads them",
        "z is what W_O reads",
        writable=True,
    ),
    Site(
        "attn_out",
        "hook_attn_out",
        RESIDUAL,
        ("output", "attention_writer"),
        "what the attention adds to the residual stream",
        "parts sum to the residual",
        writable=True,
    ),
    Site(
        "resid_mid",
        "hook_resid_mid",
        RESIDUAL,
        "derived",
        "the residual stream between attention and MLP",
        "parts sum to the residual",
        writable=True,
    ),
    Site(
        "mlp_pre",
        "mlp.hook_pre",
        NEURONS,
        ("output", "gate_projection"),
        "what the MLP's activation function reads: of the gate, where there is one",
        "the activation of mlp_pre is mlp_post",
        writable=True,
    ),
    Site(
        "mlp_pre_linear",
        "mlp.hook_pre_linear",
        NEURONS,
        ("output", "up_projection"),
        "what the gate multiplies, in gated MLPs",
        "the activation of mlp_pre is mlp_post",
        writable=True,
    ),
    Site(
        "mlp_post",
        "mlp.hook_post",
        NEURONS,
        ("input", "down_projection"),
        "the MLP's neurons: what its down projection reads; of the expert that all tokens share",
        "neurons through W_down are the MLP's output",
        writable=True,
    ),
    Site(
        "mlp_out",
        "hook_mlp_out",
        RESIDUAL,
        ("output", "feed_forward_writer"),
        "what the MLP adds to the residual stream",
        "parts sum to the residual",
        writable=True,
    ),
    Site(
        "beside_out",
        "hook_beside_out",
        RESIDUAL,
        ("output", "beside_writer"),
        "what is added beside attention and MLP: Gemma 4's per-layer input",
        "parts sum to the residual",
        writable=True,
    ),
    Site(
        "resid_post",
        "hook_resid_post",
        RESIDUAL,
        ("output", "block"),
        "the residual stream that leaves the layer",
        "a layer reads what the one before wrote",
        writable=True,
    ),
)
# In the order in which a layer computes them, by short name.
SITES: dict[str, Site] = {row.name: row for row in _ROWS}
BY_HOOK: dict[str, Site] = {row.hook: row for row in _ROWS}
# What a layer adds to the residual stream, in that order.
PARTS = ("attn_out", "mlp_out", "beside_out")
# Sites that a rewrite, a patch or an ablation may change.
WRITABLE: tuple[str, ...] = tuple(name for name, row in SITES.items() if row.writable)


def site(name: str) -> Site:
    """The row of a short name ("z") or hook ("attn.hook_z"). SiteError: unknown, with those that there are."""
    row = SITES.get(name) or BY_HOOK.get(name)
    if row is None:
        raise SiteError(f"unknown site {name!r}: one of {', '.join(SITES)}")
    return row


def require_writable(name: str, what: str = "rewrite") -> None:
    """SiteError for a site that does not exist or cannot be changed, with those that can."""
    if name not in WRITABLE:
        raise SiteError(f"cannot {what} {name!r}: one of {', '.join(WRITABLE)}")


def markdown() -> str:
    """The table for readers, as it stands in FAMILIES.md."""
    head = ["| site | hook | axes | may be changed | what it is |", "|---|---|---|---|---|"]
    rows = [
        f"| `{row.name}` | `{row.hook}` | {', '.join(row.axes)} | {'yes' if row.writable else ''} | {row.what} |"
        for row in SITES.values()
    ]
    return "\n".join([*head, *rows]) + "\n"
