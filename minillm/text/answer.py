"""One answer as it grows: tokens become text, and log probabilities get their tokens' text."""

from minillm.probe import probe
from minillm.request import Candidate, CompletionOutput, Logprob, Request
from minillm.text.detokenizer import Detokenizer
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
        if self.logprobs is not None:
            new = request.logprobs[len(self.logprobs) :]
            self.logprobs += [with_text(candidates, self.tokenizer) for candidates in new]
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


def with_text(candidates: list[Candidate], tokenizer: Tokenizer) -> dict[int, Logprob]:
    """By token id. The chosen token comes first; if it is among the likeliest too, its rank is its place there."""
    return {id: Logprob(logprob, rank, tokenizer.token(id)) for id, logprob, rank in candidates}


def prompt_logprobs(request: Request, tokenizer: Tokenizer) -> list[dict[int, Logprob] | None] | None:
    """One entry for each prompt token, None for the first; None altogether if they were not asked for."""
    if not request.wants_prompt_logprobs:
        return None
    return [None if known is None else with_text(known, tokenizer) for known in request.prompt_logprobs or [None]]
