"""The model card, written from what was measured: `training.json` (the recipe as it ran) and an evaluation."""

from pathlib import Path

from nano.experts_card import experts_section
from nano.models import NanoModel

CARD = """---
license: other
library_name: transformers
pipeline_tag: text-generation
---
# {name}

{kind} inside minillm, so that every lesson runs without a download. It answers
questions about LLM inference from the project's glossary and continues Python code. It is real enough to serve, cache,
quantise and cut in two, and small enough to step through. This card is written by `scripts/train_nano.py`; every number
in it was measured by that script.

| | |
| --- | --- |
| architecture | `{model_class}`: {architecture} |
| tokenizer | byte-level BPE, {tokenizer}; `<|bos|>` begins a text, `<|end|>` ends a message and is the EOS |
| context | 2048 tokens |
| weights | bf16, {megabytes:.1f} MB |

## Data

| what | files | bytes | tokens |
| --- | --- | --- | --- |
| Python {python} standard library, trained | {train_files} | {train_bytes:,} | {train_tokens:,} |
| the same, held out (5 % of files, by hash of path) | {held_out_files} | {held_out_bytes:,} | {held_out_tokens:,} |
| glossary: {entries} entries, {questions} trained and {held_out_questions} held-out questions | {glossary_files} | \
{glossary_bytes:,} | {glossary_tokens:,} |

The library is trained as whole files and once more function by function. Questions are roughened as they are drawn
(letter case, missing words and marks, near synonyms, other frames such as "Can you tell me what X is?", a few words of
the answer asked about); a roughened question that has the same words as a held-out one is thrown away. Some
conversations have several turns, a system message, or a long text before the question. About one question in eight is
off topic; all of these have one polite answer.

## Recipe

- {optimiser}
- peak learning rate {lr:g}, {warmup} warm-up steps, then linear to zero; gradients clipped at 1; dropout {dropout:g}
- {steps:,} steps of {batch_tokens:,} tokens: {text_rows} rows of {text_length} tokens of text and {chat_rows} rows of
  {chat_length} of conversations, both packed; {tokens:,} tokens in all
- {minutes:.1f} minutes on {hardware} ({precision}; compiling not counted), seed {seed}, torch {torch}
{balancing}- loss on the assistant's words, and a tenth of it on the user's
- chosen among a few recipes with the held-out figures in view

## Results

Measured on the files that ship ({evaluated_on}, bf16 weights, float32 arithmetic).

| loss | per token | bits per byte |
| --- | --- | --- |
| library, trained files (a sample) | {trained_loss:.3f} | {trained_bpb:.3f} |
| library, held-out files | {held_out_loss:.3f} | {held_out_bpb:.3f} |
| answers to trained phrasings | {trained_answer_loss:.4f} | |
| answers to held-out phrasings | {held_out_answer_loss:.4f} | |

Exact answers: greedy decoding, the whole answer equal to the glossary's, ended by `<|end|>`.

| questions | asked | exact |
| --- | --- | --- |
| trained phrasings | {trained_count} | {trained_exact:.1%} |
| held-out phrasings | {held_out_count} | {held_out_exact:.1%} |
| off topic, held out | {off_topic_count} | {off_topic_exact:.1%} |
| greetings and the like, held out | {pleasantries_count} | {pleasantries_exact:.1%} |

Held-out phrasings ask about the same entries in words that were not trained. They mostly name the term, often in a
frame that was trained with other terms: this is a rate of recognising a question, not of understanding it.

## Samples

{samples}
Code, greedy, from `<|bos|>` and the first line, at most 96 tokens:

{code}
{experts}
## Limits

It has a few hundred sentences by heart, finds the one that a question seems to ask for, and says it. It cannot reason,
calculate, follow an instruction about form, or refer to what was said before; asked something near its subject that the
glossary does not answer, it gives the nearest sentence it knows with full confidence. Its code has the look of Python
and no purpose; decoded greedily it soon repeats itself, and it may give library text word for word. English only.
Asked beyond its sentences, or in words too far from the trained ones:

{limits}{wrong}
## Licence

The weights are trained on text of this project (MIT) and on the Python standard library (PSF licence); nothing else.
"""

BALANCING = """\
- load-balancing loss, weight {balance:g}: 8 times the sum over experts of share of choices x mean probability, mean
  over layers; taken over all rows of a step together, so that each kind of text may have its experts
- every expert computed for every token while training, those not chosen weighted by zero
"""


def quote(question: str, answer: str) -> str:
    return f"- **{question}**\n  {answer}\n"


def write_card(nano: NanoModel, folder: Path, training: dict, results: dict) -> None:
    """Write README.md into the model's folder."""
    text, answers = results["text"], results["answers"]
    trained, held_out = answers["trained"], answers["held_out"]
    wrong = [
        f"- **{row['question']}** (held out)\n  {row['said']}\n  The glossary's answer: {row['right']}\n"
        for row in held_out["wrong"][:2]
    ]
    values = {
        **training,
        "name": nano.name,
        "kind": nano.kind.format(**results),
        "model_class": nano.model_class.__name__,
        "architecture": nano.architecture,
        "tokenizer": "4096 tokens" + (f" ({nano.tokenizer_of}'s, the same file)" if nano.tokenizer_of else ""),
        "balancing": BALANCING.format(**training) if nano.has_experts else "",
        "experts": experts_section(results["experts"]) if nano.has_experts else "",
        "megabytes": (folder / "model.safetensors").stat().st_size / 1e6,
        "evaluated_on": f"{results['device']}, library of Python {results['python']}",
        "trained_loss": text["trained"]["per_token"],
        "trained_bpb": text["trained"]["bits_per_byte"],
        "held_out_loss": text["held_out"]["per_token"],
        "held_out_bpb": text["held_out"]["bits_per_byte"],
        "trained_answer_loss": trained["per_token"],
        "held_out_answer_loss": held_out["per_token"],
        "trained_count": trained["count"],
        "trained_exact": trained["exact"],
        "held_out_count": held_out["count"],
        "held_out_exact": held_out["exact"],
        "off_topic_count": answers["off_topic_held_out"]["count"],
        "off_topic_exact": answers["off_topic_held_out"]["exact"],
        "pleasantries_count": answers["pleasantries_held_out"]["count"],
        "pleasantries_exact": answers["pleasantries_held_out"]["exact"],
        "samples": "".join(quote(*sample) for sample in results["samples"]),
        "code": "\n\n".join(f"```python\n{code.rstrip()}\n```" for code in results["code"]),
        "limits": "".join(quote(*sample) for sample in results["limits"]),
        "wrong": "".join(wrong),
    }
    (folder / "README.md").write_text(CARD.format(**values), encoding="utf-8")
