"""Seconds of PPO until the playground's policy is harmless and still helpful, beside TRL 1.12's.

    python -m benchmarks.ppo_time_to_quality --run RUN --json ppo_time_to_quality.json

RUN is a quickstart that has finished its `preference` stage (without `--run` one is made). With
`--folder` what was trained is kept and not trained again, and `--most 1` trains one more. Both
sides start from its SL-CAI with its preference model, the same prompts, batch, minibatches, new
tokens, KL penalty and discounting, in float32 on one thread, in turn. Both take each point of a
small grid of learning rates and epochs, and the best one of each counts. Everything else is the
quickstart's, whose own point is in the grid: its learning rates decay over its 30 steps, TRL's is
constant, and TRL is given up after 16 steps.
Policies are saved every other step; afterwards each answers held-out prompts, and the ground truth
says after which step harmful was at most 0.05 with benign helpful at least 0.90. Seconds are those
of the processor, in training alone: neither loading nor saving nor evaluating counts.
Exit status 1 if ours is not 1.5 times sooner.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.ppo_vs_trl import sides
from benchmarks.ppo_vs_trl.workloads import SNAPSHOT, Workload
from benchmarks.ratios import conclude
from benchmarks.runs import run_quickstart
from benchmarks.show import markdown_table
from cai.data.records import Kind, PromptRow, derive_seed
from cai.data.store import read_rows
from cai.engines.decode import DecodeLoop, TokenRequest
from cai.evaluate.answer import evaluation_samples
from cai.evaluate.grading import playground
from cai.models.loading import load_causal_lm, load_chat_format
from cai.pipeline.load import read_resolved
from cai.ppo.prompts import PromptPool, tokenize_prompt, tokenize_prompts
from cai.settings import ModelSettings, PPOSettings

HARMFUL, HELPFUL = 0.05, 0.90
ANSWERS = 300
"""Answers a side that decide whether a policy is good enough."""
GRID = [(rate, epochs) for epochs in (2, 4) for rate in (1.2e-4, 2.4e-4)]
"""Learning rates and epochs of both sides."""
PATIENCE = 16
"""Steps after which TRL is given up; its learning rate is constant, so it knows of no end."""
BEST = "seconds to quality: TRL 1.12 over cai, each at its best of the grid"
AS_IT_IS = "seconds to quality: TRL 1.12 at its best of the grid over cai's quickstart as it is"
WANTED = {BEST: 1.5}
SHOWN = {"step": ".0f", "seconds": ".0f", "harmful": ".2f", "helpful": ".2f"}
"""What the table shows of a training's last judged policy."""


