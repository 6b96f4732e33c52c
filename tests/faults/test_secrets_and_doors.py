"""No secret in any artefact, no listening port, no connection to elsewhere, no code of others."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.cli import main
from evomerge.core.redact import redact, redacted
from tests.faults.command import Command
from tests.study.small_study import StubWorkers, stub_document
from tests.study.study_driver import Drivers, children

ROOT = Path(__file__).parents[2]
CANARIES = {
    "HF_TOKEN": "hf_CanaryCanaryCanaryCanaryCanary01",
    "WANDB_API_KEY": "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00",
    "MY_SERVICE_PASSWORD": "correct-horse-battery",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCY",
}
URLS = "https://canary-user:canary-pass@host.example/x?token=canary-query"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see hf_abcdefghijklmnopqrstuvwxyz", "see [redacted]"),
        ("Authorization: Bearer abcdef123456", "Authorization: Bearer [redacted]"),
        ("postgres://me:secret@db/x", "postgres://[redacted]@db/x"),
        ("https://token@host/", "https://[redacted]@host/"),
        ("GET /x?api_key=123&a=1", "GET /x?api_key=[redacted]&a=1"),
        ("models/base at layer 3, a@b.c", "models/base at layer 3, a@b.c"),
        ("the token [redacted] of a word", "the token [redacted] of a word"),
    ],
)
def test_secrets_are_taken_out_and_other_words_stay(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert redacted({"a": [text], "n": 1.5}) == {"a": [expected], "n": 1.5}


def test_no_artefact_of_a_run_holds_a_planted_secret(
    stub_workers: StubWorkers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    planted = " ".join([*CANARIES.values(), URLS])
    stub_workers(prints=f"trace: {planted}", fail="task", fail_above=0.3, words=planted)
    study = tmp_path / "study.yaml"
    document = stub_document(models=["one"], search={"trials": 8})
    study.write_text(json.dumps(document))
    run = tmp_path / "run"
    assert main(["search", str(study), str(run)]) == 0
    assert main(["status", str(run), "--json"]) == 0
    document["base_model"] = f"{URLS} {CANARIES['HF_TOKEN']}"
    study.write_text(json.dumps(document))
    assert main(["search", str(study), str(run)]) == 2
    output = "".join(capfd.readouterr())
    assert "trace:" in (run / "workers.log").read_text()
    files = [file for file in run.rglob("*") if file.is_file()]
    assert {"journal.log", "workers.log", "report.html"} <= {file.name for file in files}
    assert b"[redacted]" in (run / "journal.log").read_bytes()
    for secret in [*CANARIES.values(), "canary-pass", "canary-query"]:
        assert secret not in output
        for file in files:
            assert secret.encode() not in file.read_bytes(), f"{secret} stands in {file}"


def listening(process: int) -> list[str]:
    """Addresses that a process listens on (Linux)."""
    inodes = set()
    for entry in Path(f"/proc/{process}/fd").glob("*"):
        try:
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
        except OSError:
            continue
        if match:
            inodes.add(match[1])
    open_ports = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and (fields[3] == "0A" or table.startswith("udp")):
                open_ports.append(f"{table} {fields[1]}")
    return open_ports


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_neither_driver_nor_workers_listen_on_any_port(drivers: Drivers, tmp_path: Path) -> None:
    command = Command(drivers, tmp_path / "study", seconds=0.02)
    driver = command.start()
    command.wait_for_events(6)
    processes = [driver, *children(driver)]
    assert len(processes) == 3
    assert [listening(process) for process in processes] == [[], [], []]
    with socket.socket() as opened:  # that the check can fail
        opened.bind(("127.0.0.1", 0))
        opened.listen()
        assert listening(os.getpid())
    assert drivers.wait() == 0


BLOCK = """
import os, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        if event == "socket.connect" and isinstance(arguments[1], (str, bytes)):
            return
        with open(os.environ["CONNECTIONS"], "a") as file:
            file.write(f"{event} {arguments!r}\\n")
        raise OSError("no network in this test")
