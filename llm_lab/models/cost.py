"""What a model costs before it exists: parameters, FLOPs and training memory, by part, for any description."""

from __future__ import annotations

from llm_lab.errors import BadValue
from llm_lab.models.bare import bare
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.models.reckoning import Reckoning
from llm_lab.models.reckoning import at_once as at_once
from llm_lab.results import ModelPart


def taken(config: ModelConfig) -> tuple[int, int]:
    """Bytes that making the model takes at its peak: the weights, and the tables of positions."""
    c = config
    weights = sum(part.parameters for part in parts(c, 1))
    untied = c.vocab_size * c.embed_width if c.tie_embeddings else 0  # made, and let go when tied
    wide = {"rotary": 12 * c.head_dim, "sinusoidal": 24 * c.embed_width}.get(c.position, 0)  # computed in float64
    stacks = 2 if c.shape == "encoder_decoder" else 1
    return 4 * (weights + untied), (stacks * wide * c.max_seq_len if _ours(c) else 0)


def parts(config: ModelConfig, batch_size: int, device: str = "auto", optimizer: str = "muon") -> list[ModelPart]:
    """The parts from the input to the output, one stack after the other. `device` is where the model is trained."""
    try:
        if not _ours(config):
            return bare(config).parts(batch_size)
        return Reckoning(config, batch_size, device, optimizer).parts()
    except (RuntimeError, OverflowError) as error:  # torch counts bytes in 64 bits
        if "overflow" not in str(error).lower() and not isinstance(error, OverflowError):
            raise
        raise BadValue(
            "the sizes are beyond any machine's; use for example --n_layer 4 --d_model 128 --max_seq_len 128"
        ) from None


def _ours(config: ModelConfig) -> bool:
    """Whether it is a transformer; baselines reckon for themselves."""
    return "sites" in SHAPES.entry(config.shape).supports
