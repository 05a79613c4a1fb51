"""Start a built image as its own user, read a page through it, run its health check and stop it.

    python -m tools.image_probe IMAGE CONTAINER

CONTAINER is a buildah container made from IMAGE. Each step prints a line; the first that fails ends the run.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.pages import character_error_rate, render_page

READY_SECONDS = {"rapidocr": 60, "vllm_direct": 600}
STOP_SECONDS = 30
MOST_ERRORS = 0.02

# For vLLM's CPU build and a small random model.
MODEL = "/models/small"
VLLM_ENVIRONMENT = {
    "MODEL_PATH": MODEL,
    "ENFORCE_EAGER": "true",
    "MAX_MODEL_LEN": "2048",
    "MAX_NUM_SEQS": "4",
    "LOOP_RETRIES": "0",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
WRITABLE = {"rapidocr": ("tmp/",), "vllm_direct": ("tmp/", "models/", "cache/")}


class ProbeFailed(Exception):
    """What the image did wrong, in one sentence."""


def main(image: str, container: str) -> None:
    """Run every step; raises ProbeFailed at the first that goes wrong."""
    config = image_config(image)
    uid = config["User"].split(":")[0]
    expect(uid.isdigit() and int(uid) > 0, f"USER is {uid!r}, not the number of an ordinary user")
    expect(config.get("Healthcheck") is not None, "the image has no HEALTHCHECK")
    expect(not config.get("Entrypoint"), f"the base's ENTRYPOINT is still there: {config.get('Entrypoint')}")
    report(f"user {config['User']}, command {' '.join(config['Cmd'])}")
    engine = dict(line.split("=", 1) for line in config["Env"])["INFERENCE_ENGINE"]

    port = free_port()
    environment = {"API_PORT": str(port), **(VLLM_ENVIRONMENT if engine == "vllm_direct" else {})}
    settings = [argument for name, value in environment.items() for argument in ("--env", f"{name}={value}")]
    subprocess.run(["buildah", "config", *settings, container], check=True)
    if engine == "vllm_direct":
        prepare_model(container)
    root = Path(output("buildah", "mount", container))
    before = time.time()
    with subprocess.Popen(in_container(container, config["Cmd"]), stdin=subprocess.DEVNULL) as runtime:
        try:
            service = wait_until_ready(runtime, port, config["Cmd"], before, READY_SECONDS[engine])
            check_user(service, int(uid))
            if engine == "vllm_direct":
                read_page_twice(port)
            else:
                read_page(port)
            run_healthcheck(container, config["Healthcheck"]["Test"])
            stop(runtime, service)
        finally:
            for pid in descendants(runtime.pid):
                os.kill(pid, signal.SIGKILL)
    check_written_files(root, before, WRITABLE[engine])


def image_config(image: str) -> dict[str, Any]:
    """Return the image's configuration: User, Cmd, Healthcheck and more."""
    config: dict[str, Any] = json.loads(output("buildah", "inspect", "--type", "image", image))["Docker"]["config"]
    return config


def prepare_model(container: str) -> None:
    """Write a small random model into the volume, as the image's user, and let the image's doctor judge it."""
    tools = ["--volume", f"{Path(__file__).parent}:/tools:ro"]
    make = ["python", "/tools/random_checkpoint.py", MODEL, "--size", "small"]
    made = subprocess.run(in_container(container, make, tools), stdout=subprocess.DEVNULL)
    expect(made.returncode == 0, "the model's volume cannot be written to")
    ended = subprocess.run(
        in_container(container, ["deepseek-ocr", "doctor", "--json"]), stdout=subprocess.PIPE, text=True
    )
    found = json.loads(ended.stdout)
    expect(ended.returncode == 0 and found["would_run"], f"deepseek-ocr doctor: {found['problems']}")
    report(f"deepseek-ocr doctor: would run on vLLM {found['vllm']}, PyTorch {found['torch']}")


def wait_until_ready(
    runtime: subprocess.Popen[bytes], port: int, command: list[str], since: float, patience: float
) -> int:
    """Wait for /readyz; return the process id of the service itself."""
    while time.time() - since < patience:
        expect(runtime.poll() is None, f"the service ended with exit code {runtime.returncode}")
        try:
            ready = httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        except httpx.TransportError:
            ready = False
        if ready:
            report(f"ready after {time.time() - since:.1f} s")
            # The runtime puts the program's full path in the place of its name.
            return next(pid for pid in descendants(runtime.pid) if command_line(pid)[1:] == command[1:])
        time.sleep(0.1)
    raise ProbeFailed(f"not ready within {patience:g} s")


def check_user(service: int, uid: int) -> None:
    """Every process of the service runs as the image's user."""
    users = {Path(f"/proc/{pid}").stat().st_uid for pid in (service, *descendants(service))}
    expect(users == {uid}, f"processes run as users {sorted(users)}, not as {uid}")
    report(f"every process runs as user {uid}")


