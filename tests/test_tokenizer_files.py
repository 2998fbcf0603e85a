"""Whatever files a tokenizer comes in, with or without each: it is what transformers' AutoTokenizer makes of them.

The three kinds that models have, small; around them, drawn at random, what stands in the files beside tokenizer.json.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import tokenizers
from fuzz import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from minillm.hub import ASSETS
from minillm.text.tokenizer import Tokenizer

WORDS = ["the", "cache", "page", "def", "return", "Zürich", "你好", "こんにちは", "مرحبا", "1234", "##ing", "ing", "s"]
TEXTS = st.lists(
    st.sampled_from(WORDS)
    | st.sampled_from([" ", "  ", "\n", "\t", ",", ".", "!", "'s", "n't", " ?", "🦙🏽", "é", "e\u0301", "\x00", "\x1b"])
    | st.sampled_from(["<s>", "</s>", "<pad>", "<|tool|>", "<extra>", "[CLS]", "[SEP]", "[UNK]", "x" * 60])
    | st.text(max_size=5),
    max_size=12,
).map("".join)  # fmt: skip


def byte_level() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(ASSETS / "nano-llama" / "tokenizer.json"))


def sentence_pieces() -> tokenizers.Tokenizer:
    """As Llama 2 and Gemma have it: a space is part of a word, and what is no word comes as bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *(f"▁{word}" for word in WORDS)]
    vocab = [(piece, 0.0 if i < 259 else -float(i - 258)) for i, piece in enumerate([*pieces, *WORDS, *"abcdefghij"])]
    made = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made


def word_pieces() -> tokenizers.Tokenizer:
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys([*WORDS, *letters, ",", ".", "!", "'", "?"])]
    made = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))]
    )
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return made


KINDS = {"byte level": byte_level, "sentence pieces": sentence_pieces, "word pieces": word_pieces}
NAMES = {
    "byte level": ("<|bos|>", "<|end|>", "<|pad|>"),
    "sentence pieces": ("<s>", "</s>", "<unk>"),
    "word pieces": ("[CLS]", "[SEP]", "[PAD]"),
}
CUT = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
FILL = {"strategy": {"Fixed": 12}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<pad>"}  # fmt: skip
ADDED = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


@st.composite
def folders(draw: st.DrawFn) -> dict[str, Any]:
    """The files of a tokenizer by their names, as JSON."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    made = KINDS[kind]()
    content = json.loads(made.to_str())
    if draw(st.booleans()):
        content["truncation"] = CUT
    if draw(st.booleans()):
        content["padding"] = FILL
    if draw(st.booleans()):
        content["added_tokens"].append({"id": made.get_vocab_size(), "content": "<extra>", "special": False, **ADDED})
    bos, eos, pad = NAMES[kind]
    written = (lambda token: {"__type": "AddedToken", "content": token, **ADDED}) if draw(st.booleans()) else str
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    tool = {"content": "<|tool|>", "special": True, **ADDED}
    fields: dict[str, st.SearchStrategy[Any]] = {
        "tokenizer_class": st.sampled_from(["PreTrainedTokenizerFast", "TokenizersBackend"]),
        "clean_up_tokenization_spaces": st.booleans(),
        "bos_token": st.sampled_from([bos, written(bos)]),
        "eos_token": st.sampled_from([eos, written(eos), "<|tool|>"]),
        "pad_token": st.sampled_from([pad, "<pad>"]),
        "unk_token": st.just(pad),
        "sep_token": st.just(eos),
        "extra_special_tokens": st.just(["<|tool|>"]),
        "add_bos_token": st.booleans(),
        "model_max_length": st.just(4),
        "added_tokens_decoder": st.just({str(made.get_vocab_size() + 1): tool}),
    }  # fmt: skip
    for name, values in fields.items():
        if draw(st.booleans()):
            config[name] = draw(values)
    if "added_tokens_decoder" in config:  # it lists all of them, where it is there
        for token in content["added_tokens"]:
            config["added_tokens_decoder"][str(token["id"])] = {key: token[key] for key in token if key != "id"}
    files: dict[str, Any] = {"tokenizer.json": content, "tokenizer_config.json": config}
    if draw(st.booleans()):
        files["special_tokens_map.json"] = {"bos_token": bos, "eos_token": {"content": eos, **ADDED}}
    if draw(st.booleans()):
        files["config.json"] = {"model_type": draw(st.sampled_from(["llama", "qwen3", "gemma3_text", "olmo2", "gpt2"]))}
    return files


@given(files=folders(), texts=st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=examples(40))
def test_any_files_give_what_auto_tokenizer_gives(files: dict[str, Any], texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file).write_text(json.dumps(content), encoding="utf-8")
        try:
            theirs = AutoTokenizer.from_pretrained(folder)
        except Exception:  # files that do not go together; then ours may say so, or read them
            return
        ours = Tokenizer(folder)
        assert (ours.vocab_size, ours.eos_token_id) == (len(theirs), theirs.eos_token_id)
        for text in texts:
            for special in (True, False):
                ids = ours.encode(text, add_special_tokens=special)
                assert ids == theirs.encode(text, add_special_tokens=special, verbose=False), (text, ours.odd)
                for skip in (True, False):
                    assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip), (ids, ours.odd)


def test_models_whose_tokenizer_is_the_plain_one(tmp_path: Path) -> None:
    """Those for which transformers is not asked: it would take tokenizer.json as it is."""
    from minillm.text.plain import MODEL_TYPES

    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((ASSETS / "nano-llama" / name).read_text(encoding="utf-8"), encoding="utf-8")
    for model in MODEL_TYPES - {None}:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model}), encoding="utf-8")
        assert type(AutoTokenizer.from_pretrained(tmp_path)).__name__ == "TokenizersBackend", model
        assert Tokenizer(tmp_path).odd is None
