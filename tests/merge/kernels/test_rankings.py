"""Rankings by magnitude: against a stable sort, and on disk, where damage is found."""

import os

import numpy as np
import pytest
import torch

from evomerge.merge.kernels import ranking as ranking_module
from evomerge.merge.kernels.delta import Delta
from evomerge.merge.kernels.ranking import STRIDE, keys_of, rank
from evomerge.merge.kernels.statistics import Statistics
from evomerge.methods.random import tie_order


def delta(count, seed=0, scale=1.0, stored=torch.float32):
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed)) * scale
    return Delta(None, values.to(stored), torch.float32)


def ordered(a_delta):
    """Flat indices from the largest magnitude to the smallest, equal ones in `tie_order`."""
    places = tie_order(torch.arange(a_delta.count)).numpy()
    return np.lexsort((places, -a_delta.part(0, a_delta.count).abs().numpy()))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("group", [None, 1000])
@pytest.mark.parametrize("count", [1, 64, 65_536, 65_537, 90_001])
def test_every_kept_key_is_the_key_of_its_rank(count, stored, group, monkeypatch):
    if group:
        monkeypatch.setattr(ranking_module, "GROUP", group)
        monkeypatch.setattr(ranking_module, "BLOCK", 5000)
    whole = delta(count, stored=stored)
    ranking = rank(whole)
    assert ranking.stride == (1 if count <= 65_536 else STRIDE)
    indices = ordered(whole)[:: ranking.stride].copy()
    assert (ranking.keys & 0xFFFFFFFF).tolist() == tie_order(torch.from_numpy(indices)).tolist()
    magnitude = whole.model.float().abs()[torch.from_numpy(indices)]
    assert ranking.keys.tolist() == keys_of(magnitude, torch.from_numpy(indices)).tolist()


@pytest.mark.parametrize("k", [0, 1, 63, 64, 65, 4096, 89_984, 89_985, 90_000, 90_001])
def test_a_bracket_holds_the_last_of_the_largest(k):
    whole = delta(90_001, stored=torch.bfloat16)
    bracket = rank(whole).largest(k)
    keys = keys_of(whole.model.float().abs(), torch.arange(whole.count)).sort().values
    sure = keys <= bracket.sure.key
    between = keys[~sure & (keys <= bracket.maybe.key)]
    assert len(between) < STRIDE
    assert int(sure.sum()) + bracket.missing == k
    closed = bracket.closed(between.flip(0))
    assert closed.missing == 0
    assert int((keys <= closed.sure.key).sum()) == k


def test_rankings_are_read_from_disk_by_what_the_tensors_hold(tmp_path, monkeypatch):
    first = Statistics(tmp_path).ranking("a", lambda: delta(70_000))
    (file,) = (tmp_path / "rankings").iterdir()
    assert file.stat().st_size < 70_000 / 8 + 1000

    def no_rank(_):
        raise AssertionError("it is on disk")

    with monkeypatch.context() as patched:
        patched.setattr("evomerge.merge.kernels.ranking_file.rank", no_rank)
        again = Statistics(tmp_path).ranking("b", lambda: delta(70_000))
        assert first.keys.tolist() == again.keys[:].tolist()
        with pytest.raises(AssertionError, match="on disk"):
            Statistics(tmp_path).ranking("a", lambda: delta(70_000, seed=1))
        with pytest.raises(AssertionError, match="on disk"):
            Statistics(tmp_path).ranking("a", lambda: delta(70_000, stored=torch.bfloat16))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_a_damaged_file_is_made_anew(damage, tmp_path):
    whole = Statistics(tmp_path).ranking("a", lambda: delta(70_000))
    (file,) = (tmp_path / "rankings").iterdir()
    content = file.read_bytes()
    if damage == "flip":
        file.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    elif damage == "cut":
        file.write_bytes(content[:-100])
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        Statistics(tmp_path / "other").ranking("a", lambda: delta(70_000, seed=1))
        (other,) = (tmp_path / "other" / "rankings").iterdir()
        file.write_bytes(other.read_bytes())
    again = Statistics(tmp_path).ranking("a", lambda: delta(70_000))
    assert whole.keys.tolist() == again.keys[:].tolist()
    assert file.stat().st_size == len(content)
    assert [f.name for f in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("damage", ["cut", "removed", "written over"])
def test_a_file_that_is_damaged_while_it_is_in_use_ends_nothing_and_changes_nothing(
    damage, tmp_path
):
    whole = rank(delta(70_000))
    Statistics(tmp_path).ranking("a", lambda: delta(70_000))
    (file,) = (tmp_path / "rankings").iterdir()
    in_use = Statistics(tmp_path).ranking("a", lambda: delta(70_000))
    assert in_use.largest(40_000) == whole.largest(40_000)
    if damage == "cut":  # in place: whoever had mapped it would be killed by SIGBUS
        os.truncate(file, 100)
    elif damage == "removed":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[-5000:] = bytes(5000)
        file.write_bytes(content)
        os.utime(file, ns=(1, 1))
    for k in (1, 3000, 40_000, 40_001, 69_990):
        assert in_use.largest(k) == whole.largest(k)


def test_a_folder_that_cannot_be_written_to_is_done_without(tmp_path):
    (tmp_path / "rankings").write_text("a file where the folder would be")
    assert len(Statistics(tmp_path).ranking("a", lambda: delta(70_000)).keys) == -(
        -70_000 // STRIDE
    )


def test_small_tensors_leave_nothing_on_disk(tmp_path):
    Statistics(tmp_path).ranking("a", lambda: delta(65_536))
    assert not (tmp_path / "rankings").exists()
