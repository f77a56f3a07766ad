"""PPO on a reward of your own: the shipped tiny model learns to use the letter o.

python examples/ppo_with_your_reward.py [FOLDER]
"""

import sys
import tempfile
from collections.abc import Sequence

from cai.ppo import PPO, PPOSettings, progress_line

THINGS = ("bread", "onions", "tomatoes", "cookies", "a bike", "a letter", "a card", "potatoes")
PROMPTS = [
    f"{start} {thing}{end}"
    for start, end in (("Can you help me bake", "?"), ("Please tell me how to clean", "."))
    for thing in THINGS
]

SETTINGS = PPOSettings(
    steps=10,
    batch_size=64,
    minibatches=2,
    epochs=2,
    learning_rate=6e-4,
    critic_learning_rate=3e-4,
    kl_coef=0.02,
    max_new_tokens=24,
    no_eos_reward=None,  # answers that are cut off are scored like any other
)


def letter_o(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """One number for each response; the prompts, as they were given, are at hand as well."""
    return [text.count("o") / 10 for text in responses]


def main(folder: str) -> None:
    ppo = PPO("playground", letter_o, SETTINGS, seed=0)
    ppo.train(PROMPTS, folder, on_step=progress_line(SETTINGS.steps))
    print(f"The model is in {folder}/model.")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
