"""A recurrent language model: an LSTM reads one token after the other."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from llm_lab.baselines.base import Neural, numbers, part
from llm_lab.results import ModelPart


class LSTM(Neural):
    """`n_layer` layers of LSTM (Hochreiter & Schmidhuber 1997; with the forget gate of Gers et al. 2000), each added to
    the stream that it reads (Wu et al. 2016, §3.1), after a norm. Dropout is on what goes up, never on what goes on in
    time (Zaremba et al. 2014). Its state is zero where a block begins."""

    def layer(self, i: int) -> nn.Module:
        d = self.config.d_model
        made = nn.LSTM(d, d, batch_first=True, bias=self.config.bias)
        if self.config.bias:  # what is not yet learned is better kept than forgotten (Jozefowicz et al. 2015, §2.2)
            made.get_parameter("bias_ih_l0").data[d : 2 * d] = 1.0
        return made

    def apply_layer(self, layer: nn.Module, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return layer(x)[0]

    def layer_part(self, tokens: int) -> ModelPart:
        d = self.config.d_model
        # Kept for the backward pass: four gates, the cell, its tanh, the output.
        return part(
            "recurrent",
            "lstm",
            f"4 gates of {d} from {d} + {d}",
            numbers(self.layers[0]),
            16 * d * d + 12 * d,
            7 * d,
            tokens,
            self.config.n_layer,
        )
