"""Every architecture of the corpus: what works is what the table in the documentation says."""

import pytest

from tests.corpus.architectures import CORPUS
from tests.corpus.checks import CHECKS, outcome_of
from tests.corpus.table import GROUPS, README, read_table, readme_block
from tests.corpus.zoo import make_zoo

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers and PEFT about their own words


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(one, id=one.name, marks=() if one.quick else pytest.mark.slow)
        for one in CORPUS
    ],
)
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def zoo(architecture, tmp_path_factory):
    return make_zoo(tmp_path_factory.mktemp("zoo"), architecture)


@pytest.mark.parametrize("check", [name for name in CHECKS if name != "study"])
def test_an_architecture_is_merged_scored_and_adapted_as_transformers_runs_it(
    check, architecture, zoo, tmp_path
):
    outcome = outcome_of(check, architecture, zoo, tmp_path / "work")
    expected = read_table()[architecture.name][check]
    # A line of refusal may be worded anew; that something is refused may not change unseen.
    assert outcome == expected or "yes" not in (outcome, expected), (outcome, expected)


@pytest.mark.slow
def test_three_trials_end_in_a_model_that_loads(architecture, zoo, tmp_path):
    outcome = outcome_of("study", architecture, zoo, tmp_path / "work")
    assert (outcome == "yes") == (read_table()[architecture.name]["search"] == "yes"), outcome


def test_the_table_has_a_row_for_each_architecture():
    assert [*read_table()] == [one.name for one in CORPUS]
    assert len(CORPUS) >= 30


def test_the_readme_has_the_same_table_in_groups():
    assert readme_block() in README.read_text(encoding="utf-8"), (
        "python tests/corpus/table.py readme"
    )
    assert GROUPS.keys() <= read_table().keys()
    assert len(readme_block().splitlines()) <= 12
