"""Evidence for tests, written as probabilities."""

import math

from cai.data.records import Evidence


def choice(p_first, mass=1.0, *, turned=False, **more):
    """Two responses shown, the second one first when turned; P(the one shown first is better)."""
    return Evidence(
        shown=(1, 0) if turned else (0, 1),
        turned=turned,
        logprobs=(math.log(p_first * mass), math.log((1 - p_first) * mass)),
        **more,
    )


def orders(p_forward, p_backward=None, mass=1.0, **more):
    """One order, or both: P(the response shown first is better) in each."""
    found = [choice(p_forward, mass, **more)]
    if p_backward is not None:
        found.append(choice(p_backward, mass, turned=True, **more))
    return found


def grade(response, *shares, **more):
    """One response, and the probability of each grade from worst to best."""
    return Evidence(shown=(response,), logprobs=tuple(map(math.log, shares)), **more)
