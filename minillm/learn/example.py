"""The running example: the same few requests go through every lesson."""

from minillm.text.tokenizer import Tokenizer

QUESTION = "What is a KV cache?"
OTHER_ENDING = "What is a page table?"  # begins like QUESTION
CODE = "def read_lines(path):"
TALK = (  # questions of a longer conversation; what the assistant says comes from the glossary
    (
        "What is paged attention?",
        "Paged attention finds keys and values through a page table, so that the KV cache of a sequence can lie in "
        "pages anywhere in memory instead of in one contiguous region.",
    ),
    (
        "What is continuous batching?",
        "Continuous batching chooses anew at every step which requests run, so that a finished request leaves at once "
        "and a waiting one can take its place immediately.",
    ),
    (
        "What is a page table?",
        "A page table lists the pages of one request in order, so that the position of a token tells in which page "
        "and at which offset its keys and values are stored.",
    ),
    (
        "What is chunked prefill?",
        "Chunked prefill computes a long prompt over several steps, so that other requests keep getting tokens in "
        "between instead of waiting until the whole prompt is done.",
    ),
)

# A longer piece of code, for what has to be counted.
PROGRAM = '''\
class Queue:
    """Requests that wait, in the order in which they came."""

    def __init__(self, limit=8):
        self.limit = limit
        self.items = []

    def push(self, item):
        # Full is full: the caller has to wait.
        if len(self.items) >= self.limit:
            raise ValueError("the queue is full")
        self.items.append(item)
        return len(self.items) - 1

    def pop(self):
        if not self.items:
            return None
        return self.items.pop(0)
'''


def question(tokenizer: Tokenizer, text: str) -> list[int]:
    """One question to a chat model; to a model without a chat template, simply the text."""
    return conversation(tokenizer, (), text)


def conversation(tokenizer: Tokenizer, turns: tuple[tuple[str, str], ...], last: str) -> list[int]:
    """A conversation that ends with the question ``last``, as token ids."""
    if not tokenizer.has_chat_template:
        return tokenizer.encode("\n".join([*(text for turn in turns for text in turn), last]))
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    return tokenizer.encode_chat([*messages, {"role": "user", "content": last}])


def running_example(tokenizer: Tokenizer, own: str | None = None) -> dict[str, list[int]]:
    """Four requests by name: a question, one that begins alike, a long conversation, a piece of code to complete.

    own: the reader's question, if there is one, in the first one's place.
    """
    return {
        "a question": question(tokenizer, own or QUESTION),
        "another ending": question(tokenizer, OTHER_ENDING),
        "a long talk": conversation(tokenizer, TALK, QUESTION),
        "code": tokenizer.encode(CODE),
    }
