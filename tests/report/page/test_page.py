import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from evomerge.core.errors import UserError
from evomerge.report import write_report
from evomerge.report.page.page import page
from evomerge.report.run import Run
from tests.report import report_bench as bench

SECTIONS = [
    "verdict",
    "heldout",
    "search",
    "dimensions",
    "anchors",
    "coefficients",
    "race",
    "doubts",
    "cost",
    "trials",
    "provenance",
]


class Reader(HTMLParser):
    """Tables as lists of rows, the text of each section, and what could load or run something."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.text = {}
        self.tables = {}
        self._section, self._cell, self._hidden = "", None, 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "section":
            self._section = dict(attrs)["id"]
        if tag == "table":
            self.tables.setdefault(self._section, []).append([])
        if tag in ("br", "small") and self._cell is not None:
            self._cell.append(" ")
        if tag == "tr":
            self.tables[self._section][-1].append([])
        if tag in ("td", "th"):
            self._cell = []
        self._hidden += tag in ("style", "script")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[self._section][-1][-1].append(" ".join("".join(self._cell).split()))
            self._cell = None
        self._hidden -= tag in ("style", "script")

    def handle_data(self, data):
        if not self._hidden:
            self.text[self._section] = self.text.get(self._section, "") + data
            if self._cell is not None:
                self._cell.append(data)


@pytest.fixture
def read(tmp_path):
    def of(events=None):
        return Reader(page(Run.read(bench.write(tmp_path / "run", events))))

    return of


def test_the_page_says_the_verdict_first_and_then_every_section_in_order(read):
    page = read()
    assert [a["id"] for tag, a in page.elements if tag == "section"] == SECTIONS
    assert "Improvement shown" in page.text["verdict"]
    assert "Trial 6 scores +0.3125 [−0.100, +0.700]; 95\u00a0% intervals." in page.text["verdict"]
    assert "Recommended: trial 6, a searched recipe" in page.text["verdict"]
    assert "best/recipe.yaml and best/model" in page.text["verdict"]


def test_the_held_out_table_has_every_entrant_with_its_means_best_first(read):
    head, *rows = read().tables["heldout"][0]
    assert head == ["entrant", "quiz acc n = 4, weight 3.0", "text ppl ↓ n = 2, weight 1.0", "mean"]
    assert rows == [  # the means are worked out beside bench.ANSWERS
        ["trial 6 recommended", "0.750", "2.000", "0.062"],
        ["uniform average", "0.500", "2.500", "−0.250"],
        ["left parent", "0.250", "5.000", "−1.062"],
        ["right parent", "0.250", "5.000", "−1.062"],
        ["base base", "0.000", "8.000", "−2.000"],
    ]


def test_the_best_of_a_column_is_the_lowest_where_less_is_better(read):
    page = read()
    best = [a for tag, a in page.elements if tag == "td" and "best" in a.get("class", "")]
    assert len(best) == 2  # 0.750 of quiz, 2.000 of text: both trial 6's


def test_the_verdicts_own_intervals_are_drawn_not_newly_computed_ones(read):
    text = read().text["heldout"]
    assert "+0.312 [+0.032, +0.765]" in text
    assert "2 won, 0 lost, 4 tied" in text


def test_the_race_table_has_rungs_with_their_items_and_who_went_out(read):
    head, *rows = read().tables["race"][0]
    assert head == ["candidate", "", "rung 1 3 items", "rung 2 6 items", "outcome"]
    assert rows == [
        ["trial 6", "search", "0.375", "0.000", "won"],
        ["uniform average", "anchor", "0.250", "−0.188", "stayed in, lower score"],
        ["trial 7", "search", "−0.125", "–", "out at rung 1"],
    ]


def test_after_a_second_race_only_that_one_is_shown_with_the_items_it_was_decided_on(read):
    again = [
        bench.asked([8], 2, bench.SEARCH),
        bench.outcomes(
            8, "race", "metric", bench.metric_rows({"quiz": [10], "text": [10]}, [1], [3.0]), 1160.0
        ),
        bench.raced(0, [6], [8], {6: 0.25, 8: -0.5}, 6),
    ]
    page = read([*bench.events(), *again])
    head, *rows = page.tables["race"][0]
    assert head[2:] == ["rung 1 2 items", "outcome"]  # trial 6 has all six, from the first race
    assert [row[0] for row in rows if row[2] != "–"] == ["trial 6", "trial 8"]
    assert "Only the last of 2 races is shown." in page.text["race"]


def test_the_gain_is_followed_from_the_search_to_the_held_out_items(read):
    stages = read().tables["doubts"][0][1:]
    assert [row[:6] for row in stages] == [
        ["search, generation 1", "smooth score", "3", "0.875", "0.600", "+0.275"],
        ["race, rung 1", "metric", "3", "0.375", "0.250", "+0.125"],
        ["race, rung 2", "metric", "6", "0.000", "−0.188", "+0.188"],
        ["held-out items", "metric", "6", "0.062", "−0.250", "+0.312"],
    ]


def test_cut_and_lost_answers_are_counted_by_entrant_and_task(read):
    rows = {row[0]: row[1:] for row in read().tables["doubts"][1]}
    assert rows["left"] == ["6", "6 (100 %)", "0", "quiz (4 cut), text (2 cut)"]
    assert rows["right"][2:] == ["6 (100 %)", "quiz (4 without answer), text (2 without answer)"]
    assert rows["trial 6"] == ["6", "0", "0", ""]


def test_a_winner_that_the_search_never_scored_is_not_given_anothers_score(read):
    events = bench.events()
    for event in events:
        if event["event"] == "told" and event["generation"] == 1:
            event["fitness"] = [None, 0.65]
    stage = read(events).tables["doubts"][0][1]
    assert stage[0] == "search, generation 1 by trial 7; the search did not score trial 6"
    assert stage[3] == "(0.650)"


def test_cost_adds_up_and_names_what_failed(read):
    page = read()
    # 8 deliveries for anchors, 4 for the search, 5 for the race, 5 for the verdict; 4 s each
    assert sum(event["event"] == "outcomes" for event in bench.events()) == 22
    assert "worker time1 min 28 s" in page.text["cost"]
    assert "in the forward pass50 %" in page.text["cost"]
    assert "wall time2 min 30 s6.0 s of it to start" in page.text["cost"]
    assert page.tables["cost"][0][1] == ["oom", "1", "search", "trial 5", "out of memory"]


def test_provenance_has_what_is_needed_to_do_it_again(read):
    page = read()
    facts = dict(page.tables["provenance"][0])
    assert facts["evomerge"] == "0.1.0"
    assert facts["optimizer"] == "random, seed 7, 2 generations of 2"
    assert facts["began"] == "1970-01-01 00:16:40 UTC"
    assert facts["protocol"] == "p" * 64
    assert facts["items"] == "search 3, race 6, holdout 6 (disjoint, 2 tasks)"
    assert [row[0] for row in page.tables["provenance"][1]] == ["base", "left", "right"]
    assert "lm_eval --model hf --samples '{\"quiz\":[20]}'" in page.text["provenance"]
    assert "seed: 7" in page.text["provenance"]


@pytest.mark.parametrize("length", range(len(bench.events())))
def test_an_unfinished_run_has_a_page_wherever_it_stands(read, length):
    page = read(bench.events()[:length])
    assert [a["id"] for tag, a in page.elements if tag == "section"] == SECTIONS
    judged = length == len(bench.events()) - 1
    assert ("No verdict yet" in page.text["verdict"]) != judged
    assert judged == ("not exported yet" in page.text["verdict"])


def test_a_recommended_anchor_is_shown_beside_the_trial_that_won_the_race(read):
    events = bench.events()
    judged = next(event for event in events if event["event"] == "verdict")
    judged |= {
        "race_winner": judged["winner"],
        "winner": {"kind": "anchor", "trial": 3, "digest": "d3", "name": "uniform average"},
        "improvement_shown": False,
        "sentence": "No improvement shown: too few items.",
    }
    page = read(events)
    assert "No improvement shown" in page.text["verdict"]
    assert "Recommended: uniform average, an anchor" in page.text["verdict"]
    names = [row[0] for row in page.tables["heldout"][0][1:3]]
    assert names == ["trial 6 won the race", "uniform average recommended"]
    assert "uniform average recommended" in page.text["coefficients"]
    assert "trial 6 won the race" in page.text["coefficients"]


def test_a_verdict_that_the_study_has_outgrown_is_marked_as_old(read):
    more = bench.asked([8], 2, bench.SEARCH)
    assert "of an earlier, shorter search" in read([*bench.events(), more]).text["verdict"]
    assert "of an earlier, shorter search" not in read().text["verdict"]


def test_names_and_messages_cannot_add_markup(read):
    evil = "</script></svg><script>alert(1)</script><img src=x onerror='alert(1)'>\"'&_{{7*7}}"
    text = json.dumps(bench.events())
    for word in ("quiz", "trial 6", "uniform average", "/zoo/left", "out of memory", "0.1.0"):
        text = text.replace(f'"{word}', json.dumps(evil)[:-1])
    page, plain = read(json.loads(text)), read()
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert not [tag for tag, _ in page.elements if tag in ("img", "iframe", "object", "embed")]
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    assert evil in page.text["cost"]
    assert evil in page.text["heldout"]
    assert "{{7*7}}" in page.text["verdict"]
    assert evil not in plain.text["cost"]


def test_nothing_is_loaded_from_anywhere_and_only_our_script_may_run(tmp_path):
    text = page(Run.read(bench.write(tmp_path)))
    assert not re.search(r"https?://|//[a-z]|url\(|@import|srcset", text)
    elements = Reader(text).elements
    assert [a["href"] for tag, a in elements if tag == "link"] == ["data:,"]
    assert not [a for _, a in elements if "src" in a]
    policy = next(a["content"] for _, a in elements if "http-equiv" in a)
    script = text[text.index("<script>") + 8 : text.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}';" in policy


def test_a_page_stays_small(tmp_path):
    assert len(page(Run.read(bench.write(tmp_path)))) < 200_000


def test_equal_journals_make_equal_pages(tmp_path):
    folder = bench.write(tmp_path / "run")
    first = write_report(folder).read_bytes()
    assert write_report(folder, tmp_path / "other.html").read_bytes() == first
    assert write_report(folder) == folder / "report.html"
    assert not list(folder.glob(".*"))  # nothing half-written stays


def test_a_name_that_is_no_unicode_text_does_not_stop_the_page(tmp_path):
    events = bench.events()
    events[2]["trials"][3]["name"] = "half \ud83d a pair"
    path = write_report(bench.write(tmp_path, events))
    assert "half &#55357; a pair" in path.read_text("utf-8")


def test_a_folder_that_is_no_run_or_a_file_that_cannot_be_written_is_told_in_a_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot read journal .*expected a study's run folder"):
        write_report(tmp_path)
    folder = bench.write(tmp_path / "run")
    with pytest.raises(UserError, match=r"cannot write the report .*no/such/file\.html"):
        write_report(folder, tmp_path / "no/such/file.html")


def test_reading_a_run_needs_no_torch():
    code = (
        "import sys, evomerge.report; "
        "print(*sorted({'torch', 'transformers', 'lm_eval', 'ray'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []
