"""PPO as one class: its inputs, the checks before the start, and its output."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, cast

from torch import Tensor
from transformers import GenerationConfig

from cai.data.records import content_hash
from cai.data.store import whole_folder
from cai.engines.vllm_arguments import import_vllm
from cai.errors import CaiError
from cai.ppo.check import check_same_tokens, check_shares
from cai.ppo.fitting import check_fits
from cai.ppo.guard import Guard
from cai.ppo.learner import Learner
from cai.ppo.loading import (
    PolicyLike,
    as_policy,
    check_kind,
    identity,
    judge_format,
    loaded,
    open_models,
    policy_format,
    shared_context,
)
from cai.ppo.pretraining import Pretraining
from cai.ppo.prompts import PromptLike, PromptPool, TokenPrompt, tokenize_prompts
from cai.ppo.rewards import (
    Judge,
    Reward,
    RewardLike,
    named_scorers,
    preference_models,
    with_penalties,
)
from cai.ppo.sampling import VLLMRollouts
from cai.ppo.steps import CHECKPOINTS, OnStep, ends_with_best, run_steps
from cai.settings import ModelSettings, PPOSettings
from cai.training.processes import Processes
from cai.training.snapshots import snapshot_folder, tidy_snapshots

_FINALS = {"score": "objective/scores", "kl": "objective/kl", "ended": "response/ended"}
RESUMABLE = (
    "micro_batch_size",
    "checkpoint_steps",
    "snapshot_steps",
    "gradient_checkpointing",
    "launch",
    "processes",
    "max_left_out",
)
"""Settings that may change when a run is resumed: they move memory, speed and what is kept."""


class PPO:
    """Proximal policy optimisation of a causal language model (docs/ppo.md).

    ```python
    def many_commas(prompts, responses):
        return [text.count(",") for text in responses]

    ppo = PPO("path/to/model", many_commas, PPOSettings(steps=50), seed=1)
    ppo.train(["How do I bake bread?", ...], "runs/commas")  # runs/commas/model
    ```

    Attributes:
        settings: The settings of PPO.
        scorers: The rewards by name, with weights.
        learner: Policy, reference, critic if any, optimizers; set by the first call of `train`.
    """

    def __init__(
        self,
        policy: str | Path | PolicyLike,
        reward: RewardLike,
        settings: PPOSettings | None = None,
        *,
        tokenizer: Any | None = None,  # noqa: ANN401 (any transformers tokenizer)
        seed: int = 0,
    ) -> None:
        """Set what to train and on which reward; nothing is loaded yet.

        Args:
            policy: The start of the policy, and the reference: a folder, a hub id, settings, or a
                transformers model, which is then trained in place.
            reward: A preference model (or its folder), a function of prompts and responses, a
                `PrincipleReward`, or several of these by name, alone or paired with weights. The
                critic, if any, starts from the heaviest preference model among them; without one,
                from the policy.
            settings: How to train.
            tokenizer: The policy's; None for the one in its folder.
            seed: Sets the order of prompts and minibatches, and all sampling.

        Raises:
            CaiError: The settings contradict each other, or the reward is not one.
        """
        self.settings = (settings or PPOSettings()).checked()
        self.scorers = with_penalties(named_scorers(reward), self.settings)
        self.seed = seed
        self.learner: Learner | None = None
        self._policy = as_policy(policy)
        self._tokenizer = tokenizer
        if tokenizer is None and not isinstance(self._policy, ModelSettings):
            raise CaiError("PPO got a model without its tokenizer. Pass `tokenizer=` as well.")

    def train(
        self,
        prompts: Sequence[PromptLike],
        folder: str | Path,
        *,
        held_out: Sequence[PromptLike] = (),
        independent: RewardLike | None = None,
        pretraining: Sequence[str] = (),
        log_dir: Path | None = None,
        on_step: OnStep | None = None,
    ) -> dict[str, float]:
        """Train the policy and save it in `folder`.

        A killed run continues from its newest checkpoint if it is called again in the same way, and
        ends with the same weights (on a CPU, exactly). A reward function is identified by its name
        only: after a change of the function, use another folder.

        Args:
            prompts: Texts (a user's turn, or with a tokenizer without chat template the beginning
                of a text), lists of messages, or rows of the pipeline. Those that leave no room
                for a response are left out and counted.
            folder: Gets `model/` (float32, with its tokenizer; written whole or not at all),
                `steps.jsonl`, and during the run `checkpoints/`.
            held_out: Prompts for the guard (`settings.guard`), at most `guard.prompts` of each kind
                are used. Without any there is no guard.
            independent: The guard's independent score, in any form of a reward; None for the
                preference model of `guard.independent`, if that is set.
            pretraining: Texts for PPO-ptx, with the weight `ptx_coef`.
            log_dir: For TensorBoard; `folder/logs` if None.
            on_step: Called after each step with its line of `steps.jsonl`.

        Returns:
            `steps`, `prompts`, `prompts_too_long` (left out), `tokens` (sampled), `seconds` (of
            this call), and the last step's `final_score`, `final_kl` (nats per response),
            `final_ended`. With a guard also `alarms` (checks that raised one), and `kept_step`, the
            steps done by the policy that was saved.

        Raises:
            CaiError: The settings, models or prompts cannot be used, or the training diverged.
        """
        start = time.monotonic()
        processes = Processes.here()
        folder = processes.from_main(lambda: Path(folder))
        check_shares(self.settings, processes)
        self._independent = self._second_opinion(independent)
        fitting = self._checked(prompts)
        pool = self._pool(fitting)
        texts = self._pretraining(pretraining)
        guard = self._guard(held_out)
        run = self._identity(fitting, pretraining, guard.prompts if guard else ())
        self._check_memory(max(len(prompt.ids) for prompt in fitting), processes)
        learner, reward = open_models(
            self._policy,
            self.scorers,
            self.settings,
            self._chat,
            processes=processes,
            seed=self.seed,
        )
        self.learner = learner
        if guard is not None and self._independent:
            guard.independent = Reward(loaded(self._independent), self._chat)
        with ExitStack() as stack:
            if self.settings.rollouts == "vllm":
                learner.sampler = stack.enter_context(closing(VLLMRollouts(self._policy)))
            records = run_steps(
                learner,
                pool,
                reward,
                self.settings,
                folder=folder,
                run=run,
                seed=self.seed,
                log_dir=log_dir or folder / "logs",
                pretraining=texts,
                guard=guard,
                on_step=self._after_step(learner, processes, folder, on_step),
            )
        _save(learner, processes, folder / "model")
        processes.from_main(lambda: _tidy(folder, self.settings, last=len(records)))
        return {
            "steps": len(records),
            "prompts": len(fitting),
            "prompts_too_long": len(prompts) - len(fitting),
            "tokens": sum(record["tokens"] for record in records),
            "seconds": time.monotonic() - start,
            **{f"final_{name}": records[-1][metric] for name, metric in _FINALS.items()},
            **({} if guard is None else _guarded(guard, records, self.settings)),
        }

    def _pool(self, prompts: Sequence[TokenPrompt]) -> PromptPool:
        return PromptPool(
            prompts,
            batch_size=self.settings.batch_size,
            red_team_fraction=self.settings.red_team_fraction,
            seed=self.seed,
            samples_per_prompt=self.settings.samples_per_prompt,
        )

    def _after_step(
        self, learner: Learner, processes: Processes, folder: Path, on_step: OnStep | None
    ) -> OnStep:
        """Return what saves a snapshot if one is due, then calls `on_step` in the main process."""
        every = self.settings.snapshot_steps

        def stepped(metrics: Mapping[str, float]) -> None:
            step = int(metrics["step"])
            if every is not None and step % every == 0 and step < self.settings.steps:
                _save(learner, processes, snapshot_folder(folder, step))
            if on_step and processes.is_main:
                on_step(metrics)

        return stepped

    def _checked(self, prompts: Sequence[PromptLike]) -> list[TokenPrompt]:
        """Check everything that needs no loaded model; return the prompts to use."""
        if self.settings.rollouts == "vllm":
            import_vllm()
        self._chat = policy_format(self._policy, self._tokenizer)
        check_kind(self._policy)
        judges = self._judges()
        for judge in judges:
            check_same_tokens(self._chat, judge_format(judge), judge)
        self._context = shared_context([self._policy, *judges])
        return self._tokens(prompts)

    def _second_opinion(self, given: RewardLike | None) -> dict[str, tuple[Any, float]]:
        """Return the independent scorers by name, if any."""
        rules = self.settings.guard
        said = given if given is not None or rules is None else rules.independent
        return {} if said is None else named_scorers(said)

    def _judges(self) -> list[Judge]:
        """Return all preference models, those of the reward first."""
        both = (self.scorers, self._independent)
        return [judge for scorers in both for judge in preference_models(scorers).values()]

    def _tokens(self, prompts: Sequence[PromptLike], named: str = "prompt") -> list[TokenPrompt]:
        return tokenize_prompts(
            prompts,
            self._chat,
            context=self._context,
            max_new_tokens=self.settings.max_new_tokens,
            named=named,
        )

    def _check_memory(self, longest_prompt: int, processes: Processes) -> None:
        """Raise a CaiError that says what to change if the models will not fit."""
        check_fits(
            self._policy,
            self.scorers,
            self._independent,
            self.settings,
            longest_prompt=longest_prompt,
            processes=processes,
        )

    def _pretraining(self, texts: Sequence[str]) -> Pretraining | None:
        if bool(texts) != bool(self.settings.ptx_coef):
            raise CaiError(
                f"`ppo.ptx_coef` is {self.settings.ptx_coef:g} and there are {len(texts)} "
                "pretraining texts: PPO-ptx needs both. Give both, or neither."
            )
        if not texts:
            return None
        length = min(self.settings.ptx_length, shared_context([self._policy]))
        return Pretraining(texts, self._chat, length=length, seed=self.seed)

    def _guard(self, held_out: Sequence[PromptLike]) -> Guard | None:
        rules = self.settings.guard
        needs = self.settings.keep == "best" or (rules is not None and rules.action != "warn")
        if rules is None or not held_out:
            if needs or self._independent:
                raise CaiError(
                    "`ppo.keep: best`, `ppo.guard.action` other than `warn` and an independent "
                    "scorer need held-out prompts. Set `ppo.guard: {}` and give some "
                    "(`held_out=`)."
                )
            return None
        fitting = self._tokens(held_out, "held-out prompt")
        kinds = {prompt.kind for prompt in fitting}
        some = [[p for p in fitting if p.kind == kind][: rules.prompts] for kind in kinds]
        chosen = [prompt for of_kind in some for prompt in of_kind]
        chosen.sort(key=lambda prompt: (prompt.kind or "", prompt.ids))
        return Guard(chosen, self.settings, rules, self.seed)

    def _identity(
        self,
        prompts: Sequence[TokenPrompt],
        pretraining: Sequence[str],
        held_out: Sequence[TokenPrompt],
    ) -> str:
        """Hash all that determines the weights, so that no checkpoint of another run is resumed."""
        return content_hash(
            # What `reward` asks, and whom, is in the identity of its scorers.
            self.settings.model_dump(exclude={*RESUMABLE, "reward"}),
            identity(self._policy),
            [identity(judge) for judge in self._judges()],
            [
                (name, w, getattr(scorer, "identity", None))
                for name, (scorer, w) in [*self.scorers.items(), *self._independent.items()]
            ],
            [(prompt.kind, prompt.ids) for prompt in prompts],
            list(pretraining),
            [prompt.ids for prompt in held_out],
            self.seed,
        )


def _guarded(
    guard: Guard, records: Sequence[Mapping[str, float]], settings: PPOSettings
) -> dict[str, float]:
    best = ends_with_best(records, settings)
    return {
        "alarms": sum(record.get("guard/alarms", 0) > 0 for record in records),
        "kept_step": guard.best_step if best else len(records),
    }


def _tidy(folder: Path, settings: PPOSettings, *, last: int) -> None:
    """Remove the checkpoints, and snapshots that these settings would not have kept."""
    tidy_snapshots(folder, settings.snapshot_steps, last=last)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _save(learner: Learner, processes: Processes, folder: Path) -> None:
    """Save the policy as a plain transformers folder with its stop tokens."""
    weights = learner.plain_weights()
    processes.from_main(lambda: _write(learner, weights, folder))


def _write(learner: Learner, weights: Mapping[str, Tensor], folder: Path) -> None:
    # Sampling defaults of the model it once was do not carry over: some do not even save.
    old = cast("Any", learner.policy.generation_config)
    learner.policy.generation_config = GenerationConfig(
        bos_token_id=old.bos_token_id,
        eos_token_id=sorted(learner.chat.stop_ids),
        pad_token_id=old.pad_token_id,
    )
    with whole_folder(folder) as out:
        learner.policy.save_pretrained(out, state_dict=dict(weights))
        learner.chat.tokenizer.save_pretrained(out)
