"""One answer as it grows: tokens become text, and log probabilities get their tokens' text."""

from minillm.probe import probe
from minillm.request import Candidate, CompletionOutput, Logprob, Request
from minillm.text.detokenizer import Detokenizer, TextStream
from minillm.text.tokenizer import NoTokenizer, Tokenizer


class Answer:
    """What is told of one request. Several of them answer one prompt if it asked for ``n``."""

    def __init__(self, request: Request, tokenizer: Tokenizer) -> None:
        params = request.params
        self.request, self.tokenizer = request, tokenizer
        self.detokenizer = Detokenizer(
            tokenizer if params.detokenize else NoTokenizer(tokenizer.folder),
            params.stop,
            params.include_stop_str_in_output,
            params.min_tokens,
            params.skip_special_tokens,
            request.prompt_ids,
        )
        self.told = 0  # characters of its text that were told
        self.logprobs: list[dict[int, Logprob]] | None = None if params.logprobs is None else []
        self._tokens = (  # for their texts
            None
            if params.logprobs is None
            else TextStream(tokenizer, skip_special_tokens=False, before=request.prompt_ids)
        )
        self.cumulative: float | None = None if params.logprobs is None else 0.0

    def read(self) -> None:
        """Make text of the request's new tokens. A stop string in it ends the request, whatever else would have."""
        request, detokenizer = self.request, self.detokenizer
        new_ids = request.output_ids[len(detokenizer.token_ids) :]
        if self._ended_by_token and not request.params.include_stop_str_in_output:
            new_ids = new_ids[:-1]  # a stop token ends the text and is no part of it, as in vLLM
        delta = detokenizer.add(new_ids, last=request.finished)
        probe.on and probe("request.text", request=request, delta=delta, text=detokenizer.text)
        if detokenizer.stop is not None and request.stop_reason != detokenizer.stop:
            kept = len(detokenizer.token_ids)
            probe.on and probe("request.stop", request=request, stop=detokenizer.stop, text=detokenizer.text)
            del request.output_ids[kept:], request.logprobs[kept:]
            request.finish("stop", stop_reason=detokenizer.stop)

    @property
    def _ended_by_token(self) -> bool:
        request = self.request
        return (
            request.finish_reason == "stop" and bool(request.output_ids) and request.output_ids[-1] in request.stop_ids
        )

    def completion(self) -> CompletionOutput:
        """The answer so far, and the text that is new since the last time."""
        request, text = self.request, self.detokenizer.text
        delta, self.told = text[self.told :], len(text)
        if self.logprobs is not None and self._tokens is not None:
            new = request.logprobs[len(self.logprobs) :]
            end = len(request.logprobs) if request.finished else -1
            for position, candidates in enumerate(new, len(self.logprobs) + 1):
                self.logprobs.append(with_text(candidates, self._tokens, last=position == end))
            self.cumulative = (self.cumulative or 0.0) + sum(candidates[0][1] for candidates in new)
        return CompletionOutput(
            index=request.index,
            text=text,
            token_ids=list(request.output_ids),
            finish_reason=request.finish_reason,
            stop_reason=request.stop_reason,
            logprobs=None if self.logprobs is None else list(self.logprobs),
            delta=delta,
            cumulative_logprob=self.cumulative,
        )


def with_text(candidates: list[Candidate], before: TextStream, last: bool = False) -> dict[int, Logprob]:
    """By token id, each with the text that it adds to the tokens before it: a space, a character that it completes.

    The chosen token comes first, and ``before`` takes it; if it is among the likeliest too, its rank is its place.
    """
    found = {id: Logprob(logprob, rank, before.peek(id, last)) for id, logprob, rank in candidates}
    before.add([candidates[0][0]], last)
    return found


def prompt_logprobs(request: Request, tokenizer: Tokenizer) -> list[dict[int, Logprob] | None] | None:
    """One entry for each prompt token, None for the first; None altogether if they were not asked for."""
    if not request.wants_prompt_logprobs:
        return None
    before, found = TextStream(tokenizer, skip_special_tokens=False), list[dict[int, Logprob] | None]()
    for token_id, known in zip(request.prompt_ids, request.prompt_logprobs or [None]):
        found.append(None if known is None else with_text(known, before))
        if known is None:
            before.add([token_id])
    return found
