"""What a run with every method says of each: rates, reward, KL, tokens, processor time."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai.data.records import AnswerRow
from cai.data.store import read_rows
from cai.engines.best_of import kl_bound
from cai.models.implicit_reward import ImplicitReward
from cai.models.loading import load_causal_lm, load_chat_format
from cai.models.preference_model import PreferenceModel
from cai.settings import ModelSettings

RATES = (
    "harmful_rate",
    "evasive_rate",
    "explained_refusal_rate",
    "helpful_rate",
    "over_refusal_rate",
    "garbled_rate",
)


@dataclass(frozen=True)
class Method:
    """A method: the policy that it ends in, and the stages of its own.

    Attributes:
        policy: Its name in the evaluation.
        stages: What must run after SL-CAI and the comparisons; their costs are added up.
        weights: The stage whose model gives the KL; None for best-of-n.
    """

    policy: str
    stages: tuple[str, ...]
    weights: str | None


_REST = ("grow-1", "kept-1a", "rest-1a", "kept-1b", "rest-1b")
METHODS = {
    "cloning": Method("cloned", ("demonstrations", "cloned"), "cloned"),
    "DPO": Method("dpo-cai", ("dpo",), "dpo"),
    "KTO": Method("kto-cai", ("kto",), "kto"),
    "ReST": Method(
        "rest-2b",
        ("preference", *_REST, "grow-2", "kept-2a", "rest-2a", "kept-2b", "rest-2b"),
        "rest-2b",
    ),
    "ReST-EM": Method(
        "em-2", ("preference", "grow-1", "kept-1b", "em-1", "em-grow", "em-kept", "em-2"), "em-2"
    ),
    "V-STaR": Method(
        "vstar", ("graded", "right", "generator", "right-or-wrong", "verifier", "vstar"), None
    ),
    "best-of-8": Method("best-of-n", ("preference", "best-of-n"), None),
    "PPO": Method("rl-cai", ("preference", "ppo"), "ppo"),
    "RLOO": Method("rloo", ("preference", "rloo"), "rloo"),
    "GRPO": Method("grpo", ("preference", "grpo"), "grpo"),
    "REINFORCE": Method("reinforce", ("preference", "reinforce"), "reinforce"),
    "online DPO": Method("online-dpo", ("preference", "online-dpo"), "online-dpo"),
}
STARTS = {"helpful-only": "helpful-only", "SL-CAI": "sl-cai"}


def measured(run: Path) -> dict[str, dict[str, Any]]:
    """Return the measures of each method of a finished run, and of what they start from."""
    summary = json.loads((run / "evaluate" / "summary.json").read_text())
    answers: dict[str, list[AnswerRow]] = {}
    for row in read_rows(run / "evaluate" / "rows.jsonl", AnswerRow):
        if row.state == "ok":
            answers.setdefault(row.model, []).append(row)
    scorer = PreferenceModel.load(run / "preference" / "model")
    start = ModelSettings(path=str(run / "sft" / "model"))
    reference, chat = load_causal_lm(start), load_chat_format(start)

    def of(policy: str) -> dict[str, Any]:
        items = [(row.messages, row.response) for row in answers[policy]]
        scores = scorer.score(items)
        rates = {name: summary[policy][name]["value"] for name in RATES}
        return {**rates, "reward": sum(scores) / len(scores)}

    found = {name: of(policy) for name, policy in STARTS.items()}
    for name, method in METHODS.items():
        found[name] = of(method.policy)
        if method.weights:
            policy = load_causal_lm(ModelSettings(path=str(run / method.weights / "model")))
            items = [(row.messages, row.response) for row in answers[method.policy]]
            ratios = ImplicitReward(policy, reference, chat, beta=1.0).score(items)
            found[name]["kl"] = sum(ratios) / len(ratios)
        elif name == "best-of-8":
            found[name]["kl_at_most"] = kl_bound(8)
        found[name] |= cost(run, method)
    return found


def cost(run: Path, method: Method) -> dict[str, float]:
    """Add up processor seconds, tokens sampled, and tokens trained on, of a method's stages."""
    total = {"processor_seconds": 0.0, "sampled_tokens": 0.0, "gradient_tokens": 0.0}
    for stage in method.stages:
        metrics = json.loads((run / stage / "metrics.json").read_text())
        settings = json.loads((run / stage / "manifest.json").read_text())["settings"]
        # NaN where an older version of cai ran the stage, which did not measure it.
        total["processor_seconds"] += metrics.get("processor_seconds", math.nan)
        if "final_kl" in metrics:  # policy optimisation: its tokens are sampled, then trained on
            total["sampled_tokens"] += metrics["tokens"]
            total["gradient_tokens"] += metrics["tokens"] * settings["epochs"]
        elif "tokens_out" in metrics:
            total["sampled_tokens"] += metrics["tokens_out"]
        else:
            total["gradient_tokens"] += metrics.get("tokens", 0)
    return total
