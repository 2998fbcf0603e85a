"""Phi-3 and Phi-4-mini: Llama in a checkpoint that holds q, k, v as one tensor, and gate and up as one."""

from minillm.models.llama import LlamaForCausalLM
from minillm.models.registry import register


@register("Phi3ForCausalLM")
class Phi3ForCausalLM(LlamaForCausalLM):
    """A window, or a head that is turned only in part (Phi-4-mini), is in the config."""

    fused = {}  # our fused parameters are the checkpoint's own
