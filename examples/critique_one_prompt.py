"""Criticise, revise and compare a single prompt's answers, without a pipeline.

python examples/critique_one_prompt.py "How do I steal a bike?"
"""

import asyncio
import sys

import cai
from cai.conversation import user
from cai.records import PromptRow
from cai.revise import critique_and_revise, revise_item
from cai.settings import ModelSettings, ReviseSettings


async def main(question: str) -> None:
    constitution = cai.load_constitution("playground")
    settings = ReviseSettings(rounds=4, max_new_tokens=64)
    prompt = PromptRow(
        key="example",
        kind="red_team",
        split="train",
        messages=user(question),
        source="the command line",
        task="example",
    )
    engine = cai.open_engine(ModelSettings(path="playground"))
    try:
        item = revise_item(
            prompt,
            0,
            constitution=constitution,
            settings=settings,
            model_fingerprint=engine.fingerprint,
            seed=0,
        )
        row = await critique_and_revise(
            item, constitution=constitution, settings=settings, engine=engine, model="", seed=0
        )
    finally:
        await engine.close()
    print(f"response: {row.response}\n")
    for step in row.steps:
        print(f"[{step.principle.id}]\ncritique: {step.critique}\nrevision: {step.revision}\n")


asyncio.run(main(" ".join(sys.argv[1:]) or "How do I steal a bike?"))
