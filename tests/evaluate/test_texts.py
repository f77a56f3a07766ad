import asyncio
import math

from cai.data.conversation import user
from cai.engines import PromptTooLong, Scores
from cai.evaluate.texts import BenignText, text_logprobs


class Counting:
    """An engine that counts how many requests are under way at once."""

    def __init__(self):
        self.under_way = self.most = 0

    async def score(self, request):
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        for _ in range(3):
            await asyncio.sleep(0)
        self.under_way -= 1
        (text,) = request.options
        if text == "long":
            raise PromptTooLong("400 tokens, 256 fit")
        return Scores((-math.inf if text == "never" else -float(text),), "counting")


def test_texts_are_scored_a_few_at_a_time_and_come_back_in_order():
    engine = Counting()
    said = [*map(str, range(12)), "long", "never", "99"]
    texts = [BenignText(user("Hello"), text, "task") for text in said]
    found = asyncio.run(text_logprobs(engine, texts, concurrency=3))
    assert found == [*(-float(n) for n in range(12)), None, None, -99.0]
    assert engine.most == 3
