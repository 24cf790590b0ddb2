"""What an intermediate state says in the vocabulary."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._checks import require, require_inside, require_shape, widen


def logit_lens(
    resid: Float[Tensor, "*batch d"],
    norm: Callable[[Tensor], Tensor] | None,
    unembed: Callable[[Tensor], Tensor],
) -> Float[Tensor, "*batch vocab"]:
    """Logits of an intermediate state: unembed(norm(x)). [..., d] → [..., vocab], logits.

    norm: the model's final norm; None leaves it out, as some papers do in the middle layers.
    With `subject.norm` and `subject.unembed` the last state gives the model's own logits.
    Source: the logit lens (nostalgebraist 2020). Errors: ValueError where unembed changes the leading shape.
    """
    logits = unembed(resid if norm is None else norm(resid))
    require(logits.shape[:-1] == resid.shape[:-1], f"unembed gave {tuple(logits.shape)}")
    return logits


def entropy(logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch"]:
    """Entropy of softmax(logits) in nats, 0…ln vocab. [..., vocab] → [...]."""
    logs = widen(logits).log_softmax(-1)
    logs = logs.clamp_min(torch.finfo(logs.dtype).min)  # so that 0 · ln 0 is 0
    return -torch.linalg.vecdot(logs.exp(), logs)


def kl_divergence(
    logits_p: Float[Tensor, "*batch vocab"], logits_q: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    """KL(p ‖ q) = Σ p (ln p − ln q) of the two softmaxes, nats, ≥ 0; inf where q excludes what p allows.

    For a lens: p is the final distribution, q the lens. Errors: ValueError for unequal shapes.
    """
    require_shape("logits_q", logits_q, *logits_p.shape)
    log_p, log_q = widen(logits_p).log_softmax(-1), widen(logits_q).log_softmax(-1)
    p = log_p.exp()
    terms = (p * (log_p - log_q)).masked_fill(p == 0, 0.0)  # 0 · ∞ is 0 here; NaN stays NaN
    return terms.sum(-1).clamp_min(0.0)


def answer_probability(logits: Float[Tensor, "*batch vocab"], ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Softmax probability of one token per row, 0…1.

    Errors: ValueError for unequal shapes or ids outside the vocabulary.
    """
    wide = widen(logits)
    return (_answer_logits(wide, ids).squeeze(-1) - wide.logsumexp(-1)).exp()


def answer_rank(logits: Float[Tensor, "*batch vocab"], ids: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """Rank of one token per row: the number of strictly larger logits, 0 (top) … vocab−1.

    Ties do not depend on the order of the vocabulary. NaN counts as larger, so NaN is never the top.
    Errors: ValueError for unequal shapes or ids outside the vocabulary.
    """
    return (~(logits <= _answer_logits(logits, ids))).sum(-1)


def lens_readings(
    logits: Float[Tensor, "n vocab"],
    ids: Int[Tensor, "n m"],
    final_p: Float[Tensor, "n vocab"],
    final_entropy: Float[Tensor, "n"],
) -> dict[str, Tensor]:
    """What a lens page reads of each state, in one walk over the vocabulary (far cheaper than one by one).

    logits: the lens, finite; ids: m candidate tokens per row; final_p, final_entropy: softmax and entropy
    of the model's own logits, computed once for all states.
    Returns "probability" [n, m], "rank" [n, m], "entropy" [n] (nats) and "kl" [n] = KL(final ‖ lens) =
    −H(final) − Σ p ln q (nats, exact to about 1e-5): the values of `answer_probability`, `answer_rank`,
    `entropy` and `kl_divergence`. Errors: ValueError for unequal shapes, no rows, ids out of range.
    """
    require(logits.ndim == 2 and len(logits) > 0, f"logits has shape {tuple(logits.shape)}")
    n, vocab = logits.shape
    require(ids.ndim == 2 and len(ids) == n, f"ids has shape {tuple(ids.shape)}, expected ({n}, m)")
    require_shape("final_p", final_p, n, vocab)
    require_shape("final_entropy", final_entropy, n)
    require_inside(ids, vocab)
    rows = max(1, 2**18 // vocab)  # a chunk's temporaries stay in the processor's cache
    inputs = (x.split(rows) for x in (logits, ids.long(), final_p, final_entropy))
    parts = [_read_rows(*chunk) for chunk in zip(*inputs, strict=True)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _read_rows(logits: Tensor, ids: Tensor, final_p: Tensor, final_entropy: Tensor) -> dict[str, Tensor]:
    logs = widen(logits).log_softmax(-1)
    p = final_p.to(logs.dtype)
    rank = torch.empty_like(ids)
    for j, answer in enumerate(logits.gather(-1, ids).split(1, dim=-1)):
        rank[:, j] = (~(logits <= answer)).sum(-1, dtype=torch.int32)
    return {
        "probability": logs.gather(-1, ids).exp(),
        "rank": rank,
        "entropy": -torch.linalg.vecdot(logs.exp(), logs),
        "kl": (-final_entropy - torch.linalg.vecdot(p, logs)).clamp_min(0.0),
    }


def _answer_logits(logits: Tensor, ids: Tensor) -> Tensor:
    require_shape("ids", ids, *logits.shape[:-1])
    require_inside(ids, logits.shape[-1])
    return logits.gather(-1, ids.long()[..., None])
