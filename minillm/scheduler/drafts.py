"""Drafts: tokens that somebody guesses will come next. A step computes them together with the last known token, and
keeps them as far as they prove right: several tokens for the price of one step (Leviathan et al. 2023).

Whoever guesses, and however badly, the answer is the same: at every position the token is chosen as it would be without
drafts, greedily or by the draw that belongs to the request's seed and that position, and a draft counts only if it is
that token.
"""

from typing import Protocol

from minillm.request import Request


class Proposer(Protocol):
    """Whoever guesses."""

    def propose(self, request: Request, most: int) -> list[int]:
        """Up to ``most`` tokens that may follow those of the request, the likeliest course. None is a fine answer."""


def may_draft(request: Request) -> bool:
    """Whether a run of its tokens can be chosen at once. Not where a token's logits depend on the tokens chosen just
    before it: penalties count them, bad words look back at them, a grammar follows them."""
    params = request.params
    return not (params.penalises or request.bad_words or params.structured_outputs)
