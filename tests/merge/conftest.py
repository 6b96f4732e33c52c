"""Families of tiny models that the tests of merging read and never write to."""

import pytest

from tests.models import ARCHITECTURES, make_family


@pytest.fixture(scope="module", params=[*ARCHITECTURES, "tied"])
def family(request, tmp_path_factory):
    """A base and two models near it, of each architecture, and of Llama with a tied head."""
    folder = tmp_path_factory.mktemp(request.param)
    tied = request.param == "tied"
    return make_family(folder, "llama" if tied else request.param, tied=tied)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("llama"), names="abc", layers=3)
