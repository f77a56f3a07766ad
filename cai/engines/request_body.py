"""The fields of a request's body: which of them a server takes, as set and as its refusals teach.

A field is left out, gets another name or a smaller value, by `server.omit` and `server.rename` or
because the server has refused it. What is learnt holds for every engine of a model in this process
and is said once. Rows record what was sampled otherwise than asked for.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from cai.engines import SERVERS_OWN
from cai.engines.error_bodies import Complaint, complaints_in
from cai.engines.server_errors import REFUSING, one_line, server_of, where_of
from cai.settings import ModelSettings

log = logging.getLogger(__name__)

Fields = Mapping[str, Any]

OTHER_NAMES = {
    "max_tokens": ("max_completion_tokens", "max_output_tokens", "max_new_tokens"),
    "seed": ("random_seed",),
}
"""What servers call a field that they do not know under its usual name."""
ONE_ANSWER = re.compile(
    r"(?:only|just) (?:one|1|a single) (?:completion|choice|candidate|answer)"
    r"|multiple (?:completion|choice|candidate)s",
    re.I,
)
"""Words about `n` without its name (llama.cpp, Gemini)."""
UNKNOWN = re.compile(
    r"unknown|unrecogni[sz]ed|unexpected|extra[ _](?:input|field|forbidden)|not permitted"
    r"|cannot find field|additional propert",
    re.I,
)
"""A server that says so takes no fields but those that it knows."""
UNSUPPORTED = re.compile(
    r"unsupported|deprecated|(?:not|n't) (?:currently |yet )?(?:be )?"
    r"(?:support|allow|available|enabled|implement|accept)",
    re.I,
)
ONE_VALUE = re.compile(
    r"unsupported[ _]value|only the default|must be (?:equal to )?1(?:\.0)?(?![\d.])"
    r"|only (?:supports? |accepts? |\w+ ?= ?)?1(?:\.0)?(?![\d.])|strictly positive"
    r"|must be positive|(?:greater than|>) 0(?:\.0)?(?![\d.])",
    re.I,
)
"""Of a temperature: the server takes the field, but not this value."""
LIMIT = re.compile(
    r"(?:more than|less than or equal to|at most|must be(?: equal to)?|only `?n`? ?=|<=|=="
    r"|max(?:imum)?(?: (?:value|length|number))?(?: is| of)?|\d+ (?:and|to)) *(\d+)",
    re.I,
)
_LIMITED = ("n", "stop", "top_logprobs", "logprobs")
_RECORDED = {"temperature": "temperature", "seed": "seed", "max_tokens": "max_new_tokens"}
"""Fields that decide what is sampled, and what rows call them."""
_COSTS = {
    "seed": "without it: what is sampled cannot be repeated by another run with the same seed",
    "temperature": "without it: the server's own temperature holds, which rows record",
    "n": "without it: each sampled answer that a verdict is counted from is a request",
    "stop": "without it: answers are cut at these texts here, after they were sampled and paid for",
}


class RequestBody:
    """Writes the fields of requests as one server takes them."""

    def __init__(self, settings: ModelSettings) -> None:
        """Know what the settings say."""
        server = server_of(settings)
        self.lists = "logprobs" not in server.omit
        """False if the server gives no log-probabilities."""
        self._settings = settings
        self._names: dict[str, str | None] = {**dict.fromkeys(server.omit), **server.rename}
        self._wrong_names: set[str] = set()
        self._wrong_values: set[tuple[str, float]] = set()
        self._limits: dict[str, int] = {}

    def fitted(self, asked: Fields) -> dict[str, Any]:
        """Return the fields as this server takes them, and those of `options` of the settings."""
        sent: dict[str, Any] = {}
        for field, value in asked.items():
            name = self._names.get(field, field)
            is_wrong = field == "temperature" and (field, value) in self._wrong_values
            if name is not None and not is_wrong:
                sent[name] = _at_most(value, self._limits.get(field))
        return {**sent, **self._settings.options}

    def sampled_otherwise(self, asked: Fields) -> dict[str, str]:
        """Say in words what decides the sampling and is not sent as asked, by its name in rows."""
        sent, found = self.fitted(asked), dict[str, str]()
        for field, known_as in _RECORDED.items():
            name = self._names.get(field) or field
            if field in asked and sent.get(name) != asked[field]:
                found[known_as] = f"{sent[name]} (`options`)" if name in sent else SERVERS_OWN
        return found

    def learn(self, complaints: Iterable[Complaint], asked: Fields, sent: Fields) -> bool:
        """Learn from a refusal, and say whether the request would now be another one.

        Args:
            complaints: What the server says.
            asked: The request's fields before `fitted`.
            sent: The same after it.
        """
        for complaint in complaints:
            name = complaint.field or _mentioned(complaint.words, sent)
            if name == "logprobs" and "top_logprobs" in sent:
                name = "top_logprobs"  # which has the number that `logprobs` has elsewhere
            for field in asked:
                if name and name in sent and name == self._names.get(field, field):
                    self._learn(field, complaint.words, asked, sent[name])
        return self.fitted(asked) != sent

    def gives_one_answer(self) -> None:
        """Learn that the server gives one answer, whatever `n` says."""
        if self._names.get("n", "n") is not None:
            self._names["n"] = None
            self._say("gives one answer to a request for several", "", _COSTS["n"])

    def gives_no_logprobs(self, words: str) -> None:
        """Learn that the server gives no log-probabilities, and say what that costs."""
        if self.lists:
            self.lists, count = False, server_of(self._settings).samples
            so = (
                f"without them: each verdict is counted from {count} sampled answers "
                f"(`server.samples`) in one request, or in {count} requests where the server gives "
                "one answer at a time"
            )
            self._say("gives no log-probabilities", words, so)

    def _learn(self, field: str, words: str, asked: Fields, value: Any) -> None:  # noqa: ANN401
        name = self._names.get(field, field) or field
        limit = LIMIT.search(words)
        if field in _LIMITED and limit and "logprob_token_ids" not in asked:
            most = int(limit.group(1))
            if most > 0 and (field, most) != ("n", 1):
                if most < min(_size(value), self._limits.get(field, most + 1)):
                    self._limits[field] = most
                    self._say(f"takes at most {most} as `{name}`", words, "with that many")
                return
        unknown, one_value = UNKNOWN.search(words), ONE_VALUE.search(words)
        if field == "temperature" and one_value and not unknown:
            if (field, value) not in self._wrong_values:
                self._wrong_values.add((field, value))
                self._say(f"does not take {value} as `{name}`", words, _COSTS[field])
        elif unknown or UNSUPPORTED.search(words):
            self._rename(field, name, words, is_strict=bool(unknown))
        elif field == "n" and (limit or one_value or ONE_ANSWER.search(words)):
            self._rename(field, name, words, is_strict=False)

    def _rename(self, field: str, name: str, words: str, *, is_strict: bool) -> None:
        """Use another name of a field that the server does not take, or leave it out."""
        self._wrong_names.add(name)
        others = [one for one in OTHER_NAMES.get(field, ()) if one not in self._wrong_names]
        better = next((one for one in others if re.search(rf"\b{one}\b", words)), None)
        if better is None and is_strict and name == field:
            better = next(iter(others), None)
        if better is not None:
            self._names[field] = better
            self._say(f"does not take `{name}`", words, f"with `{better}` in its place")
        elif field in _COSTS:  # but no other field, such as the limit of an answer's length
            self._names[field] = None
            self._say(f"does not take `{name}`", words, _COSTS[field])

    def _say(self, what: str, words: str, so: str) -> None:
        said = one_line(words, server_of(self._settings)).rstrip(".")
        where, why = where_of(self._settings), f" ({said})" if said else ""
        log.warning("%s %s%s. The run goes on %s.", where, what, why, so)


REMEMBERED: dict[ModelSettings, RequestBody] = {}
"""What this process knows of the servers of its models."""


def body_for(settings: ModelSettings) -> RequestBody:
    """Return what writes the requests to a model, the same one for each of its engines."""
    return REMEMBERED.setdefault(settings, RequestBody(settings))


def complaints_of(error: Exception) -> list[Complaint]:
    """Return what an error of the client says of the fields of a request, in whatever shape."""
    if getattr(error, "status_code", None) not in REFUSING:
        return []
    found = [*complaints_in(getattr(error, "body", None))]
    return found or [Complaint("", str(error), str(error))]


def _mentioned(words: str, sent: Fields) -> str | None:
    """Return the field that an error's words name first, be it one of cai's or another's."""
    places = {
        name: found.start()
        for name in (*sent, "messages", "prompt")
        if (found := re.search(_MENTION.format(name=re.escape(name)), words))
        or (found := _bare(name, words))
    }
    if places:
        return min(places, key=lambda name: places[name])
    return "n" if ONE_ANSWER.search(words) else None


_MENTION = r"""['"`‘“]{name}['"`’”]"""


def _bare(name: str, words: str) -> re.Match[str] | None:
    """Find a field's name without quotation marks."""
    if name in ("messages", "prompt"):  # usual words of English
        return None
    after = r"(?= *(?:=|>|must|value|is\b)|$)" if len(name) == 1 else ""
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-]){after}", words)


def _size(value: Any) -> int:  # noqa: ANN401
    return len(value) if isinstance(value, list) else int(value)  # pyright: ignore


def _at_most(value: Any, limit: int | None) -> Any:  # noqa: ANN401
    if limit is None:
        return value
    return value[:limit] if isinstance(value, list) else min(value, limit)
