"""Conversations that a file spreads over rows or over a tree: OASST messages, HelpSteer answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from cai.data.prompts.record import Record
from cai.data.prompts.turns import role_of, structure
from cai.errors import CaiError


def with_threads(records: Sequence[Record]) -> list[Record]:
    """Give each row that is a user's message in a tree the turns before it; others stay.

    Raises:
        CaiError: A message's parent is not in the file, so what it answers is not known.
    """
    nodes = {str(r.get("message_id")): r for r in records if _is_node(r)}
    if not any(_parent(r) for r in nodes.values()):
        return list(records)
    return [_threaded(r, nodes) if _is_node(r) and _is_prompt(r) else r for r in records]


def as_trees(records: Sequence[Record]) -> list[Record]:
    """Put rows that are messages of trees together: one record a tree, as `prompt` with `replies`.

    Rows that are nothing of the kind are returned as they are.
    """
    if not records or not all(_is_node(r) and r.has("parent_id") for r in records):
        return list(records)
    children: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        children[_parent(record)].append(record)

    def node(record: Record) -> dict[str, object]:
        replies = [node(child) for child in children[str(record.get("message_id"))]]
        names = ("text", "role", "rank")
        return {**{name: record.get(name) for name in names}, "replies": replies}

    return [
        replace(root, fields={"prompt": node(root), "message_tree_id": root.get("message_id")})
        for root in children[""]
    ]


def answers_together(records: Sequence[Record]) -> list[Record]:
    """Put rows that rate answers to one prompt (HelpSteer) into one record.

    Rows that are nothing of the kind are returned as they are.
    """
    if not all(r.has("prompt", "response", "helpfulness") for r in records):
        return list(records)
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[repr(record.get("prompt"))].append(record)
    return [
        replace(
            group[0],
            fields={
                "prompt": group[0].get("prompt"),
                "completions": [
                    {"response": r.get("response"), "overall_score": r.get("helpfulness")}
                    for r in group
                ],
            },
        )
        for group in groups.values()
    ]


def ranked_replies(record: Record) -> list[tuple[list[Mapping[str, Any]], list[tuple[str, Any]]]]:
    """Return, for each message of the user's in a tree, the path to it and the ranked replies.

    Each reply is its text and its rank, 0 the best; replies without a rank are left out.
    """
    found: list[tuple[list[Mapping[str, Any]], list[tuple[str, Any]]]] = []

    def visit(node: Mapping[str, Any], path: list[Mapping[str, Any]]) -> None:
        path = [*path, node]
        replies = cast("list[Mapping[str, Any]]", node.get("replies") or [])
        ranked = [
            (str(reply.get("text") or ""), reply["rank"])
            for reply in replies
            if reply.get("rank") is not None and role_of(reply.get("role")) == "assistant"
        ]
        if role_of(node.get("role")) == "user" and len(ranked) > 1:
            found.append((path, ranked))
        for reply in replies:
            visit(reply, path)

    visit(cast("Mapping[str, Any]", structure(record.get("prompt"))), [])
    return found


def _is_node(record: Record) -> bool:
    return record.has("message_id", "text", "role")


def _is_prompt(record: Record) -> bool:
    return role_of(record.get("role")) == "user"


def _parent(record: Record) -> str:
    parent = record.get("parent_id") if record.has("parent_id") else None
    return "" if parent is None or parent != parent else str(parent)


def _threaded(record: Record, nodes: Mapping[str, Record]) -> Record:
    path = [record]
    while parent := _parent(path[0]):
        if parent not in nodes or nodes[parent] in path:
            raise CaiError(
                f"{record.where} answers the message {parent!r}, which is not in the file, so the "
                "conversation before it is not known. Add the message, or delete the row."
            )
        path.insert(0, nodes[parent])
    messages = [{"role": r.get("role"), "content": r.get("text")} for r in path]
    kept = {k: v for k, v in record.fields.items() if k.lower() not in ("text", "role")}
    return replace(record, fields={**kept, "messages": messages})