sys.addaudithook(watch)
"""


@pytest.mark.slow
def test_a_whole_study_with_real_workers_connects_to_nothing(
    small_study: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    document = json.loads(small_study.read_text())
    document["search"]["trials"] = 4
    for key in ("base_model", "models"):
        value = document[key]
        home = small_study.parent
        document[key] = str(home / value) if key == "base_model" else [str(home / m) for m in value]
    document["evaluate"]["include_path"] = [str(small_study.parent / "tasks")]
    (tmp_path / "study.yaml").write_text(json.dumps(document))
    connections = tmp_path / "connections"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "CONNECTIONS": str(connections),
        "HF_HUB_OFFLINE": "1",
    }
    probe = "import socket; socket.create_connection(('127.0.0.1', 9))"
    tried = subprocess.run(
        [sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=False
    )
    assert "no network in this test" in tried.stderr
    connections.unlink()
    command = [sys.executable, "-m", "evomerge", "search"]
    command += [str(tmp_path / "study.yaml"), str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not connections.exists(), connections.read_text()


FORBIDDEN = {
    "pickle": r"\b(?:import|from)\s+(?:pickle|cPickle|dill|joblib|shelve|marshal|cloudpickle)\b",
    "torch.load": r"torch\.load\(",
    "numpy pickles": r"allow_pickle\s*=\s*True",
    "eval": r"(?<![\w.])(?:eval|exec)\(",
    "yaml.load": r"yaml\.(?:load|load_all|unsafe_load|full_load)\(",
    "a shell": r"shell\s*=\s*True|os\.system\(|os\.popen\(",
    "remote code": r"trust_remote_code\s*=\s*True",
    "request caches": r"CachingLM|cache_requests\s*=\s*True",
}


def sources() -> Iterator[Path]:
    yield from (ROOT / "evomerge").rglob("*.py")


@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_package_has_no_call_that_runs_other_peoples_code(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    leaks = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in sources()
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not leaks
    assert pattern.search(
        "import pickle; torch.load(x); np.load(x, allow_pickle=True); eval(x); yaml.load(x); "
        "run(x, shell=True); f(trust_remote_code=True); f(cache_requests=True)"
    )


def test_ray_is_never_told_to_do_without_its_token() -> None:
    for file in sources():
        text = file.read_text()
        assert not re.search(r"RAY_AUTH_MODE.{0,20}disabled", text), file
        assert "0.0.0.0" not in text, file


LOOPBACK = re.compile(
    r"(tcp|udp) 0100007F:"  # 127.0.0.1
    r"|(tcp|udp)6 0{24}01000000:"  # ::1
    r"|(tcp|udp)6 0{16}FFFF00000100007F:"  # ::ffff:127.0.0.1
)


@pytest.mark.parametrize(
    ("address", "beyond"),
    [
        ("tcp 0100007F:1F90", False),
        ("tcp6 00000000000000000000000001000000:1F90", False),
        ("tcp6 0000000000000000FFFF00000100007F:1F90", False),
        ("tcp 00000000:1F90", True),
        ("tcp6 00000000000000000000000000000000:1F90", True),
        ("tcp 020200C0:1F90", True),  # 192.0.2.2
        ("tcp6 0000000000000000FFFF0000020200C0:1F90", True),
    ],
)
def test_the_kernels_spelling_of_an_address_is_read(address: str, beyond: bool) -> None:
    assert (LOOPBACK.match(address) is None) == beyond


OPEN_RAY = """
import json, os, sys
from pathlib import Path
from dataclasses import replace
from evomerge.study.config import StudyConfig
from evomerge.study.workers.pool import open_pool
from tests.faults.test_secrets_and_doors import listening

def mine(folder):
    try:
        return b"ONLY_THIS_TEST=" in (folder / "environ").read_bytes()
    except OSError:
        return False

config = StudyConfig.from_yaml(sys.argv[1])
config = replace(config, workers=replace(config.workers, backend="ray", count=1))
with open_pool(config, Path("unused")) as pool:
    assert pool.process_ids
    ports = {d.name: listening(int(d.name)) for d in Path("/proc").glob("[0-9]*") if mine(d)}
    print(json.dumps([len(ports), sorted(port for of_one in ports.values() for port in of_one)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("before", ["", "import ray\n"])
def test_a_ray_that_we_start_listens_on_loopback_alone_and_has_no_dashboard(
    small_study: Path, before: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", before + OPEN_RAY, str(small_study)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "ONLY_THIS_TEST": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    processes, ports = json.loads(done.stdout.splitlines()[-1])
    assert processes >= 4  # driver, head, node, worker
    assert len(ports) >= 4
    assert [port for port in ports if not LOOPBACK.match(port)] == []
    assert not any(port.endswith(f":{8265:04X}") for port in ports)  # Ray's dashboard