def read_page(port: int) -> None:
    """POST a rendered page and compare the text with what was drawn."""
    begin = time.time()
    answer, drawn = post_page(port, {"mode": "plain_ocr"})
    errors = character_error_rate(answer["text"], drawn)
    expect(errors <= MOST_ERRORS, f"character error rate {errors:.2%}; read: {answer['text']!r}")
    report(f"read a page in {time.time() - begin:.1f} s, character error rate {errors:.2%}")


def read_page_twice(port: int) -> None:
    """POST a page twice: a random model writes nonsense, but the same nonsense for the same page."""
    begin = time.time()
    answers = [post_page(port, {"mode": "plain_ocr", "max_tokens": "32"})[0] for _ in range(2)]
    engines = {answer["metadata"]["inference_engine"] for answer in answers}
    expect(engines == {"vllm_direct"}, f"pages were read by {engines}")
    first, second = (answer["raw_text"] for answer in answers)
    expect(bool(first) and first == second, f"the same page gave {first!r}, then {second!r}")
    usage = answers[0]["usage"]
    report(f"read a page twice in {time.time() - begin:.1f} s, to the same {usage['output_tokens']} tokens; {usage}")


def post_page(port: int, fields: dict[str, str]) -> tuple[dict[str, Any], str]:
    """POST a rendered page; return the answer and the text that was drawn."""
    page = render_page("latin", seed=20)
    upload = io.BytesIO()
    page.image.save(upload, "PNG")
    answer = httpx.post(
        f"http://127.0.0.1:{port}/api/ocr",
        files={"image": ("page.png", upload.getvalue(), "image/png")},
        data=fields,
        timeout=300,
    )
    expect(answer.status_code == 200, f"POST /api/ocr answered {answer.status_code}: {answer.text}")
    return answer.json(), page.text


def run_healthcheck(container: str, test: list[str]) -> None:
    """Run the HEALTHCHECK against the service, and once against nothing."""
    expect(test[0] == "CMD", "HEALTHCHECK is not in exec form")
    expect(subprocess.run(in_container(container, test[1:])).returncode == 0, "HEALTHCHECK fails on a ready service")
    nothing = in_container(container, ["env", f"API_PORT={free_port()}", *test[1:]])
    code = subprocess.run(nothing, stderr=subprocess.DEVNULL).returncode
    expect(code == 1, f"HEALTHCHECK exits with {code} where nothing listens, not with 1")
    report("HEALTHCHECK passes on the service and fails where there is none")


def stop(runtime: subprocess.Popen[bytes], service: int) -> None:
    """SIGTERM the service; it exits with 0 and leaves no process."""
    family = {service, *descendants(service)}
    begin = time.time()
    os.kill(service, signal.SIGTERM)
    try:
        code = runtime.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        raise ProbeFailed(f"still running {STOP_SECONDS} s after SIGTERM") from None
    expect(code == 0, f"exit code {code} after SIGTERM, not 0")
    # Orphans get a moment to notice; a zombie has ended and waits for this machine's init.
    while left := [pid for pid in family if runs(pid)]:
        expect(time.time() - begin < STOP_SECONDS, f"processes left behind: {[command_line(pid) for pid in left]}")
        time.sleep(0.1)
    report(f"stopped in {time.time() - begin:.1f} s with exit code 0; no process left")


def check_written_files(root: Path, since: float, writable: tuple[str, ...]) -> None:
    """Nothing outside /tmp and the volumes was written, so the root file system may be read-only."""
    written = [
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_mtime > since
    ]
    outside = [name for name in written if not name.startswith(writable)]
    expect(not outside, f"files written outside {', '.join(writable)}: {outside}")
    report(f"wrote nothing outside {', '.join(writable)}")


def descendants(pid: int) -> list[int]:
    """Return the process ids of a process's children, their children, and so on."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [one for child in children for one in (child, *descendants(child))]


def runs(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def command_line(pid: int) -> list[str]:
    """Return a process's arguments."""
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]


def in_container(container: str, command: list[str], options: Sequence[str] = ()) -> list[str]:
    """Return the command that runs `command` in the container as its user."""
    return ["buildah", "run", "--isolation", "chroot", *options, container, "--", *command]


def free_port() -> int:
    """Return a port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def output(*command: str) -> str:
    """Run a command and return what it prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def expect(holds: bool, sentence: str) -> None:
    """Raise ProbeFailed with `sentence` unless `holds`."""
    if not holds:
        raise ProbeFailed(sentence)


def report(line: str) -> None:
    """Print a step that went well."""
    sys.stdout.write(f"  ok: {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ProbeFailed as failure:
        sys.exit(f"image test failed: {failure}")
