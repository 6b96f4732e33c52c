import json

from evomerge.cli.main import main
from tests.report import report_bench as bench


def test_runs_are_printed_side_by_side_or_as_data(tmp_path, capsys):
    folders = [str(bench.write(tmp_path / name)) for name in "ab"]
    assert main(["compare", *folders]) == 0
    assert "b minus a: +0.000 [" in capsys.readouterr().out
    assert main(["compare", *folders, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [run["held_out"] for run in data["runs"]] == [0.0625, 0.0625]
    assert data["pairs"][0]["difference"]["ties"] == 6


def test_several_runs_make_one_page(tmp_path, capsys):
    folders = [str(bench.write(tmp_path / name)) for name in "ab"]
    out = tmp_path / "both.html"
    assert main(["report", *folders, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert "2 runs side by side" in out.read_text("utf-8")


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys):
    folder = bench.write(tmp_path / "a")
    assert main(["compare", str(folder), str(tmp_path / "no")]) == 2
    assert "no: expected a run folder, but it has no journal.log" in capsys.readouterr().err
