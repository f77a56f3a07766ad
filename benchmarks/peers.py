"""Peers in environments of their own, and the vLLM of `make test-vllm`."""

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
import venv
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
ON_ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Environment variables of sides that are measured: one thread, no network."""


def peer_python(name: str, requirements: Sequence[str]) -> Path:
    """Return the Python of a peer's environment in `.peers/`, which is made first if need be."""
    folder = ROOT / ".peers" / name
    python, marker = folder / "bin" / "python", folder / "requirements"
    if not marker.exists() or marker.read_text().split() != list(requirements):
        venv.create(folder, clear=True, with_pip=True)
        install = ["-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        subprocess.run([python, *install, *requirements], check=True)
        marker.write_text("\n".join(requirements))
    return python


@contextmanager
def vllm_server(model: Path, *, seconds: float = 600) -> Generator[str]:
    """Start vLLM's server on a model in float32, named `model`; yields its address.

    Raises:
        SystemExit: There is no vLLM here, or the server does not start.
    """
    if not VLLM_PYTHON.exists():
        raise SystemExit("There is no vLLM here: `make test-vllm` makes .venv-vllm.")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    module = ["-m", "vllm.entrypoints.openai.api_server", "--enforce-eager", "--dtype", "float32"]
    # Requests with seeds end vLLM on a CPU where a step takes a part of their prompt.
    sizes = ["--max-num-seqs", "128", "--no-enable-chunked-prefill"]
    where = ["--host", "127.0.0.1", "--port", str(port), "--model", str(model)]
    quiet = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1"}
    on_a_cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the server)
    process = subprocess.Popen(
        [VLLM_PYTHON, *module, *where, "--served-model-name", "model", *sizes],
        env={**os.environ, **quiet, **on_a_cpu, "PYTHONPATH": ""},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + seconds
        while not _is_up(f"{url}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise SystemExit(f"{log.read()[-3000:]}\nvLLM's server does not start.")
            time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False
