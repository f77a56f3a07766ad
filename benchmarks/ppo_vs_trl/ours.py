"""Our side, in a process of its own: python -m benchmarks.ppo_vs_trl.ours WORKLOAD RESULT."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from benchmarks.ppo_vs_trl.workloads import SNAPSHOT, Workload
from cai.models.loading import load_chat_format
from cai.models.preference_model import PreferenceModel
from cai.ppo.learner import Learner
from cai.ppo.prompts import PromptPool, TokenPrompt
from cai.ppo.rewards import Reward
from cai.ppo.rollout import collect_rollout
from cai.ppo.update import update
from cai.settings import ModelSettings, PPOSettings


def settings_of(workload: Workload) -> PPOSettings:
    """Return a workload as our settings."""
    settings = PPOSettings(
        steps=workload.steps + 1,
        batch_size=workload.batch_size,
        minibatches=workload.minibatches,
        epochs=workload.epochs,
        max_new_tokens=workload.max_new_tokens,
        learning_rate=workload.learning_rate,
        critic_learning_rate=workload.critic_learning_rate or workload.learning_rate,
        final_learning_rate=workload.final_learning_rate,
        kl_coef=workload.kl_coef,
        gamma=workload.gamma,
        lam=workload.lam,
        clip_range=workload.clip_range,
        value_clip_range=workload.clip_range,
    )
    return settings.checked(**workload.method)


class IdScorer:
    """The sum of the last ids, modulo 17: a reward that costs nothing."""

    def score_ids(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return `(N,)` scores."""
        return torch.tensor([sum(ids[-8:]) % 17 / 5 for ids in sequences])


def load(folder: Path, workload: Workload) -> tuple[Learner, PreferenceModel]:
    """Load policy, critic and preference model of a workload."""

    def preference() -> torch.nn.Module:
        return AutoModelForSequenceClassification.from_pretrained(
            folder / "preference", num_labels=1
        ).eval()

    chat = load_chat_format(ModelSettings(path=str(folder / "policy")))
    learner = Learner.start(
        AutoModelForCausalLM.from_pretrained(folder / "policy"),
        preference().base_model,
        chat,
        settings_of(workload),
    )
    judge = preference()
    mean = getattr(judge.config, "cai_score_mean", 0.0)
    std = getattr(judge.config, "cai_score_std", 1.0)
    return learner, PreferenceModel(judge, chat, mean=mean, std=std)


def main() -> None:
    """Train; write the seconds and the response lengths of each step."""
    torch.set_num_threads(1)
    folder, result = Path(sys.argv[1]), Path(sys.argv[2])
    workload = Workload(**json.loads((folder / "workload.json").read_text()))
    learner, preference = load(folder, workload)
    reward = Reward({"preference": (IdScorer() if workload.scores_ids else preference, 1.0)})
    prompts = [
        TokenPrompt(tuple(ids), "helpful")
        for ids in json.loads((folder / "prompts.json").read_text())
    ]
    settings = settings_of(workload)
    pool = PromptPool(
        prompts,
        batch_size=workload.batch_size,
        red_team_fraction=0.0,
        seed=workload.seed,
        samples_per_prompt=settings.samples_per_prompt,
    )
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    lengths: list[list[int]] = []
    for step in range(settings.steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        drawn = pool.draw(step)
        rollout = collect_rollout(learner, drawn, reward, settings, seed=workload.seed, step=step)
        update(learner, rollout, settings, seed=workload.seed, step=step)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
        lengths.append(rollout.episodes.response_lengths_B.tolist())
        if workload.snapshot_every and step % workload.snapshot_every == 0:
            torch.save(learner.policy.state_dict(), folder / f"{SNAPSHOT}{step:03d}.pt")
    measured = {"seconds": seconds, "cpu_seconds": cpu_seconds, "lengths": lengths}
    result.write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
