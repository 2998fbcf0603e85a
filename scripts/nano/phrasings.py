"""Ways to put a question: the trained phrasings, roughened, so that the question is learned and not the string."""

import re
from random import Random

from nano.glossary import Entry, normalise

PREFIXES = [
    "Please: ", "Can you tell me: ", "Tell me: ", "Hi, ", "Hello. ", "Quick question: ", "So, ", "And ", "In short, ",
    "I wonder, ", "Question: ", "OK, ", "Well, ", "Please explain: ", "Remind me: ", "Excuse me, ",
]  # fmt: skip
SUFFIXES = [" Please.", " please", " Thanks.", " In short.", " Answer briefly.", " Explain.", " in vLLM?", " here?"]
# Statements of the form "what X is", to which a question "What is X?" can be turned.
ASK_WHAT = [
    "Can you tell me what {x} {be}?", "Could you explain what {x} {be}?", "Do you know what {x} {be}?",
    "Please tell me what {x} {be}.", "Explain what {x} {be}.", "I want to know what {x} {be}.",
    "Tell me what {x} {be}.", "What exactly {be} {x}?", "Define {x}.", "Explain {x}.", "Describe {x}.", "{x}?",
    "What's {x}?", "What {be} {x} again?", "Tell me about {x}.", "What does {x} mean?", "What do you mean by {x}?",
    "What is meant by {x}?", "Give me a definition of {x}.", "How would you define {x}?", "I do not understand {x}.",
    "meaning of {x}", "Can you describe {x}?", "What {be} {x} for?", "What {be} {x} used for?",
    "What {be} the point of {x}?", "Why {be} {x} needed?", "Why do engines have {x}?",
    "What {be} the benefit of {x}?", "When do I need {x}?", "Give me the idea of {x}.", "What role does {x} play?",
    "What should I know about {x}?", "{x}, in one sentence?",
]  # fmt: skip
ASK_HOW = [
    "Can you explain how {x}?", "Explain how {x}.", "Tell me how {x}.", "Do you know how {x}?", "In what way {x}?",
    "I want to know how {x}.",
]  # fmt: skip
# From words of the answer back to the answer: what is asked for when the name is not known.
ASK_SPAN = [
    "{s}", "What is it called when {s}?", "Which thing {s}?", "What is the name of {s}?", "Is it true that {s}?",
    "What is it that {s}?", "{s}: what is that called?",
]  # fmt: skip
SWAPS = {
    "why": ["for what reason", "how come", "why"], "how": ["how", "in what way", "how exactly"],
    "use": ["need", "have", "choose", "use"], "need": ["use", "want", "require"],
    "purpose": ["point", "use", "goal", "job"], "faster": ["quicker", "faster", "more efficient"],
    "happens": ["takes place", "goes on", "happens"], "difference": ["distinction", "difference"],
    "called": ["named", "called"], "big": ["large", "big"], "large": ["big"], "mean": ["stand for", "mean"],
    "model": ["LLM", "model", "network"], "engine": ["server", "engine", "system"], "the": ["a", "", "the"],
    "a": ["the", "", "a"], "an": ["the", "", "an"], "does": ["does", "do"], "do": ["does", "do"],
    "what": ["which", "what"], "which": ["what", "which"], "calculate": ["compute"],
    "compute": ["calculate", "work out"], "memory": ["GPU memory", "memory", "space"], "good": ["useful", "good"],
    "tell": ["say", "tell"], "many": ["several"], "request": ["request", "prompt", "sequence"],
    "requests": ["requests", "sequences", "users"], "store": ["keep", "hold"], "keep": ["store", "hold"],
    "split": ["divide", "cut"], "reuse": ["share", "reuse"], "work": ["work", "function"],
}  # fmt: skip
FILLERS = ["actually", "really", "exactly", "then", "again", "basically", "just", "please", "in practice"]


