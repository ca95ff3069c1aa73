"""What stands between the last block and the logits, and the pooler beside it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from llm_lab.models.layers import gelu_of
from llm_lab.models.options import NORMS, ModelConfig


class Linear(nn.Module):
    """Nothing; or, where embeddings are not as wide as the stream, the map to their width."""

    vocabulary = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        other = config.embed_width != config.d_model
        self.down = nn.Linear(config.d_model, config.embed_width, bias=False) if other else nn.Identity()

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T E"]:
        return self.down(x)


class MaskedLM(nn.Module):
    """A dense layer, GELU and a norm before the output (Devlin et al. 2019, as released)."""

    vocabulary = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.embed_width, bias=config.bias)
        self.bend = gelu_of(config.mlp)
        self.norm = NORMS.load(config.norm)(config, config.embed_width)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T E"]:
        return self.norm(self.bend(self.dense(x)))


class Nothing(nn.Module):
    """No vocabulary: the model gives hidden states alone, and its logits are of width 0."""

    vocabulary = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()


class Pooler(nn.Module):
    """tanh of a dense layer on the first position: one vector for the whole (Devlin et al. 2019, §3.1)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model, bias=config.bias)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        return self.dense(x[:, 0]).tanh()