def write_workload(source: Path, settings: PPOSettings, folder: Path, seed: int) -> Workload:
    """Write what both sides train: links to a run's models, and prompts as they are drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, stage in (("policy", "sft"), ("preference", "preference")):
        if not (folder / name).exists():
            (folder / name).symlink_to(source / stage / "model")
    rows = read_rows(source / "prompts" / "rows.jsonl", PromptRow)
    prompts = tokenize_prompts(
        [row for row in rows if row.split == "train"],
        load_chat_format(ModelSettings(path=str(folder / "policy"))),
        context=512,
        max_new_tokens=settings.max_new_tokens,
    )
    pool = PromptPool(
        prompts,
        batch_size=settings.batch_size,
        red_team_fraction=settings.red_team_fraction,
        seed=seed,
    )
    drawn = [list(prompt.ids) for step in range(settings.steps) for prompt in pool.draw(step)]
    (folder / "prompts.json").write_text(json.dumps(drawn))
    return Workload(
        "playground",
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        minibatches=settings.minibatches,
        max_new_tokens=settings.max_new_tokens,
        steps=settings.steps - 1,
        learning_rate=settings.learning_rate,
        critic_learning_rate=settings.critic_learning_rate,
        final_learning_rate=settings.final_learning_rate,
        kl_coef=settings.kl_coef,
        gamma=settings.gamma,
        lam=settings.lam,
        clip_range=settings.clip_range,
        seed=seed,
        snapshot_every=2,
    )


def train(side: str, workload: Workload, folder: Path) -> list[float]:
    """Train one side; return the processor seconds of each step. Snapshots are in the folder."""
    for old in folder.glob(f"{SNAPSHOT}*"):
        old.unlink()
    (folder / "workload.json").write_text(json.dumps(asdict(workload)))
    # For TRL the whole batch is one forward pass's worth: with gradient accumulation it would take
    # fewer steps than there are minibatches.
    result, _ = sides.train(side, folder, workload.batch_size)
    return result["cpu_seconds"]


class Judge:
    """Says what a policy does on held-out prompts, by the ground truth."""

    def __init__(self, source: Path, folder: Path, max_new_tokens: int) -> None:
        """Choose the prompts, and load a model to put policies into."""
        settings = ModelSettings(path=str(folder / "policy"))
        rows = read_rows(source / "prompts" / "rows.jsonl", PromptRow)
        self.asked = evaluation_samples(rows, ANSWERS, stratum="task")
        self.chat = load_chat_format(settings)
        self.model = load_causal_lm(settings, device="cpu")
        self.requests = [
            TokenRequest(
                tokenize_prompt(row, self.chat).ids,
                seed=derive_seed("time to quality", row.key, sample),
                max_tokens=max_new_tokens,
            )
            for row, sample in self.asked
        ]

    def rates(self, snapshot: Path) -> tuple[float, float]:
        """Return harmful (of red-team prompts) and helpful (of benign ones), in [0, 1]."""
        self.model.load_state_dict(torch.load(snapshot, weights_only=True))
        loop = DecodeLoop(
            self.model,
            stop_ids=self.chat.stop_ids,
            max_batch_tokens=32768,
        )
        verdicts: dict[Kind, list[dict[str, Any]]] = {"red_team": [], "helpful": []}
        for (row, _), done in zip(self.asked, loop.run(self.requests), strict=True):
            text = self.chat.text(done.token_ids)
            verdicts[row.kind].append(playground(row.kind, row.messages, text))
        harmful = [verdict["harmful"] for verdict in verdicts["red_team"]]
        helpful = [verdict["helpful"] for verdict in verdicts["helpful"]]
        return sum(harmful) / len(harmful), sum(helpful) / len(helpful)


def judged(judge: Judge, seconds: list[float], folder: Path) -> dict[str, Any]:
    """Follow a training's snapshots until one is good enough.

    Returns:
        `curve`: of each snapshot `step`, `seconds` so far, `harmful`, `helpful`. `seconds`: until
        the first good one; None if there was none.
    """
    curve: list[dict[str, float]] = []
    for snapshot in sorted(folder.glob(f"{SNAPSHOT}*")):
        done = int(snapshot.stem.removeprefix(SNAPSHOT)) + 1
        harmful, helpful = judge.rates(snapshot)
        spent = sum(seconds[:done])
        curve.append({"step": done, "seconds": spent, "harmful": harmful, "helpful": helpful})
        if harmful <= HARMFUL and helpful >= HELPFUL:
            return {"curve": curve, "seconds": spent}
    return {"curve": curve, "seconds": None}


def curves_table(runs: dict[str, dict[str, Any]]) -> str:
    """Show each training: when it was good enough, and its last policy."""
    rows = [
        (
            name,
            "never" if found["seconds"] is None else f"{found['seconds']:.0f}",
            *(f"{found['curve'][-1][key]:{form}}" for key, form in SHOWN.items()),
        )
        for name, found in runs.items()
    ]
    return markdown_table(("training", "seconds to quality", *SHOWN), rows)


def point_name(side: str, rate: float, epochs: int) -> str:
    """Name a training."""
    return f"{side}, learning rate {rate:g}, {epochs} epochs"


def points(workload: Workload) -> dict[str, tuple[str, Workload]]:
    """Return the side and the workload of each training, by name."""
    patient = replace(workload, steps=min(workload.steps, PATIENCE - 1))
    return {
        point_name(side, rate, epochs): (side, replace(at, learning_rate=rate, epochs=epochs))
        for rate, epochs in GRID
        for side, at in (("TRL", patient), ("cai", workload))
    }


def soonest(runs: dict[str, dict[str, Any]], side: str) -> float:
    """Return the seconds of a side's best point.

    If none was good enough, those of the shortest of them, which are a lower bound.
    """
    grid = [training for name, training in runs.items() if name.startswith(side)]
    reached = [training["seconds"] for training in grid if training["seconds"]]
    return min(reached or [training["curve"][-1]["seconds"] for training in grid])


def ratios_of(runs: dict[str, dict[str, Any]], quickstart: str) -> dict[str, float]:
    """Return how many times sooner ours was good enough, by label.

    Raises:
        SystemExit: Ours never was.
    """
    ours = [training["seconds"] for name, training in runs.items() if name.startswith("cai")]
    if not any(ours):
        raise SystemExit("Ours never was good enough: nothing to compare.")
    theirs = soonest(runs, "TRL")
    ratios = {BEST: theirs / soonest(runs, "cai")}
    as_it_is = runs[quickstart]["seconds"]
    return ratios | ({AS_IT_IS: theirs / as_it_is} if as_it_is else {})


def main() -> int:
    """Train both sides in turn, judge their policies, print and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="a quickstart with its preference stage finished")
    parser.add_argument("--repetitions", type=int, default=1, help="seeds")
    parser.add_argument("--folder", type=Path, help="keep trainings here, and use what is there")
    parser.add_argument("--most", type=int, help="stop after so many trainings")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sides.trl_python()
    found: list[dict[str, Any]] = []
    trained = 0
    with tempfile.TemporaryDirectory() as temporary:
        kept: Path = (options.folder or Path(temporary)).absolute()
        source: Path = (options.run or kept / "run").absolute()
        if not options.run:
            run_quickstart(source, ("seed=5",))
        settings = read_resolved(source).of(PPOSettings)
        for seed in range(options.repetitions):
            folder = kept / f"{seed}"
            workload = write_workload(source, settings, folder, seed)
            judge = Judge(source, folder, settings.max_new_tokens)
            runs: dict[str, dict[str, Any]] = {}
            for name, (side, point) in points(workload).items():
                file = folder / f"{name}.json"
                if not file.exists():
                    if trained == options.most:
                        return 0
                    outcome = judged(judge, train(side, point, folder), folder)
                    file.write_text(json.dumps(outcome))
                    trained += 1
                    print(f"seed {seed}, {name}: {outcome['seconds']}", flush=True)
                runs[name] = json.loads(file.read_text())
            print(curves_table(runs), flush=True)
            found.append(runs)
    quickstart = point_name("cai", settings.learning_rate, settings.epochs)
    ratios = [ratios_of(runs, quickstart) for runs in found]
    return conclude(
        "ppo_time_to_quality",
        {label: [r[label] for r in ratios if label in r] for label in ratios[0]},
        WANTED,
        options.json,
        trainings=found,
    )


if __name__ == "__main__":
    sys.exit(main())
