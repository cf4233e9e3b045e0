"""The programs that are compared: how each is installed, started, watched and stopped."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from headgate.core.errors import InputError
from headgate.gateway import compiled

READY_S = 240.0
RESTS_WITHIN_S = 10.0
CORES = sorted(os.sched_getaffinity(0))  # before anything is pinned: children inherit that
MODEL = "m"
PACKAGES = {
    "vllm_router": "vllm-router",
    "sglang_router": "sglang-router",
    "litellm": "litellm[proxy]",
}
PLAIN_DOOR = "headgate_plain"  # the same door from its source, where `headgate` is compiled
PEERS = (PLAIN_DOOR, "nginx", *PACKAGES)


@dataclass
class Running:
    """A program that listens."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    key: str = "sk-bench"
    started_s: float = 0.0
    folder: Path = field(default_factory=Path)

    def rss_mb(self) -> float:
        """Memory of the largest process of its family: the one that serves."""
        return max(_rss_mb(pid) for pid in family(self.process.pid))

    def cpu_s(self) -> float:
        """Processor time of the whole family so far."""
        return sum(_cpu_s(pid) for pid in family(self.process.pid))

    def let_rest(self) -> None:
        """Wait until it does nothing: some go on for clients that have left."""
        until_s = time.monotonic() + RESTS_WITHIN_S
        before_s = -1.0
        while self.cpu_s() - before_s > 0.01 and time.monotonic() < until_s:
            before_s = self.cpu_s()
            time.sleep(0.1)


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "headgate" / "peers"


def install(name: str) -> None:
    """See that a peer is there: nginx from the system, the others from PyPI in the cache."""
    if name == PLAIN_DOOR:
        return
    if name == "nginx":
        if shutil.which("nginx") is None and not Path("/usr/sbin/nginx").exists():
            raise InputError("--peers nginx: nginx is not installed; `apt install nginx-light`.")
        return
    place = cache_folder() / PACKAGES[name].partition("[")[0]
    if (place / ".installed").exists() or _command(name).exists():
        return
    uv = shutil.which("uv")
    if uv is None:
        raise InputError(f"--peers {name}: needs uv to install it; `pip install uv`.")
    place.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([uv, "venv", "-q", str(place)], check=True)
    python = str(place / "bin" / "python")
    subprocess.run([uv, "pip", "install", "-q", "--python", python, PACKAGES[name]], check=True)
    (place / ".installed").touch()


def _command(name: str) -> Path:
    program = PACKAGES[name].partition("[")[0]
    return cache_folder() / program / "bin" / program


@contextlib.contextmanager
def door(name: str, upstream: int, folder: Path, core: int, **options: object) -> Iterator[Running]:
    """Run one door in front of the upstream on one core, until the block ends."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    start = {
        "headgate": _headgate,
        PLAIN_DOOR: _headgate,
        "nginx": _nginx,
        "vllm_router": _router,
        "sglang_router": _router,
        "litellm": _litellm,
    }[name]
    command, environment = start(name, upstream, port, folder, options)
    began_s = time.perf_counter()
    with running(name, command, port, core, folder, environment) as made:
        made.started_s = time.perf_counter() - began_s
        if name in ("headgate", PLAIN_DOOR):
            made.key = (folder / "state" / "default-key").read_text().strip()
        yield made


@contextlib.contextmanager
def running(
    name: str,
    command: list[str],
    port: int,
    core: int,
    folder: Path,
    environment: dict[str, str] | None = None,
) -> Iterator[Running]:
    """Start a program pinned to a core, wait until it answers, stop it at the end."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, **(environment or {})},
            preexec_fn=lambda: pin(core),
            start_new_session=True,
        )
    try:
        path = "/health/liveliness" if name == "litellm" else "/health"
        wait_until_ready(port, process, folder / f"{name}.log", path)
        yield Running(name, port, process, folder=folder)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(
    port: int, process: subprocess.Popen[bytes], log: Path, path: str = "/health"
) -> None:
    until_s = time.monotonic() + READY_S
    while time.monotonic() < until_s:
        if process.poll() is not None:
            tail = log.read_text(errors="replace")[-400:]
            raise InputError(f"{log.stem} ended with status {process.returncode}: {tail}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", path)
            status = connection.getresponse().status
            connection.close()
            if status < 500:
                return
        time.sleep(0.01)
    raise InputError(f"{log.stem} did not answer within {READY_S:.0f} s; see {log}.")


def pin(core: int) -> None:
    """Keep this process and its children on one core, where there is more than one; -1 on any."""
    if core < 0:
        return
    os.sched_setaffinity(0, {CORES[core % len(CORES)]})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for known in found:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{known}/task/{known}/children").read_text()
            found += [int(child) for child in children.split()]
    return found


def _rss_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _cpu_s(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


Start = tuple[list[str], dict[str, str]]


def _headgate(
    name: str, upstream: int, port: int, folder: Path, options: dict[str, object]
) -> Start:
    """Everything on: key, limits, tiers, fair queue, usage written to disk and billed."""
    strict = "true" if options.get("strict") else "false"
    workers = options.get("workers", 1)
    kind = options.get("kind", "openai")
    (folder / "headgate.toml").write_text(
        f"""
[server]
port = {port}
workers = {workers}
[state]
folder = "{folder}/state"
url = "sqlite:///{folder}/state/headgate.db"
strict = {strict}
[admin]
port = {free_port()}
[[classes]]
name = "online"
[[engines]]
name = "upstream"
url = "http://127.0.0.1:{upstream}"
kind = "{kind}"
in_flight_max = 4096
[[models]]
name = "{MODEL}"
engines = ["upstream"]
price = {{ input = 0.15, cached = 0.075, output = 0.6 }}
[[tenants]]
name = "bench"
class = "online"
limits = {{ "*" = {{ requests_per_min = 1_000_000_000, tokens_per_min = 1_000_000_000_000 }} }}
budgets = [{{ period = "month", money = 1e9 }}]
"""
    )
    program = "from headgate.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", str(folder / "headgate.toml")]
    return command, {compiled.PLAIN: "1"} if name == PLAIN_DOOR else {}


def _nginx(name: str, upstream: int, port: int, folder: Path, options: dict[str, object]) -> Start:
    (folder / "nginx.conf").write_text(
        f"""
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600;
  client_max_body_size 64m; client_body_buffer_size 512k;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream engine {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""
    )
    return [shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(folder / "nginx.conf")], {}


def _router(name: str, upstream: int, port: int, folder: Path, options: dict[str, object]) -> Start:
    command = [str(_command(name)), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--worker-urls", f"http://127.0.0.1:{upstream}", "--policy", "round_robin"]
    command += ["--prometheus-port", str(free_port())]
    command += ["--log-level", "error"]
    if name == "sglang_router":
        command.insert(1, "launch")
    return command, {}


def _litellm(
    name: str, upstream: int, port: int, folder: Path, options: dict[str, object]
) -> Start:
    (folder / "litellm.yaml").write_text(
        f"""
model_list:
  - model_name: {MODEL}
    litellm_params:
      model: openai/{MODEL}
      api_base: http://127.0.0.1:{upstream}/v1
      api_key: none
litellm_settings:
  num_retries: 0
general_settings:
  master_key: sk-bench
"""
    )
    command = [str(_command(name)), "--config", str(folder / "litellm.yaml")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    return command, environment
