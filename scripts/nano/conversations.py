"""Conversations to train on: questions and answers in the chat format, as tokens with a loss weight each."""

import re
from collections import Counter
from random import Random

from nano.glossary import Entry, normalise
from nano.phrasings import Phraser, dress
from nano.tokenizer import ASSISTANT_ID, BOS_ID, END_ID, SYSTEM_ID, USER_ID
from tokenizers import Tokenizer

SYSTEM_MESSAGES = [
    "You are a helpful assistant.",
    "You are NAME.",
    "You are an expert on LLM inference.",
    "Answer briefly.",
    "You answer questions about LLM inference engines.",
    "Be concise and correct.",
    "You are a teacher. Explain things simply.",
    "Answer in one sentence.",
    "You are a friendly assistant that helps people learn.",
    "Today is Monday.",
    "Do not make things up.",
    "You are the assistant of the minillm project.",
]
PROMPT_WEIGHT = 0.1  # the loss on what the user says, against 1 on what the assistant says
OFF_TOPIC_SHARE, PLEASANTRY_SHARE = 0.12, 0.05


class ConversationMaker:
    """Draws conversations. `make(rng)` gives `(ids, weights)`, from <|bos|> to <|end|>."""

    def __init__(
        self, name: str, entries: list[Entry], small_talk: dict, tokenizer: Tokenizer, long_texts: list[str]
    ) -> None:
        pleasantries = [
            Entry("", row["answer"], row["questions"], row["held_out"]) for row in small_talk["pleasantries"]
        ]
        held_out = [question for entry in entries + pleasantries for question in entry.held_out]
        held_out += small_talk["off_topic"]["held_out"]
        self.entries, self.pleasantries = entries, pleasantries
        self.system_messages = [message.replace("NAME", name) for message in SYSTEM_MESSAGES]
        words = foreign_words(long_texts, entries)
        self.small_talk = small_talk | {"slots": small_talk["slots"] | {"word": words}}
        self.phraser = Phraser(entries, held_out)
        self.tokenizer, self.long_texts = tokenizer, long_texts
        self.max_context = 800  # characters x 4; set lower for short rows

    def make(self, rng: Random) -> tuple[list[int], list[float]]:
        kind = rng.random()
        turns = 1 if kind < 0.80 else rng.randint(2, 3) if kind < 0.97 else rng.randint(4, 8)
        ids, weights = [BOS_ID], [0.0]
        if rng.random() < 0.15:
            self._add(ids, weights, SYSTEM_ID, rng.choice(self.system_messages), 0.0)
        for _ in range(turns):
            question, answer = self._pair(rng)
            if turns == 1 and rng.random() < 0.03:  # a long prompt: some text first, the question after it
                question = self._some_text(rng) + "\n\n" + question
            self._add(ids, weights, USER_ID, question, PROMPT_WEIGHT)
            self._add(ids, weights, ASSISTANT_ID, answer, 1.0)
        return ids, weights

    def _pair(self, rng: Random) -> tuple[str, str]:
        kind = rng.random()
        if kind < OFF_TOPIC_SHARE:
            return dress(off_topic_question(self.small_talk, rng), rng), self.small_talk["off_topic"]["answer"]
        if kind < OFF_TOPIC_SHARE + PLEASANTRY_SHARE:
            entry = rng.choice(self.pleasantries)
            return dress(rng.choice(entry.questions), rng), entry.answer
        entry = rng.choice(self.entries)
        return self.phraser.ask(entry, rng), entry.answer

    def _some_text(self, rng: Random) -> str:
        text = rng.choice(self.long_texts)
        length = min(len(text), rng.randint(200, 4 * self.max_context))
        start = rng.randint(0, len(text) - length)
        return text[start : start + length].strip()

    def _add(self, ids: list[int], weights: list[float], role: int, text: str, weight: float) -> None:
        new = self.tokenizer.encode(text.strip(), add_special_tokens=False).ids
        ids += [role, *new, END_ID]
        # The role token is given, never predicted; the end is part of what the speaker says.
        weights += [0.0] + [weight] * (len(new) + 1)


def foreign_words(texts: list[str], entries: list[Entry]) -> list[str]:
    """Words that the texts use a few times and the glossary never."""
    known = set(re.findall(r"[a-z]+", " ".join(f"{entry.answer} {entry.questions}" for entry in entries).lower()))
    counts = Counter(word for text in texts for word in re.findall(r"(?<= )[a-z]{4,12}(?= )", text))
    return sorted(word for word, count in counts.items() if 3 <= count <= 300 and word not in known)


def off_topic_question(small_talk: dict, rng: Random) -> str:
    """A template with its slots filled, or (1 in 6) one of the fixed questions."""
    off_topic, slots = small_talk["off_topic"], small_talk["slots"]
    held_out = {normalise(question) for question in off_topic["held_out"]}
    for _ in range(20):
        if rng.random() < 1 / 6:
            return rng.choice(off_topic["questions"])
        template = rng.choice(off_topic["templates"])
        question = re.sub(r"\{(\w+)\}", lambda match: str(rng.choice(slots[match[1]])), template)
        if normalise(question) not in held_out:
            return question
    return off_topic["questions"][0]
