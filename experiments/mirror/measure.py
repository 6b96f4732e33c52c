"""Kills a writer whose journal is mirrored to S3, again and again, and counts what is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from evomerge.study.journal.journal import JOURNAL, Journal, read
from evomerge.study.mirror.mirror import Mirror

HERE = Path(__file__).parent
URL = "s3://night/run"
INTERVAL = 0.02  # seconds between events


def write(directory: str) -> None:
    """Go on with the run, and write until killed."""
    Path(directory).mkdir(exist_ok=True)
    with Mirror(directory, URL), Journal.open(Path(directory) / JOURNAL, create=True) as journal:
        print("began", flush=True)
        while True:
            event = {"event": "warning", "kind": "tick", "message": "x" * 400, "time": time.time()}
            journal.append(event)
            time.sleep(INTERVAL)


def ticks(directory: Path) -> list[float]:
    """Return when each event was written."""
    return [e["time"] for e in read(directory / JOURNAL) if e["event"] == "warning"]


def measure(kills: int) -> dict[str, object]:
    """Kill and restore `kills` times; returns the figures."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "stand-in", "AWS_SECRET_ACCESS_KEY": "stand-in"}
    os.environ.update(keys | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"})
    os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
    boto3.client("s3").create_bucket(Bucket="night")
    draw = random.Random(7)
    lost_seconds, lost_events, restore_seconds = [], [], []
    work = Path(tempfile.mkdtemp())
    for kill in range(kills):
        run = work / f"machine-{kill}"
        begun = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, __file__, "--write", str(run)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "began\n"
        restore_seconds.append(time.monotonic() - begun)
        time.sleep(draw.uniform(1, 8))
        child.send_signal(signal.SIGKILL)
        killed = time.time()
        child.wait()
        written = ticks(run)
        shutil.rmtree(run)
        with Mirror(work / "look", URL):
            copied = ticks(work / "look")
        shutil.rmtree(work / "look")
        assert copied == written[: len(copied)], "what is there is what was written, in order"
        missing = written[len(copied) :]
        lost_events.append(len(missing))
        lost_seconds.append(killed - missing[0] if missing else 0.0)
    server.stop()
    return {
        "kills": kills,
        "lost_seconds": {"median": statistics.median(lost_seconds), "max": max(lost_seconds)},
        "lost_events": {"median": statistics.median(lost_events), "max": max(lost_events)},
        "written_events": len(written),
        "start_seconds": {
            "median": statistics.median(restore_seconds),
            "max": max(restore_seconds),
        },
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write(sys.argv[2])
    else:
        result = measure(int(sys.argv[1]) if sys.argv[1:] else 20)
        text = json.dumps(result, indent=1)
        (HERE / "result.json").write_text(text + "\n")
        print(text)
