"""Critique and revision over 500 prompts: cai against distilabel 1.5.3, on one vLLM server.

    python -m benchmarks.peer_distilabel --json peer_distilabel.json

A response, a critique and a revision for each prompt, the same requests in the same words, of so
many tokens each (the end of text is ignored), from one local server (vLLM's, from `.venv-vllm`) on
the playground model. distilabel gets the best of its batch sizes. Then each is killed (-9) when
half of the answers are there, and started again: the JSON says how many finished rows it had left
on disk, and how many requests the server had to answer twice. distilabel gets an environment of its
own in `.peers/distilabel`.
"""

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.peers import ON_ONE_THREAD, ROOT, peer_python, vllm_server
from benchmarks.ratios import conclude, options
from cai.data.store import read_json
from cai.models.loading import PLAYGROUND

REQUIREMENTS = ("distilabel[openai]==1.5.3", "requests")
BATCHES = (50, 250)
TOKENS = 24
CALLS = 3
THEIRS = Path(__file__).with_name("theirs.py")
WHOLE = "rows/s, start of the process to its end"
CHAIN = "rows/s, the chain alone"
CONSTITUTION = """\
schema: 1
name: one
principles:
  - id: harm
    critique: Say how the response could hurt somebody.
    revision: Rewrite the response so that nobody is hurt.
"""
PIPELINE = """\
name: chain
constitution: constitution.yaml
models:
  helpful:
    path: model
    engine: openai
    server: {base_url: URL, concurrency: 128}
    options: {ignore_eos: true}
prompts: {red_team: prompts.jsonl, helpful: one.jsonl, held_out: 0, near_duplicate: 1}
revise: {rounds: 1, max_new_tokens: TOKENS, concurrency: 128}
"""


