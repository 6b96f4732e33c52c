import json

from evomerge.report.page.page import page
from evomerge.report.run import Run
from tests.report import report_bench as bench
from tests.report.page.test_page import Reader

EVIL = "</pre></script><script>alert(1)</script><img src=x onerror='alert(1)'>{{7*7}}"
ITEM = {
    "fate": "won",
    "task": "quiz",
    "document": 12,
    "prompt": EVIL,
    "right": "yes",
    "winner": EVIL,
    "rival": "no" * 1000,
    "winner_score": 1.0,
    "rival_score": 0.0,
}
DOCUMENT = {
    "winner": {"trial": 6, "name": "trial 6"},
    "rival": {"trial": 3, "name": "uniform average"},
    "pool": "race",
    "wins": 1,
    "losses": 0,
    "ties": 5,
    "items": [ITEM],
}


def with_examples(folder, document):
    """The page of a run with this in its best/examples.json."""
    run = bench.write(folder / "run")
    (run / "best").mkdir()
    (run / "best" / "examples.json").write_text(json.dumps(document))
    return Reader(page(Run.read(run)))


def test_an_item_is_shown_with_its_texts_as_texts(tmp_path):
    read = with_examples(tmp_path, DOCUMENT)
    text = read.text["heldout"]
    assert "Items won and lost against uniform average" in text
    assert text.count(EVIL) == 2
    assert [tag for tag, _ in read.elements].count("script") == 1
    assert not [tag for tag, _ in read.elements if tag == "img"]
    assert "no" * 1000 not in text  # long texts are cut
    assert "nonono" in text


def test_examples_of_another_winner_or_of_another_make_are_not_shown(tmp_path):
    plain = Reader(page(Run.read(bench.write(tmp_path / "plain")))).text["heldout"]
    for i, wrong in enumerate(
        (
            {**DOCUMENT, "winner": {"trial": 4, "name": "trial 4"}},
            {**DOCUMENT, "items": [{"task": "quiz"}]},
            ["no", "mapping"],
            {},
        )
    ):
        assert with_examples(tmp_path / str(i), wrong).text["heldout"] == plain