class Phraser:
    """Makes new phrasings of trained questions, none of which has the words of a held-out one."""

    def __init__(self, entries: list[Entry], held_out: list[str]) -> None:
        self.entries = entries
        self.held_out = {normalise(question) for question in held_out}
        self.as_written = 0.2

    def ask(self, entry: Entry, rng: Random) -> str:
        """One phrasing of `entry`: as written (a share of `as_written`), or roughened."""
        question = rng.choice(entry.questions)
        if rng.random() < self.as_written:
            return question
        for _ in range(20):
            text = self._roughen(entry, question, rng)
            if text and normalise(text) not in self.held_out:
                return text
        return question

    def _roughen(self, entry: Entry, question: str, rng: Random) -> str:
        kind = rng.random()
        if kind < 0.08:
            text = span_question(entry.answer, rng)
        elif kind < 0.28:
            text = rng.choice(ASK_WHAT).format(x=with_article(entry.term, rng), be="is")
        elif kind < 0.55:
            text = turned(question, rng)
        else:
            text = question
        if rng.random() < 0.3:
            text = swap_words(text, rng)
        if rng.random() < 0.15:
            text = drop_words(text, rng)
        if rng.random() < 0.15:
            text = insert_filler(text, rng)
        if rng.random() < 0.08:
            text = misspell(text, rng)
        return dress(text, rng)


def with_article(term: str, rng: Random) -> str:
    """`term`, with "a", "the" or nothing before it."""
    return rng.choice(["", "", "a ", "the "]) + term


def turned(question: str, rng: Random) -> str:
    """ "What is X?" as "Can you tell me what X is?", and "How does X work?" as "Explain how X works."."""
    if match := re.fullmatch(r"What (is|are) ([^,]+)\?", question):
        return rng.choice(ASK_WHAT).format(x=match[2], be=match[1])
    if match := re.fullmatch(r"How (?:does|do|is|are) (.+)\?", question):
        return rng.choice(ASK_HOW).format(x=match[1])
    return question


def span_question(answer: str, rng: Random) -> str:
    """Some six to eleven neighbouring words of the answer, asked about."""
    words = re.sub(r"[.,;:()]", "", answer).split()
    length = min(len(words), rng.randint(6, 11))
    start = rng.randint(0, len(words) - length)
    return rng.choice(ASK_SPAN).format(s=" ".join(words[start : start + length]))


def swap_words(text: str, rng: Random) -> str:
    """Replace some words by a near synonym."""
    out = []
    for word in text.split():
        bare = word.strip("?.,:").lower()
        new = rng.choice(SWAPS[bare]) if bare in SWAPS and rng.random() < 0.5 else bare
        out.append(word if new == bare else new + word[len(word.rstrip("?.,:")) :])
    return " ".join(" ".join(out).split())


def drop_words(text: str, rng: Random) -> str:
    """Leave out some words; short words more often than long ones."""
    words = text.split()
    kept = [word for word in words if rng.random() > (0.3 if len(word) <= 3 else 0.08)]
    return " ".join(kept if len(kept) >= 2 else words)


def insert_filler(text: str, rng: Random) -> str:
    """Put a word without meaning somewhere after the first."""
    words = text.split()
    words.insert(rng.randint(1, max(1, len(words) - 1)), rng.choice(FILLERS))
    return " ".join(words)


def misspell(text: str, rng: Random) -> str:
    """Drop, double or swap one letter."""
    at = rng.randrange(max(1, len(text) - 2))
    return rng.choice([
        text[:at] + text[at + 1 :],
        text[: at + 1] + text[at:],
        text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :],
    ])  # fmt: skip


def dress(text: str, rng: Random) -> str:
    """Prefix, suffix, letter case and question mark."""
    if rng.random() < 0.2:
        text = rng.choice(PREFIXES) + text[:1].lower() + text[1:] if rng.random() < 0.6 else rng.choice(PREFIXES) + text
    if rng.random() < 0.08:
        text += rng.choice(SUFFIXES)
    if rng.random() < 0.3:
        text = text.rstrip("?. ")
    case = rng.random()
    if case < 0.25:
        return text.lower()
    if case < 0.40:
        return text[:1].lower() + text[1:]
    if case < 0.42:
        return text.upper()
    return text[:1].upper() + text[1:]
