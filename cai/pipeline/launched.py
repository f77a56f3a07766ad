"""What each launched process does: `python -m cai.pipeline.launched JOB`.

It speaks to the process that launched it (`cai.pipeline.launch`) in JSON lines of one pair each:
`step` and `warning` as they come, and `result` or `error` at the end. When that one is gone, so is
the other end of this one's standard input, and this one ends too: a new run may be in the folder.
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
        """Say it."""
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
    """Train; the first process speaks, except that each may say why it fails."""
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
