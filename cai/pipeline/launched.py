"""The work of each launched process: `python -m cai.pipeline.launched JOB`.

It sends JSON lines with one pair each to the process that launched it (`cai.pipeline.launch`):
`step` and `warning` at any time, and `result` or `error` at the end. It ends when its standard
input closes, since then that process has died and a new run may use the folder.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from cai.errors import CaiError
from cai.pipeline.launch import read_job


class _Warnings(logging.Handler):
    """Passes warnings on."""

    def emit(self, record: logging.LogRecord) -> None:
        """Send the warning."""
        _say("warning", record.getMessage())


def _say(kind: str, value: Any) -> None:  # noqa: ANN401 (whatever JSON can hold)
    # In one write, so that lines of several processes do not mix.
    os.write(sys.stdout.fileno(), (json.dumps({kind: value}) + "\n").encode())


def _end_with_launcher() -> None:
    """Wait until nobody holds the other end of standard input any more."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> int:
    """Train; the first process sends the messages, but each process can send its error."""
    if "RANK" in os.environ:
        threading.Thread(target=_end_with_launcher, daemon=True).start()
    main_process = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(handlers=[_Warnings() if main_process else logging.NullHandler()])
    job = read_job(Path(sys.argv[1]))
    try:
        result = job.run(lambda metrics: _say("step", dict(metrics)))
    except CaiError as error:
        _say("error", str(error))
        return 1
    if main_process:
        _say("result", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
