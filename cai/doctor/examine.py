"""Examine a model: what its chat template, engines, trainings and memory allow, stage by stage."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cai.doctor.findings import Examination, Finding, State
from cai.doctor.template import examine_template
from cai.errors import CaiError
from cai.models.chat import ChatFormat
from cai.models.loading import eos_ids, load_tokenizer, model_folder
from cai.settings import ModelSettings

_STAGES: dict[str, tuple[tuple[str, str], ...]] = {
    "revise, compare, evaluate": (),
    "sft, dpo": (("training", "output layer"),),
    "preference, harmfulness": (("training", "score head"),),
    "ppo": (("training", "output layer"), ("engines", "sampling")),
}
"""What each stage needs beyond a chat format."""
_WORST: tuple[State, ...] = ("no", "not tried", "limited")


def examine(settings: ModelSettings) -> Examination:
    """Find out what holds for a model; no weights are loaded, or downloaded.

    A server is asked for its list of models, and for nothing else.

    Raises:
        CaiError: There is no such model, its config or tokenizer cannot be read, or the server
            does not answer.
    """
    findings = _served(settings) if settings.engine == "openai" else _local(settings)
    return Examination(model=settings.path, engine=settings.engine, findings=tuple(findings))


def _served(settings: ModelSettings) -> list[Finding]:
    from cai.engines.openai import OpenAIEngine
    from cai.engines.opening import open_engine

    engine = open_engine(settings)
    assert isinstance(engine, OpenAIEngine)
    kind = engine.scores
    asyncio.run(engine.close())
    said = {
        "exact": "exact, of every option",
        "echo": "exact, one request per option",
        "top": "from the likeliest tokens, with bounds; without any, verdicts are sampled",
        "samples": "sampled verdicts, counted",
    }[kind]
    return [
        _finding("model", "server", "ok", "the server knows the model, or does not list models"),
        _finding("engines", "openai", "not tried", "no request was sent to the model"),
        _finding("engines", "scores", "not tried", f"`{kind}`: {said}"),
        _finding("stages", "revise, compare, evaluate", "not tried", "by the server"),
        *(
            _finding("stages", stage, "no", "trainings need the weights: give a folder or hub id")
            for stage in list(_STAGES)[1:]
        ),
    ]


def _local(settings: ModelSettings) -> list[Finding]:
    from transformers import AutoConfig

    from cai.doctor.architecture import examine_architecture

    folder = model_folder(settings, weights=False)
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    findings = [_finding("model", "type", "ok", f"`{config.model_type}`"), _weights(folder)]
    chat = None
    try:
        chat, form = _chat_format(settings, folder)
        findings += [*form, *examine_template(chat)]
    except CaiError as error:
        findings.append(_finding("chat template", "form", "no", str(error)))
    try:
        vocabulary = None if chat is None else len(chat.tokenizer)
        findings += examine_architecture(config, settings, vocabulary)
    except CaiError as error:
        findings.append(_finding("engines", "transformers", "no", str(error)))
    return [*findings, *_stages(settings, findings)]


def _weights(folder: Path) -> Finding:
    try:
        model_folder(ModelSettings(path=str(folder)))
    except CaiError as error:
        missing = not [*folder.glob("*.safetensors*")]
        if missing:
            return _finding("model", "weights", "not tried", "there are none here yet")
        return _finding("model", "weights", "no", str(error))
    return _finding("model", "weights", "ok", "the files are whole; they were not loaded")


def _chat_format(settings: ModelSettings, folder: Path) -> tuple[ChatFormat, list[Finding]]:
    """Return the chat format; without a template, that of transcripts, and a finding on it."""
    tokenizer: Any = load_tokenizer(settings, weights=False)
    if tokenizer.chat_template:
        return ChatFormat(tokenizer, eos_ids(folder)), []
    transcript = settings.model_copy(update={"format": "transcript"})
    said = "there is none: set `format: transcript` of the model, for which the rest here holds"
    chat = ChatFormat(load_tokenizer(transcript, weights=False), eos_ids(folder))
    return chat, [_finding("chat template", "own template", "limited", said)]


def _stages(settings: ModelSettings, findings: list[Finding]) -> Iterator[Finding]:
    """Say for each stage whether it can use the model, and what is missing."""
    states: dict[tuple[str, str], State] = {(f.area, f.name): f.state for f in findings}
    chosen: State = states.get(("engines", settings.engine), "no")
    ppo = states.get(("engines", "transformers"), "no")
    states |= {("engines", "chosen"): chosen, ("engines", "sampling"): ppo}
    shown = {"chosen": settings.engine, "sampling": "transformers"}
    always = (("chat template", "form"), ("chat template", "round trip"), ("model", "weights"))
    for stage, more in _STAGES.items():
        needs = more or (("engines", "chosen"),)
        needed = (*always, ("engines", "vocabulary"), *needs)
        found: dict[tuple[str, str], State] = {}
        for need in needed:
            found[need] = states[need] if need in states else _default(need)
        state = _worst(found.values())
        causes = [f"{area}: {shown.get(n, n)}" for (area, n), s in found.items() if s == state]
        said = f"see {'; '.join(causes)}" if state != "ok" else "nothing is missing"
        yield _finding("stages", stage, state, f"{said}; the model was not run")


def _worst(states: Iterable[State]) -> State:
    found = set(states)
    for state in _WORST:
        if state in found:
            return state
    return "ok"


def _default(need: tuple[str, str]) -> State:
    return "ok" if need == ("engines", "vocabulary") else "no"


def _finding(area: Any, name: str, state: State, detail: str) -> Finding:  # noqa: ANN401
    return Finding(area=area, name=name, state=state, detail=detail)
