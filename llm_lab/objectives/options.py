"""What a model is trained to do."""

from __future__ import annotations

from llm_lab.registry import Entry, Table

OBJECTIVES = Table(
    "objective",
    [
        Entry(
            "clm",
            "llm_lab.objectives.clm:CausalLM",
            "causal language modelling: predict each next token",
            supports=frozenset({"next_token"}),
        ),
    ],
)
