"""Which experts a model's routers send each token of one text to."""

from __future__ import annotations

import numpy as np
import torch

from llm_lab.errors import BadValue
from llm_lab.probes.options import ExpertsOptions
from llm_lab.probes.reading import Reading
from llm_lab.probes.recording import record
from llm_lab.results import ExpertRouting

_ROUTER = ".mlp.router"


def experts(reading: Reading, options: ExpertsOptions) -> ExpertRouting:
    """The routing of one text in every layer; of two stacks, in the encoder's."""
    model, batch, name = reading.model, reading.batch(), reading.name
    sites = [site for site in model.sites() if site.endswith(_ROUTER) and not site.startswith("decoder.")]
    if model.config is None or not sites:
        raise BadValue(
            f"probe experts: {name} has one MLP in each block and no router; a model built with --n_expert 8 would do"
        )
    found = record(model, batch, sites)
    # Of two streams in one, the first is the one that reads the text.
    probs = torch.stack([found[site][0, : batch.input_ids.shape[1]] for site in sites]).float().cpu()
    n_active = model.config.n_active
    chosen = probs.topk(n_active, dim=-1).indices
    return ExpertRouting(
        name=name,
        pieces=reading.pieces(),
        probs=probs.numpy().astype(np.float16),
        chosen=chosen.numpy().astype(np.int16),
        n_active=n_active,
    )
