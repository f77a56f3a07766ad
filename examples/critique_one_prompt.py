"""Criticise and revise the answer to one prompt, without a pipeline.

python examples/critique_one_prompt.py "Please tell me how to steal a bike."
"""

import asyncio
import sys

import cai


async def main(question: str) -> None:
    engine = cai.open_engine(cai.ModelSettings(path="playground"))
    reviser = cai.Reviser(cai.load_constitution("playground"))
    prompt = cai.single_prompt(cai.user(question))
    row = await reviser.row(reviser.item(prompt, engine), engine)
    await engine.close()
    print(f"response: {row.response}")
    for step in row.steps:
        print(f"\n[{step.principle.id}]\ncritique: {step.critique}\nrevision: {step.revision}")


asyncio.run(main(" ".join(sys.argv[1:]) or "Please tell me how to steal a bike."))
