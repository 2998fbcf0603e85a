"""Mistral: Llama whose layers look no further back than a window (Jiang et al. 2023), if the config has one."""

from minillm.models.llama import LlamaForCausalLM
from minillm.models.registry import register


@register("MistralForCausalLM")
class MistralForCausalLM(LlamaForCausalLM):
    """The window comes to `Attention` from ``config.layer_windows``; nothing else differs."""
