"""Blocks of attention and MLP around a residual stream, and the stack of them; it knows neither tokens nor logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from llm_lab.data.batch import Attend
from llm_lab.models.attention import Attention, Cache, CrossAttention
from llm_lab.models.experts import Experts
from llm_lab.models.look import Look, look
from llm_lab.models.options import MLPS, NORMS, PATTERNS, POSITIONS, ModelConfig
from llm_lab.models.patterns import Pattern
from llm_lab.models.positions import Position
from llm_lab.models.sites import site


@dataclass(frozen=True, eq=False)
class Memory:
    """What an encoder read: its output, which of it is no padding, and by how much its experts were off balance."""

    hidden: Float[Tensor, "B S D"]  # one row serves all, where all have one source
    attend: Attend
    balances: Sequence[Tensor] = ()


class Place:
    """Where in the model a block runs: the names of its sites. One block may run in several places."""

    def __init__(self, layer: int, path: str) -> None:
        self.layer = layer
        self.pre, self.mid, self.cross_mid, self.post = (
            f"{path}.resid_{name}" for name in ("pre", "mid", "cross", "post")
        )
        self.attn, self.cross, self.mlp = f"{path}.attn", f"{path}.cross", f"{path}.mlp"


class Block(nn.Module):
    """Attention, cross-attention where there is a second stack to read, MLP; each beside the residual stream.

    Norms stand before each part (Xiong et al. 2020), after the sum (Vaswani et al. 2017), or before and after the part
    (Ding et al. 2021, "sandwich").
    """

    def __init__(self, config: ModelConfig, cross: bool) -> None:
        super().__init__()
        self.place = config.norm_place
        norm = NORMS.load(config.norm)
        self.attn_norm, self.attn = norm(config), Attention(config)
        if cross:
            self.cross_norm, self.cross = norm(config), CrossAttention(config)
        self.mlp_norm = norm(config)
        self.mlp = Experts(config) if config.n_expert else MLPS.load(config.mlp)(config)
        if self.place == "sandwich":
            self.after = nn.ModuleDict({name: norm(config) for name in ("attn", *(["cross"] if cross else []), "mlp")})

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        seen: Look,
        place: Place,
        cache: Cache | None = None,
        memory: Tensor | None = None,
        crossed: Look | None = None,
        balances: list[Tensor] | None = None,
    ) -> Float[Tensor, "B T D"]:
        x = site(x, place.pre)
        x = self._beside(x, "attn", lambda x: self.attn(x, seen, place.attn, place.layer, cache))
        x = site(x, place.mid)
        if memory is not None:
            x = self._beside(x, "cross", lambda x: self.cross(x, memory, crossed, place.cross, place.layer, cache))
            x = site(x, place.cross_mid)
        routed = (balances,) if isinstance(self.mlp, Experts) else ()
        return site(self._beside(x, "mlp", lambda x: self.mlp(x, place.mlp, *routed)), place.post)

    def _beside(self, x: Tensor, part: str, compute: Callable[[Tensor], Tensor]) -> Tensor:
        norm = getattr(self, f"{part}_norm")
        if self.place == "post":
            return norm(x + compute(x))
        out = compute(norm(x))
        return x + (self.after[part](out) if self.place == "sandwich" else out)


class Stack(nn.Module):
    """Blocks, with what they share: positions, the pattern of who may read whom, the last norm."""

    def make_stack(self, config: ModelConfig, n_layer: int, prefix: str = "", cross: bool = False) -> None:
        """Give the module its parts; `prefix` stands before the names of its sites."""
        self.prefix = prefix
        self.position: Position = POSITIONS.load(config.position)(config)
        self.pattern: Pattern = PATTERNS.load(config.attention)(config)
        self.blocks = nn.ModuleList(Block(config, cross) for _ in range(1 if config.share_layers else n_layer))
        self.places = [Place(i, f"{prefix}blocks.{i}") for i in range(n_layer)]
        self.norm = NORMS.load(config.norm)(config) if config.final_norm else nn.Identity()

    def run(
        self,
        x: Float[Tensor, "B T D"],
        attend: Attend,
        ids: Int[Tensor, "b T"],
        cache: Cache | None = None,
        memory: Memory | None = None,
        last: bool = False,
        seen: Look | None = None,
        balances: list[Tensor] | None = None,
    ) -> Float[Tensor, "B U D"]:
        """From embeddings to the output of the last norm; with `last` of the final position alone. `seen` is used in
        place of what `attend` comes to. To `balances` each place of experts adds how far it is off balance."""
        n_query = x.shape[1]
        n_key = n_query + (cache.length if cache is not None else 0)
        seen = seen or look(attend, self.pattern, self.position, ids, n_query, n_key)
        crossed = None if memory is None else _across(memory, n_query)
        for place in self.places:
            block = self.blocks[place.layer % len(self.blocks)]
            x = block(x, seen, place, cache, None if memory is None else memory.hidden, crossed, balances)
        return site(self.norm(x[:, -1:] if last else x), f"{self.prefix}final")


def mean_balance(balances: Sequence[Tensor]) -> dict[str, Tensor]:
    """The loss that balances the experts: the mean over the layers of a pass; nothing where none has experts."""
    return {"balance": sum(balances[1:], balances[0]) / len(balances)} if balances else {}


def _across(memory: Memory, n_query: int) -> Look:
    """How a decoder reads the encoder's output: all of it but padding."""
    keep = memory.attend.keep
    return Look(mask=None if keep is None else keep[:, None, None, :].expand(-1, 1, n_query, -1))


def block_sites(config: ModelConfig, n_layer: int, prefix: str = "", cross: bool = False) -> dict[str, str]:
    """The sites of a stack's blocks with their shapes; S are the positions attended to."""
    c = config
    stream = f"(B, T, {c.d_model})"
    heads = {"q": f"(B, {c.n_head}, T, {c.head_dim})", "k": f"(B, {c.kv_heads}, S, {c.head_dim})"}
    heads |= {"v": heads["k"], "scores": f"(B, {c.n_head}, T, S)", "pattern": f"(B, {c.n_head}, T, S)"}
    heads |= {"z": heads["q"], "out": stream}
    block = {"resid_pre": stream} | {f"attn.{name}": shape for name, shape in heads.items()} | {"resid_mid": stream}
    if cross:
        block |= {f"cross.{name}": shape for name, shape in heads.items()} | {"resid_cross": stream}
    if c.n_expert:
        block |= {"mlp.router": f"(B, T, {c.n_expert})"}
    else:
        block |= {f"mlp.{name}": f"(B, T, {c.ff_width})" for name in ("pre", "post")}
    block |= {"mlp.out": stream, "resid_post": stream}
    return {f"{prefix}blocks.{i}.{name}": shape for i in range(n_layer) for name, shape in block.items()}
