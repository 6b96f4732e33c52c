"""The Slurm script of experiments/cluster with real Ray and stand-ins for Slurm's commands."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evomerge.core import yaml_file
from evomerge.study.config import StudyConfig
from tests.study.small_study import events, paid, substance

CLUSTER = Path(__file__).parents[3] / "experiments" / "cluster"
ROOT = Path(__file__).parents[3]


def slurm(folder: Path) -> None:
    """`srun` runs the command here; `scontrol` knows one node and notes what is requeued."""
    ray = shlex.quote(str(Path(sys.executable).with_name("ray")))
    here = "--num-cpus=4 --node-ip-address=127.0.0.1"
    commands = {
        "srun": 'while [[ $1 == -* ]]; do [[ $1 == -w ]] && shift; shift; done\nexec "$@"',
        "scontrol": f'[[ $1 == show ]] && echo 127.0.0.1 || echo "$@" >> {folder}/requeued',
        "ray": f'[[ $* == *--head* ]] && set -- "$@" {here}\nexec {ray} "$@"',
        "evomerge": f'exec {shlex.quote(sys.executable)} -m evomerge "$@"',
    }
    for name, text in commands.items():
        program = folder / name
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(0o755)


def submit(study: Path, run: Path, folder: Path) -> subprocess.Popen[bytes]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_NODELIST": "node",
        "SLURM_JOB_ID": "7",
        "SLURM_GPUS_ON_NODE": "2",  # resources of Ray; nothing is computed on them
        "PORT": str(port),
        "SETTLE": "15",
    }
    return subprocess.Popen(
        ["bash", str(CLUSTER / "night.sbatch"), str(study), str(run)],
        env=environment,
        cwd=ROOT,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_preempted_night_is_requeued_and_resumes_to_the_same_end(
    finished: Path, small_study: Path, tmp_path: Path
) -> None:
    slurm(tmp_path)
    document = yaml_file.read(small_study)
    document["workers"] = {"backend": "ray", "gpus": 1, "device": "cpu"}
    study = small_study.with_name("cluster.yaml")
    study.write_text(yaml_file.write(document))
    run = tmp_path / "run"
    job = submit(study, run, tmp_path)
    try:
        deadline = time.monotonic() + 300
        while not (run / "journal.log").exists() or len(events(run, "told")) < 1:
            assert time.monotonic() < deadline
            assert job.poll() is None
            time.sleep(0.1)
        os.kill(job.pid, signal.SIGTERM)
        assert job.wait(120) == 130
        assert (tmp_path / "requeued").read_text() == "requeue 7\n"
        job = submit(study, run, tmp_path)
        assert job.wait(600) == 0
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
        shutil.rmtree(tmp_path / "ray", ignore_errors=True)
    assert set(paid(run).values()) == {1}
    mine, whole = substance(run), substance(finished)
    for part in ("asked", "told", "outcomes"):
        assert mine[part] == whole[part]


def test_the_cluster_study_is_read_strictly(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    document = yaml_file.read(CLUSTER / "study.yaml")
    config = StudyConfig.from_dict(document, tmp_path)
    assert (config.workers.backend, config.workers.gpus) == ("ray", 1.0)
    assert config.search.deadline == "8h"


def test_the_scripts_are_whole() -> None:
    subprocess.run(["bash", "-n", str(CLUSTER / "night.sbatch")], check=True)
    launcher = yaml_file.read(CLUSTER / "ray-cluster.yaml")
    assert {"cluster_name", "provider", "auth", "max_workers"} <= set(launcher)
