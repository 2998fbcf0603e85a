"""What a model and its largest step take, from their shapes alone: before anything is loaded, and wherever no allocator
can be asked. A test holds it against what torch really takes on a CPU; on a GPU a trial step is measured (trial.py)."""

from torch import nn

from minillm.attention.gather import MOST_GATHERED
from minillm.kvcache.pages import pages_for
from minillm.layers.embedding import LMHead
from minillm.layers.linear import Formatted
from minillm.layers.moe import MixtureOfExperts
from minillm.sampling.logprobs import MOST_LOGITS
from minillm.sampling.sampler import PART
from minillm.setup import Setup

# Bytes for each of the R * V numbers of a step's logits, R the rows that sample.
KEPT = 10  # rows kept for the seats that ask: counts of said tokens 4, tokens of the prompt 1, biases 4, end tokens 1
LOGITS = 4 + 4 + 4  # float32 logits, their copy for log probabilities, and another that is edited
CHOOSING = 45  # what top-k, top-p and a draw hold, the sorted order foremost; for `PART` numbers at a time
PROMPT = 4 + 4 + 9  # logits of a prompt, their log probabilities, which are likelier; for `MOST_LOGITS` at a time
SMALL = 2**18  # all that does not grow with anything here


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all weights, before they are loaded or after, when some are packed: a table that the embedding and a
    packed head share is there in both layouts."""
    total = 0
    for module in model.modules():
        if isinstance(module, Formatted):
            total += 0 if isinstance(module, LMHead) and module.reads_table else module.bytes_read
        else:
            total += sum(parameter.nbytes for parameter in module.parameters(recurse=False))
    return total


def activation_bytes(setup: Setup, model: nn.Module, gathers: bool = False) -> int:
    """The most that one step holds beside weights and cache.

    A step goes through the layers, then through the sampler, and one's memory is free again for the other. gathers:
    whether attention copies what it looks at and masks it, as the reference does and the CPU's backend for prompts.
    """
    layers = layer_bytes(setup, model) + gathers * gather_bytes(setup)
    stream = setup.step_tokens * setup.model_config.hidden_size * setup.dtype.itemsize
    numbers = setup.sampling_rows * setup.model_config.vocab_size
    kept = SMALL + KEPT * numbers + table_bytes(setup)
    return kept + max(layers, stream + sampling_bytes(setup))


def table_bytes(setup: Setup) -> int:
    """cos and sin for every position, twice where some layers turn by angles of their own."""
    c = setup.model_config
    kinds = 1 + (c.local_rope is not None)
    return 2 * kinds * setup.max_model_len * c.head_dim * setup.dtype.itemsize


def layer_bytes(setup: Setup, model: nn.Module) -> int:
    """A layer's widest moment, for every token of the budget, and what the batch says of the tokens."""
    c, itemsize = setup.model_config, setup.dtype.itemsize
    q, kv = setup.num_heads * c.head_dim, setup.num_kv_heads * c.head_dim
    inner = -(-c.intermediate_size // setup.group.size)
    experts = (module.numbers_per_token for module in model.modules() if isinstance(module, MixtureOfExperts))
    widest = max(q + 2 * kv + 2 * q, 3 * inner, *experts)
    stream = 5 * c.hidden_size  # residual, what each of two layers adds, the normalised copy, the output being made
    norm = 3 * c.hidden_size * 4  # what a norm in torch holds meanwhile, in float32
    known = 2 * c.head_dim * itemsize + 3 * 8  # cos, sin; token, position, slot
    return setup.step_tokens * (stream * itemsize + max(widest * itemsize, norm) + known)


def gather_bytes(setup: Setup) -> int:
    """Keys and values copied out of their pages, what one query scores them, the masks over them, the page table."""
    c, longest, rows, itemsize = setup.model_config, setup.max_model_len, setup.sampling_rows, setup.dtype.itemsize
    token = 2 * setup.num_kv_heads * c.head_dim
    together = max(longest, min(rows * longest, MOST_GATHERED // token))
    masks = 1 + any(window is not None for window in c.layer_windows)
    table = rows * pages_for(longest, setup.page_size) * 8
    hidden = setup.step_tokens * longest
    return together * (token + setup.num_heads) * itemsize + hidden * (masks * itemsize + 2) + table


def sampling_bytes(setup: Setup) -> int:
    """From logits to tokens, when every row asks for all there is; or the log probabilities of a prompt."""
    V, rows = setup.model_config.vocab_size, setup.sampling_rows
    together = min(rows, max(PART // V, 1))
    prompt = min(setup.step_tokens, setup.max_model_len, max(MOST_LOGITS // V, 1))
    return max(LOGITS * rows * V + CHOOSING * together * V, PROMPT * prompt * V)