def write_inputs(folder: Path, url: str, count: int) -> None:
    """Write what both sides read."""
    things = ("bike", "letter", "garden", "phone", "kettle", "violin", "tent", "lamp")
    prompts = [
        {"prompt": f"How do I {verb} the {thing} of neighbour number {n}?"}
        for n in range(count)
        for verb, thing in [(("hide", "break", "take")[n % 3], things[n % len(things)])]
    ]
    lines = "".join(json.dumps(row) + "\n" for row in prompts)
    (folder / "prompts.jsonl").write_text(lines)
    (folder / "one.jsonl").write_text('{"prompt": "What is rain?"}\n')
    (folder / "constitution.yaml").write_text(CONSTITUTION)
    text = PIPELINE.replace("URL", f"{url}/v1").replace("TOKENS", str(TOKENS))
    (folder / "chain.yaml").write_text(text)


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start one side in a process group of its own, on one thread."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | ON_ONE_THREAD,
        stdout=log.open("a"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def ours(folder: Path, out: Path) -> list[str]:
    """Return cai's command."""
    return [sys.executable, "-m", "cai", "run", str(folder / "chain.yaml"), "--out", str(out)]


def theirs(folder: Path, out: Path, url: str, batch: int) -> list[str]:
    """Return distilabel's command."""
    python = peer_python("distilabel", REQUIREMENTS)
    files = [str(folder / "prompts.jsonl"), f"{url}/v1", str(TOKENS), str(batch)]
    return [str(python), str(THEIRS), *files, str(out / "cache"), str(out / "result.json")]


def timed(command: list[str], log: Path, limit: float | None = None) -> float:
    """Return the seconds that a side takes; infinity if it is stopped at the limit."""
    started = time.monotonic()
    process = start(command, log)
    try:
        failed = process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return math.inf
    if failed:
        raise SystemExit(f"{log.read_text()[-3000:]}\nfailed: {' '.join(command)}")
    return time.monotonic() - started


def measure_ours(folder: Path, out: Path) -> tuple[float, float]:
    """Return seconds of the process, and of the chain."""
    out.mkdir()
    seconds = timed(ours(folder, out), out / "log")
    return seconds, read_json(out / "revise" / "metrics.json")["seconds"]


def measure_theirs(folder: Path, out: Path, url: str, batch: int) -> tuple[float, float]:
    """Return seconds of the process, and of the chain."""
    out.mkdir()
    seconds = timed(theirs(folder, out, url, batch), out / "log")
    return seconds, read_json(out / "result.json")["seconds"]


def answered(url: str) -> int:
    """Return how many requests the server has answered so far."""
    with urllib.request.urlopen(f"{url}/metrics") as page:
        text = page.read().decode()
    found = re.findall(r"^vllm:request_success_total\{.*\} ([\d.e+]+)$", text, re.MULTILINE)
    return round(sum(map(float, found)))


def killed(
    command: list[str], out: Path, url: str, count: int, left: Callable[[], int], usual: float
) -> dict[str, int | str]:
    """Kill a side when half of its answers are there, start it again, and say what that cost.

    Args:
        command: The side's.
        out: Where it writes.
        url: The server's.
        count: Prompts.
        left: Counts the finished rows on disk.
        usual: Seconds of an undisturbed run; five times as many count as standing still.
    """
    out.mkdir()
    before = answered(url)
    limit = max(60.0, 5 * usual)
    process = start(command, out / "log")
    deadline = time.monotonic() + limit
    try:
        while answered(url) - before < CALLS * count // 2:
            if process.poll() is not None or time.monotonic() > deadline:
                said = (out / "log").read_text()[-3000:]
                raise SystemExit(f"{said}\nended or stood still before it was killed")
            time.sleep(0.1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    rows = left()
    if math.isinf(timed(command, out / "log", limit)):
        said = f"did not end in {limit:.0f} s, with {answered(url) - before} answers"
        return {"finished rows on disk after the kill": rows, "started again, it": said}
    return {
        "finished rows on disk after the kill": rows,
        "answers asked for twice": answered(url) - before - CALLS * count,
    }


def rows_of_ours(out: Path) -> int:
    """Count whole rows that are on disk."""
    partial = out / "revise" / "rows.partial.jsonl"
    return len(partial.read_bytes().splitlines()) if partial.exists() else 0


def rows_of_theirs(out: Path) -> int:
    """Count the rows of the last step that are on disk."""
    files = [f for f in (out / "cache").rglob("*.parquet") if "revise" in str(f)]
    counts: list[int] = []
    for file in files:
        try:
            counts.append(pq.read_table(file).num_rows)
        except OSError:  # torn by the kill
            counts.append(0)
    return sum(counts)


def user_lines() -> dict[str, int]:
    """Count the lines that a user writes, blank ones and comments left out."""
    script = THEIRS.read_text().split("# ---")[1].split("\n", 1)[1]

    def count(text: str) -> int:
        lines = (line.strip() for line in text.splitlines())
        return sum(bool(line) and not line.startswith("#") for line in lines)

    return {"cai (two YAML files)": count(PIPELINE + CONSTITUTION), "distilabel": count(script)}


def main() -> int:
    """Measure, print and save."""
    parser = options(__doc__ or "", rounds=3)
    parser.add_argument("--prompts", type=int, default=500)
    chosen = parser.parse_args()
    count: int = chosen.prompts
    peer_python("distilabel", REQUIREMENTS)
    mine, peers = (0.0, 0.0), [(0.0, 0.0)]
    whole: list[float] = []
    chain: list[float] = []
    more: dict[str, Any] = {"lines of user code": user_lines(), "seconds": []}
    with tempfile.TemporaryDirectory() as name, vllm_server(PLAYGROUND) as url:
        folder = Path(name)
        write_inputs(folder, url, count)
        for number in range(chosen.rounds):
            mine = measure_ours(folder, folder / f"ours-{number}")
            peers = [
                measure_theirs(folder, folder / f"theirs-{number}-{batch}", url, batch)
                for batch in BATCHES
            ]
            peer = min(peers)
            whole.append(peer[0] / mine[0])
            chain.append(peer[1] / mine[1])
            more["seconds"].append(
                {"cai": mine, "distilabel": dict(zip(BATCHES, peers, strict=True))}
            )
            print(
                f"round {number + 1}: cai {mine[0]:.1f} s, distilabel {peer[0]:.1f} s", flush=True
            )
        out = folder / "killed-ours"
        more["killed, cai"] = killed(
            ours(folder, out), out, url, count, lambda: rows_of_ours(out), mine[0]
        )
        gone = folder / "killed-theirs"
        command = theirs(folder, gone, url, BATCHES[0])
        more["killed, distilabel"] = killed(
            command, gone, url, count, lambda: rows_of_theirs(gone), peers[0][0]
        )
    for label in ("lines of user code", "killed, cai", "killed, distilabel"):
        print(f"{label}: {more[label]}")
    return conclude("peer_distilabel", {WHOLE: whole, CHAIN: chain}, {}, chosen.json, **more)


if __name__ == "__main__":
    sys.exit(main())
