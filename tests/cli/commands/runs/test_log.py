import subprocess
import sys

import pytest

from evomerge.cli.main import main
from tests.report import report_bench as bench


def test_a_finished_run_is_logged_whole(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    run = bench.write(tmp_path / "run")
    assert main(["log", str(run), "--to", f"tensorboard:{tmp_path / 'events'}"]) == 0
    assert "2 generations logged, with verdict, table, report" in capsys.readouterr().out
    program = f"""
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator({str(tmp_path / "events")!r}); events.Reload()
print([(e.step, round(float(e.tensor_proto.float_val[0]), 3)) for e in events.Tensors("gain/best")])
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[(0, 0.025), (1, 0.275)]"
    assert (tmp_path / "events" / "report.html").is_file()


def test_an_unknown_tracker_is_named(tmp_path, capsys):
    run = bench.write(tmp_path / "run")
    assert main(["log", str(run), "--to", "wanb"]) == 2
    assert "unknown tracker 'wanb': did you mean 'wandb'?" in capsys.readouterr().err
