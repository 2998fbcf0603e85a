"""A mixture of experts, as it is trained: every expert computed for every token, those not chosen weighted by zero.

The same numbers as choosing first, four times the arithmetic of the experts, and far fewer and larger kernels: at this
size that is much the faster way round. Only training does this; what ships is run by routing.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel


class DenseExperts(nn.Module):
    """Stands where transformers has its sparse block, around that block's own parameters.

    `usage`: [2, E] of the last forward: the share of choices that each expert got, and its mean probability.
    """

    def __init__(self, block: nn.Module, top_k: int) -> None:
        super().__init__()
        self.gate, self.experts, self.top_k = block.gate, block.experts, top_k
        self.usage: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: [B, T, H] -> [B, T, H]"""
        x = hidden.flatten(0, 1)  # [B * T, H]
        with torch.autocast(x.device.type, enabled=False):  # close calls are to fall the same way when it is run
            probabilities = F.linear(x.float(), self.gate.weight.float()).softmax(dim=-1)  # [B * T, E]
        weights, chosen = probabilities.topk(self.top_k, dim=-1)  # [B * T, K]
        weights = weights / weights.sum(dim=-1, keepdim=True)
        nothing = torch.zeros_like(probabilities)
        taken = nothing.scatter(-1, chosen, 1.0 / self.top_k)  # [B * T, E]
        self.usage = torch.stack([taken.mean(dim=0), probabilities.mean(dim=0)])
        shares = nothing.scatter(-1, chosen, weights).to(x.dtype)  # [B * T, E]
        w13, w2 = self.experts.gate_up_proj, self.experts.down_proj  # [E, 2I, H], [E, H, I]
        experts, size = w2.shape[0], w2.shape[2]
        # All experts side by side are one wide MLP: two large products.
        gate, up = F.linear(x, w13.flatten(0, 1)).view(-1, experts, 2, size).unbind(dim=2)  # [B * T, E, I] each
        inner = F.silu(gate) * up * shares.unsqueeze(-1)  # [B * T, E, I]
        out = F.linear(inner.flatten(1), w2.transpose(0, 1).flatten(1))  # [B * T, H]
        return out.view(hidden.shape)


def make_dense(model: PreTrainedModel) -> None:
    """Put DenseExperts into every layer of a Qwen3-MoE of transformers 5, whose experts are stacked tensors."""
    for layer in model.model.layers:
        if not hasattr(layer.mlp.experts, "gate_up_proj"):
            raise SystemExit("Training nano-moe needs transformers 5, where all experts of a layer are one tensor.")
        layer.mlp = DenseExperts(layer.mlp, model.config.num_experts_per_tok)


def expert_usage(model: PreTrainedModel) -> torch.Tensor | None:
    """[L, 2, E] of the forward pass just run, or None for a model without experts."""
    usages = [layer.mlp.usage for layer in model.model.layers if isinstance(layer.mlp, DenseExperts)]
    return torch.stack(usages) if usages else None


def balance_loss(usages: list[torch.Tensor]) -> torch.Tensor:
    """How unevenly experts are used, over all batches of a step together; 1 is even. usages: [L, 2, E] each.

    Together, because each kind of text is to be free to have its experts: evenness is asked of the sum alone.
    """
    taken, probability = torch.stack(usages).mean(dim=0).unbind(dim=1)  # [L, E] each
    return taken.shape[-1] * (taken.detach() * probability).sum(dim=-1).mean()


def per_expert(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """A tensor under the names that files use: stacked experts one by one, anything else as it is.

    `...experts.gate_up_proj` [E, 2I, H] -> `...experts.E.gate_proj.weight` and `up_proj` [I, H];
    `...experts.down_proj` [E, H, I] -> `...experts.E.down_proj.weight` [H, I].
    """
    stem, _, last = name.rpartition(".")
    if not stem.endswith(".experts"):
        return {name: tensor}
    parts = {"gate_proj": tensor.chunk(2, dim=1)[0], "up_proj": tensor.chunk(2, dim=1)[1]}
    if last == "down_proj":
        parts = {"down_proj": tensor}
    return {
        f"{stem}.{expert}.{part}.weight": weights[expert]
        for expert in range(len(tensor))
        for part, weights in parts.items()
    }
