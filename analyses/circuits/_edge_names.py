"""What edges are called, and which receivers are patched exactly."""

from __future__ import annotations

from collections.abc import Sequence

from ...probes.intervene.edge_graph import Reader, Writer
from ...probes.intervene.paths import Receiver
from ._movers import queries_of

EXACT = "path patched"


OUTPUT = "the output"


# What claims and findings ask for: of the effect where edges were chosen; Spearman of a gradient with exact paths.
AGAIN_BAR, RANKS_BAR = 0.5, 0.8


def edge_name(writer: Writer, reader: Reader) -> str:
    """ "3.1 → q of 5.2", "embeddings → MLP 0", "MLP 4 → k of 7.1" (a key's or value's head counts KV heads); "mixer 2 →
    MLP 2" of a layer without heads."""
    places = {"embed": "embeddings", "head": f"{writer.layer}.{writer.head}"}
    places |= {"mlp": f"MLP {writer.layer}", "mixer": f"mixer {writer.layer}"}
    return f"{places[writer.kind]} → {reader_name(reader)}"


def reader_name(reader: Reader) -> str:
    into = {"mlp": f"MLP {reader.layer}", "mixer": f"mixer {reader.layer}", "final": OUTPUT}
    return into.get(reader.kind, f"{reader.kind} of {reader.layer}.{reader.head}")


def receivers_of(heads: Sequence[Sequence[int]], first: int = 0) -> dict[str, Receiver | None]:
    """What is patched exactly: the output (None), and the queries of the movers behind the first layer with heads."""
    return {OUTPUT: None} | {f"q of {mover.layer}.{mover.head}": mover for mover in queries_of(heads, first)}
