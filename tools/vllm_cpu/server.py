"""`vllm serve` on a free loopback port, as a child process that never outlives its owner."""

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from tools.vllm_cpu.cores import Cores, pin_session
from tools.vllm_cpu.environment import NoEngineError, cache_dir, clean_env, environment, install

HERE = Path(__file__).parent
STARTUP_S = 300.0  # about 45 s on two quiet cores
PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True)
class Setup:
    """What to serve and how. The defaults start fastest."""

    hidden: int = 128
    layers: int = 2
    max_model_len: int = 2048
    batch_cap: int = 64  # sequences in a step
    chunk: int = 2048  # tokens in a step
    kv_blocks: int | None = None  # of 128 tokens; None: one gigabyte of them
    scheduling: str = "priority"
    extra: tuple[str, ...] = field(default=())  # further arguments of `vllm serve`

    def arguments(self) -> list[str]:
        asked = {
            "--served-model-name": "tiny",
            "--load-format": "dummy",
            "--scheduling-policy": self.scheduling,
            "--max-model-len": self.max_model_len,
            "--max-num-seqs": self.batch_cap,
            "--max-num-batched-tokens": self.chunk,
            "--num-gpu-blocks-override": self.kv_blocks,
        }
        given = [f"{flag}={value}" for flag, value in asked.items() if value is not None]
        return ["--enforce-eager", *given, *self.extra]


DEFAULT = Setup()


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def model_folder(hidden: int, layers: int) -> Path:
    """The tiny model of this size, made on first use."""
    folder = cache_dir() / "vllm-cpu" / "models" / f"tiny-h{hidden}-l{layers}"
    if not folder.is_dir():
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
        script = [str(environment() / "bin" / "python"), str(HERE / "tiny_model.py")]
        size = ["--hidden", str(hidden), "--layers", str(layers)]
        subprocess.run([*script, str(unfinished), *size], check=True, env=clean_env())
        if not folder.is_dir():
            unfinished.rename(folder)
    return folder


class VllmCpu:
    """A running vLLM; use as a context manager, or `start` and `stop`.

    `steps`: a file to which the engine's scheduler writes its steps (see `step_recorder`).
    `outlive`: keep running when this process ends. `cores`: keep what computes to some cores and
    the front end to others.
    """

    def __init__(
        self,
        setup: Setup = DEFAULT,
        *,
        log: Path,
        steps: Path | None = None,
        outlive: bool = False,
        cores: Cores | None = None,
    ) -> None:
        self.setup = setup
        self.cores = cores
        self.log = log
        self.steps = steps
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._outlive = outlive
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "VllmCpu":
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        """Install if need be, launch, and wait until /health answers. Raises NoEngineError."""
        install()
        model = model_folder(self.setup.hidden, self.setup.layers)
        vllm = environment() / "bin" / "vllm"
        command = [str(vllm), "serve", str(model), "--host", "127.0.0.1", "--port", str(self.port)]
        command += self.setup.arguments()
        env = clean_env() | {
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "PATH": f"{environment() / 'bin'}:{os.environ.get('PATH', '')}",
        }
        if self.steps is not None:
            command += ["--scheduler-cls", "step_recorder.RecordingScheduler"]
            env |= {"PYTHONPATH": str(HERE), "HEADGATE_STEPS": str(self.steps)}
        if self.cores is not None:
            env |= {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(self.cores.engine)))}
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
                preexec_fn=None if self._outlive else _die_with_parent,
            )
        self._await_health()
        if self.cores is not None:
            pin_session(self.pid, self.cores)

    def _await_health(self) -> None:
        assert self._process is not None
        give_up = time.monotonic() + STARTUP_S
        while time.monotonic() < give_up:
            if self._process.poll() is not None:
                break
            if healthy(self.url):
                return
            time.sleep(0.25)
        self.stop()
        tail = self.log.read_text(errors="replace")[-2000:]
        raise NoEngineError(f"vLLM did not come up within {STARTUP_S:.0f} s:\n{tail}")

    def stop(self) -> None:
        if self._process is not None:
            stop_group(self._process.pid, self._process)

    def kill(self) -> None:
        """End it without warning, workers included, as a lost node would."""
        os.killpg(self.pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def facts(self) -> dict[str, object]:
        """What a simulator needs to know about this engine, as the engine itself reports it."""
        said = self.log.read_text(errors="replace")
        metrics = fetch(f"{self.url}/metrics")
        labels = re.search(r"vllm:cache_config_info\{(.*?)\} 1", metrics)
        cache = dict(re.findall(r'(\w+)="([^"]*)"', labels[1])) if labels else {}
        return {
            "engine": f"vllm {json.loads(fetch(self.url + '/version'))['version']}",
            "hidden": self.setup.hidden,
            "layers": self.setup.layers,
            "block_tokens": int(cache["block_size"]),
            "kv_blocks": int(cache["num_gpu_blocks"]),
            "batch_cap": self.setup.batch_cap,
            "chunk": self.setup.chunk,
            "max_model_len": self.setup.max_model_len,
            "scheduling": self.setup.scheduling,
            "prefix_caching": cache.get("enable_prefix_caching") == "True",
            "async_scheduling": "Asynchronous scheduling is enabled" in said,
        }


def healthy(url: str) -> bool:
    try:
        fetch(f"{url}/health")
    except (OSError, urllib.error.URLError):
        return False
    return True


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def stop_group(pid: int, process: subprocess.Popen[bytes] | None = None) -> None:
    """End a session leader and all it started: asked first, then made to."""
    for ask, wait_s in ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(pid, ask)
        except ProcessLookupError:
            return
        give_up = time.monotonic() + wait_s
        while time.monotonic() < give_up:
            if process is not None:
                process.poll()  # reaps it, or its group would never be empty
            try:
                os.killpg(pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.05)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
