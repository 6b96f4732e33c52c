"""What the package index, containers and citations need is there and agrees."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from evomerge import __version__
from evomerge.core import yaml_file

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCE = "https://example.org/evomerge"


def hook() -> Any:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_on_the_index_every_link_of_the_readme_is_an_address_of_a_file_that_is_there() -> None:
    text = hook().absolute((ROOT / "README.md").read_text(), SOURCE, "v1")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(targets) > 20
    for target in targets:
        assert re.match(r"https?://|#", target), target
        inside = re.match(rf"{re.escape(SOURCE)}/(?:raw|blob)/v1/([^#]+)", target)
        # the reading list is written while the documentation is built
        assert inside is None or inside[1] == "docs/reading-list.md" or (ROOT / inside[1]).exists()
    assert f"]({SOURCE}/raw/v1/docs/report.png)" in text


def test_without_an_address_the_readme_on_the_index_has_no_dead_links() -> None:
    text = hook().absolute((ROOT / "README.md").read_text(), None, "v1")
    assert not re.findall(r"\]\((?!https?:|#)", text)
    assert "The reading list: 89 systems" in text


def test_the_project_names_no_address_but_the_one_in_pyproject() -> None:
    citation = yaml_file.read(ROOT / "CITATION.cff")
    address = PROJECT.get("urls", {}).get("Source")
    assert citation.get("repository-code") in (None, address)
    assert citation["version"] == PROJECT["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    for file in ("pyproject.toml", "CITATION.cff", "mkdocs.yml", "README.md", ".readthedocs.yaml"):
        text = (ROOT / file).read_text()
        for host in ("github.com/evomerge", "evomerge.readthedocs.io", "evomerge.org"):
            assert address is not None or host not in text, file


def test_the_workflow_and_the_hosting_of_the_docs_call_what_is_there() -> None:
    workflow = yaml_file.read(ROOT / ".github" / "workflows" / "ci.yml")
    steps = workflow["jobs"]["everything"]["steps"]
    assert steps[-1] == {"run": "bash .ci/run"}
    hosting = yaml_file.read(ROOT / ".readthedocs.yaml")
    install, write, build, _ = hosting["build"]["commands"]
    assert install == "pip install '.[docs]'"
    assert "docs" in PROJECT["optional-dependencies"]
    assert (ROOT / write.removeprefix("python ")).is_file()
    assert build in (ROOT / ".ci" / "run").read_text()
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").iterdir():
        assert yaml_file.read(form)["body"]


def test_the_dockerfile_copies_what_is_there_and_not_ignored() -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text()
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    sources = [
        word for line in re.findall(r"^COPY (.*)$", text, re.M) for word in line.split()[:-1]
    ]
    assert len(sources) >= 8
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in allowed, source
    stages = re.findall(r"^FROM \S+ AS (\w+)$", text, re.M)
    assert stages == ["base", "cpu", "cuda", "final"]
    assert 'ENTRYPOINT ["evomerge"]' in text  # not through a shell: it gets the signals itself


@pytest.mark.slow
def test_a_wheel_made_from_the_sdist_has_the_package_its_spaces_and_the_readme(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)]
    subprocess.run([*command, "-t", "sdist"], cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    subprocess.run(["tar", "xzf", archive], cwd=tmp_path, check=True)
    unpacked = archive.with_name(archive.name.removesuffix(".tar.gz"))
    subprocess.run([*command, "-t", "wheel"], cwd=unpacked, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as contents:
        names = contents.namelist()
        (about,) = (name for name in names if name.endswith("METADATA"))
        metadata = contents.read(about).decode()
    assert {"evomerge/search_spaces/ties_by_depth.yaml", "evomerge/py.typed"} <= set(names)
    assert "evomerge/merge/kernels/kernels.cpp" in names
    address = PROJECT.get("urls", {}).get("Source")
    assert hook().absolute((ROOT / "README.md").read_text(), address, f"v{__version__}") in metadata
    assert "Author: The evomerge developers" in metadata


def test_the_readme_has_at_most_two_hundred_lines_and_ends_with_the_licence() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert lines[-1].endswith("Apache-2.0.")
