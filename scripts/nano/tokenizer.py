"""A byte-level BPE of 4096 tokens, its special tokens, and the chat template."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

PAD, BOS, END, SYSTEM, USER, ASSISTANT = SPECIAL = [
    "<|pad|>",
    "<|bos|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
]  # ids 0 to 5, in this order
PAD_ID, BOS_ID, END_ID, SYSTEM_ID, USER_ID, ASSISTANT_ID = range(len(SPECIAL))
VOCAB_SIZE = 4096
MAX_LENGTH = 2048

# Each message is <|role|>text<|end|>; <|end|> is the EOS, so the assistant's own end stops generation.
# NAME is the model's.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('NAME knows the roles system, user and assistant, not ' + message['role']) }}"
    "{% endif %}"
    "{% if message['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('The system message must be the first one') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Learn 4096 tokens from `texts`. Byte level: any text has tokens, and decoding gives back the same bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=16,  # no token for a line of seventy dashes
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise SystemExit(f"The tokenizer has {tokenizer.get_vocab_size()} tokens, not {VOCAB_SIZE}: too little text.")
    # A plain prompt begins with <|bos|>; the chat template writes its own and is encoded without special tokens added.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, BOS_ID)]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer | Path, folder: Path, name: str) -> None:
    """Write tokenizer.json (a file is copied) and tokenizer_config.json, with model `name`'s chat template."""
    if isinstance(tokenizer, Tokenizer):
        tokenizer.save(str(folder / "tokenizer.json"))
    elif tokenizer != folder / "tokenizer.json":
        (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": MAX_LENGTH,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE.replace("NAME", name),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
