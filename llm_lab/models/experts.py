"""Several MLPs in place of one, of which a router picks a few for each token; it knows no loss but its own balance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from llm_lab.models.layers import mixed
from llm_lab.models.options import MLPS, ModelConfig
from llm_lab.models.sites import site

# In multiples of which an expert reads tokens in bfloat16 on a CPU: the library that multiplies there keeps a kernel for every
# number of rows that it has met, and how many an expert gets changes with each step.
ROWS = 64


class Experts(nn.Module):
    """Each token goes to the `n_active` experts that the router finds likeliest; what they say is weighted by its
    probabilities, made to sum to 1 (Jiang et al. 2024, Mixtral, §2.1). What a single expert says is weighted by its
    probability itself (Fedus et al. 2021, Switch, eq. 2): made to sum to 1 it would be 1 whatever the router thinks, and
    the router would learn nothing from the text.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.n_expert is None:
            raise AssertionError("a config without n_expert has one MLP")
        self.n_expert, self.n_active = config.n_expert, config.n_active
        self.router = nn.Linear(config.d_model, self.n_expert, bias=False)
        kind = MLPS.load(config.mlp)
        self.experts = nn.ModuleList(kind(config) for _ in range(self.n_expert))

    def forward(
        self, x: Float[Tensor, "B T D"], path: str, balances: list[Tensor] | None = None
    ) -> Float[Tensor, "B T D"]:
        """To `balances`, where they are given, how far this batch is off balance is added: `n_active` where it was
        spread evenly, and at most `n_expert`."""
        flat = x.flatten(0, 1)
        probs = site(self.route(flat).unflatten(0, x.shape[:2]), f"{path}.router").flatten(0, 1)
        weights, chosen = probs.topk(self.n_active, dim=-1)
        if self.n_active > 1:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        if balances is not None:
            balances.append(balance(probs, chosen))
        # Tokens stand by their expert, so that each expert reads its own and an idle one nothing.
        order = chosen.flatten().argsort(stable=True)
        token = order // self.n_active
        counts = chosen.flatten().bincount(minlength=self.n_expert).tolist()
        said = torch.cat(
            [
                _reads(expert, own, f"{path}.experts.{i}")
                for i, (expert, own) in enumerate(zip(self.experts, flat[token].split(counts), strict=True))
                if len(own)
            ]
        )
        weighted = said * weights.flatten()[order, None]
        out = weighted.new_zeros(flat.shape).index_add(0, token, weighted)
        return site(out.to(said.dtype).view(x.shape), f"{path}.out")

    def route(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N E"]:
        """The router's probabilities, in float32 at least: close calls must not fall to rounding (Fedus
        et al. 2021, §2.4)."""
        with torch.autocast(x.device.type, enabled=False):
            wide = torch.promote_types(x.dtype, torch.float32)
            return F.linear(x.to(wide), self.router.weight.to(wide)).softmax(dim=-1)


def _reads(expert: nn.Module, own: Float[Tensor, "n D"], path: str) -> Float[Tensor, "n D"]:
    """What an expert says of its tokens."""
    if not mixed(own):
        return expert(own[None], path)[0]
    filled = F.pad(own, (0, 0, 0, -len(own) % ROWS))
    return expert(filled[None], path)[0][: len(own)]


def balance(probs: Float[Tensor, "N E"], chosen: Int[Tensor, "N k"]) -> Float[Tensor, ""]:
    """E Σ f p, over the experts: f is how many of a token's choices an expert gets on average, p its mean probability
    (Fedus et al. 2021, eq. 4). Only p has a gradient."""
    n_expert = probs.shape[1]
    share = chosen.flatten().bincount(minlength=n_expert).to(probs.dtype) / len(chosen)
    return n_expert * (share * probs.mean(dim=0)).sum()
