"""The page in a real browser, without network: it loads, runs its script, and draws."""

import shutil
import subprocess

import pytest

from evomerge.report import write_report
from tests.report import report_bench as bench
from tests.report.page.test_page import SECTIONS, Reader

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--enable-logging=stderr",
    "--virtual-time-budget=2000",
    "--dump-dom",
]


def several_objectives():
    """The bench's events with two objectives and a random trial: every plot that there is."""
    gains = [[[0.1, 0.0], None], [[0.2, 0.1], [-0.1, 0.3]]]
    events = bench.events()
    for event in events:
        if event["event"] == "told":
            event["objectives"] = gains[event["generation"]]
        for trial in event["trials"] if event["event"] == "asked" else []:
            if trial["trial"] == 7:
                trial["kind"] = "random"
    return events


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the path")
def test_the_page_opens_offline_with_no_complaint_and_draws_every_section(tmp_path):
    path = write_report(bench.write(tmp_path / "run", several_objectives()))
    result = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    complaints = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []
    dom = Reader(result.stdout)
    section, drawn, buttons = "", {}, []
    for tag, attributes in dom.elements:
        if tag == "section":
            section = attributes["id"]
        if tag in ("rect", "circle", "polyline"):
            drawn[section] = drawn.get(section, 0) + 1
        if tag == "button":
            buttons.append(attributes)
    assert [a["id"] for tag, a in dom.elements if tag == "section"] == SECTIONS
    drawing = ["heldout", "search", "dimensions", "anchors", "coefficients", "doubts", "cost"]
    assert set(drawn) == set(drawing)
    assert min(drawn.values()) >= 2
    figures = [a["aria-label"] for tag, a in dom.elements if tag == "svg" and "role" in a]
    # each for wide pages and for phones, and no two of the same name
    assert len(set(figures)) * 2 == len(figures)
    assert {"Gains on quiz and text", "Best gain so far by search trials"} <= set(figures)
    empty, shapes = "", 1
    for tag, attributes in dom.elements:
        if tag == "svg" and "role" in attributes:
            assert shapes, f"{empty} has nothing in it"
            empty, shapes = attributes["aria-label"], 0
        shapes += tag in ("rect", "circle", "polyline", "line")
    assert shapes
    assert buttons  # hidden without script; our script showed them, so the policy let it run
    assert not any("hidden" in attributes for attributes in buttons)
    assert [a for tag, a in dom.elements if tag == "clippath"]  # charts can be zoomed


ACTIONS = """
addEventListener("load", () => {
  const said = [];
  const svg = [...document.querySelectorAll("svg")].find(
    (s) => s.getAttribute("aria-label") === "Gain over the reference anchor by generation");
  const marks = svg.querySelector("g.marks"), dot = marks.querySelector("circle[data-trial]");
  const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
  const [left, top, width, height] = marks.dataset.box.split(",").map(Number);
  const at = (x, y) => ({clientX: box.left + x * scale, clientY: box.top + y * scale, bubbles: true,
    pointerId: 1, button: 0, pointerType: "mouse"});
  svg.setPointerCapture = () => {};
  const labels = () => [...svg.querySelectorAll("g.ax text")].map((t) => t.textContent).join(" ");
  const before = [dot.getAttribute("cx"), labels()];
  svg.dispatchEvent(new PointerEvent("pointerdown", at(left + 5, top + 5)));
  svg.dispatchEvent(new PointerEvent("pointerup", at(left + width / 2, top + height / 2)));
  said.push("zoomed " + svg.classList.contains("zoomed"));
  said.push("moved " + (dot.getAttribute("cx") !== before[0]), "ticks " + (labels() !== before[1]));
  svg.dispatchEvent(new MouseEvent("dblclick", at(left + 5, top + 5)));
  const isBack = Math.abs(dot.getAttribute("cx") - before[0]) < 0.01 && labels() === before[1];
  said.push("back " + isBack);
  dot.dispatchEvent(new PointerEvent("pointerover", at(left + 5, top + 5)));
  said.push("tip " + document.getElementById("tip").innerText.replace(/\\n/g, " / "));
  const input = document.querySelector("[data-filter]");
  input.value = "0.875";
  input.dispatchEvent(new Event("input"));
  const rows = [...document.querySelectorAll("#trial-table tbody tr")];
  said.push("rows " + rows.filter((row) => !row.hidden).length + " of " + rows.length);
  const result = document.createElement("pre");
  result.textContent = said.join("; ");
  document.body.append(result);
});
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the path")
def test_dragging_zooms_hovering_tells_and_the_table_filters(tmp_path):
    path = write_report(bench.write(tmp_path / "run", several_objectives()))
    text = path.read_text("utf-8").replace("script-src 'sha256-", "script-src 'unsafe-inline' 'no-")
    path.write_text(text.replace("</body>", f"<script>{ACTIONS}</script></body>"), "utf-8")
    result = subprocess.run(
        [
            *(CHROMIUM, *FLAGS, "--window-size=1280,900"),
            f"--user-data-dir={tmp_path / 'profile'}",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (
        "zoomed true; moved true; ticks true; back true; "
        "tip trial 4, generation 0: +0.025 / left weight[0]: 0.250 / left weight[1]: 1.000; "
        "rows 1 of 3"
    ) in result.stdout
