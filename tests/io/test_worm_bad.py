"""Recordings of C. elegans that contradict themselves, or are none: which error, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from writers import worm as writer

from tectum import Recording, Session
from tectum.core.errors import InputError, LoadError, TectumWarning
from tectum.io.files import UnsafePickleError
from tectum.io.worm.flavell import read_labels
from tectum.io.worm.matlab import load_mat
from tectum.io.worm.names import UnknownNeuronError
from tectum.io.worm.read import read_worm


def activity(session: Session) -> Recording:
    part = session["activity"]
    assert isinstance(part, Recording)
    return part


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": [["AVAL"], ["AVAL"]]}, r"WT_Stim-0: labels: expected 6, one a trace, got 1 labels"),
        ({"times": [np.arange(39.0), np.arange(40.0)]}, r"WT_Stim-0: time: expected 40 times, one a frame, got 39"),
        (
            {"times": [np.arange(40.0)[::-1].copy()] * 2},
            r"time: expected a steady increasing clock, got 38 s after 39 s",
        ),
        (
            {"times": [np.r_[np.arange(39.0), 40.0]] * 2},
            r"a step of 2 s at frame 39, the median is 1 s; pass fix_time=",
        ),
        ({"times": [np.r_[np.arange(39.0), np.nan]] * 2}, r"steady increasing clock, got nan at frame 39"),
        ({"values": [np.zeros((0, 0))] * 2, "times": [np.zeros(1)] * 2}, r"a matrix of numbers"),
    ],
)
def test_contradictions_name_file_and_animal(change: Any, says: str, tmp_path: Path) -> None:
    writer.write_zimmer(tmp_path / "WT_Stim.mat", **change)
    with pytest.raises(InputError, match=says) as caught:
        read_worm(tmp_path / "WT_Stim.mat")
    assert "WT_Stim.mat" in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, LoadError)


def test_a_clock_made_regular(tmp_path: Path) -> None:
    times = np.r_[np.arange(20.0), np.arange(18.0, 38.0)]  # steps back by two frames
    times[30:] += 5.0  # a gap
    values = np.repeat(np.maximum(times, 0)[:, None], 6, axis=1)
    writer.write_zimmer(tmp_path / "WT_Stim.mat", values=[values], times=[times], n=1, labels=[writer.LABELS])
    with pytest.warns(TectumWarning, match="clock made regular: 2 frames dropped, 5 filled with NaN"):
        rec = activity(read_worm(tmp_path / "WT_Stim.mat", fix_time="regularise")[0])
    np.testing.assert_allclose(rec.time.numpy(), np.arange(43.0), rtol=0, atol=1e-9)
    line = rec.values[:, 0]
    good = torch.isfinite(line)
    torch.testing.assert_close(line[good].double(), rec.time[good])
    assert (~good).sum() == 5
    with pytest.raises(InputError, match="fix_time: expected None or 'regularise', got 'sort'"):
        read_worm(tmp_path / "WT_Stim.mat", fix_time="sort")


@pytest.mark.parametrize(
    ("write", "name", "change", "says"),
    [
        (
            writer.write_yemini,
            "Head_Activity_OH15500.mat",
            {"norm_traces": writer.cell()},
            "one entry a neuron of each",
        ),
        (
            writer.write_yemini,
            "Head_Activity_OH15500.mat",
            {"fps": "four"},
            "fps: expected one row or column of numbers",
        ),
        (writer.write_lin, "a.mat", {"use_flag": np.zeros((4, 1))}, "use_flag: expected a proofread neuron, got none"),
        (writer.write_lin, "a.mat", {"use_flag": np.ones((3, 1))}, "4 names, 3 flags, 4 traces"),
        (writer.write_lin, "a.mat", {"times": np.arange(3.0)}, "time: expected 35 times, one a frame, got 3"),
        (writer.write_dag, "a-data.h5", {"behavior/reversal_events": np.zeros(4)}, r"first and last frames \(2, n\)"),
        (writer.write_dag, "a-data.h5", {"timing/time_food_encounter": 51}, "a frame up to 50, got 51"),
        (writer.write_flavell, "a.json", {"labeled": {"5": {"label": "AVAL"}}}, "labeled: expected neurons 1 to 4"),
        (writer.write_flavell, "a.json", {"trace_array": [[1.0], [1.0, 2.0]]}, "rows of one length"),
        (
            writer.write_venkatachalam,
            "a.zip",
            {"text": "neuron,b\n1,2\n"},
            "a column neuron and frames from column 107",
        ),
    ],
)
def test_more_contradictions(write: Callable[..., Any], name: str, change: Any, says: str, tmp_path: Path) -> None:
    write(tmp_path / name, **change)
    with pytest.raises(InputError, match=says) as caught:
        read_worm(tmp_path / name)
    assert name in str(caught.value)


def test_a_split_at_every_frame_is_none(tmp_path: Path) -> None:
    frames = np.tile(np.arange(1, 51), (2, 1))
    writer.write_dag(tmp_path / "2022-05-02-01-data.h5", **{"gcamp/idx_splits": frames})
    support = activity(read_worm(tmp_path / "2022-05-02-01-data.h5")[0]).intervals["support"]
    np.testing.assert_allclose(support.pairs(), [(0.0, 30.0)])


def test_a_table_of_labels_that_changes_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    writer.write_dag_labels(path, labels={1: ("AVAL", 4.0)})
    assert read_labels(path)["2022-07-26-31"] == {1: ("AVAL", 4.0)}
    writer.write_dag_labels(path, labels={2: ("AVAR", 4.0), 3: ("RID", 1.0)})
    assert set(read_labels(path)["2022-07-26-31"]) == {2, 3}


def test_labels_of_columns_that_do_not_exist(tmp_path: Path) -> None:
    writer.write_dag(tmp_path / "2022-07-26-31-data.h5")
    writer.write_dag_labels(tmp_path / "labels.json", labels={6: ("AVAL", 1.0)})
    with pytest.raises(InputError, match=r"labels\.json: 2022-07-26-31: expected columns 1 to 5, got 6"):
        read_worm(tmp_path / "2022-07-26-31-data.h5", labels=tmp_path / "labels.json")


def test_unknown_names(tmp_path: Path) -> None:
    writer.write_zimmer(tmp_path / "WT_Stim.mat", labels=[["AVAL", "XYZ", "ABC", "RMED", "", "VA1"]] * 2)
    rec = activity(read_worm(tmp_path / "WT_Stim.mat")[0])
    assert rec.meta["unmatched"] == ["XYZ", "ABC"]
    with pytest.raises(
        UnknownNeuronError, match=r"Kato2015/WT_Stim-0: expected names of neurons, got XYZ, ABC"
    ) as caught:
        read_worm(tmp_path / "WT_Stim.mat", strict=True)
    assert isinstance(caught.value, KeyError)


def test_filters_tell_what_they_removed(tmp_path: Path) -> None:
    writer.write_zimmer(tmp_path / "WT_Stim.mat", labels=[["", "", "", "", "", ""], writer.LABELS])
    assert len(read_worm(tmp_path / "WT_Stim.mat", min_named=1)) == 1
    with pytest.raises(InputError, match="at least one animal, got none: 0 below min_frames=40, 2 below min_named=4"):
        read_worm(tmp_path / "WT_Stim.mat", min_frames=40, min_named=4)
    with pytest.raises(InputError, match="none: 2 below min_frames=600, 0 below min_named=1"):
        read_worm(tmp_path / "WT_Stim.mat", min_frames=600, min_named=1)


def test_what_is_no_recording(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="an existing file or folder, got none there"):
        read_worm(tmp_path / "none.mat")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(LoadError, match=r"a recording of a known set, got .*; pass dataset= one of Kato2015"):
        read_worm(tmp_path)
    with pytest.raises(InputError, match="dataset: expected one of Kato2015.*got 'Kato'"):
        read_worm(tmp_path, dataset="Kato")
    with pytest.raises(LoadError, match="expected files of Lin2023, got none there"):
        read_worm(tmp_path, dataset="Lin2023")
    (tmp_path / "WT_Stim.mat").write_bytes(b"MATLAB" * 50)
    with pytest.raises(LoadError, match=r"WT_Stim\.mat: expected a MATLAB v5 file, got ValueError: no header"):
        read_worm(tmp_path / "WT_Stim.mat")
    (tmp_path / "WT_Stim.mat").unlink()
    writer.write_mat73(tmp_path / "WT_Stim.mat", {"WT_Stim": {"other": np.ones((2, 2))}})
    with pytest.raises(InputError, match=r"WT_Stim: expected a field IDs or NeuronNames or neuron_ID, got WT_Stim"):
        read_worm(tmp_path / "WT_Stim.mat")


@pytest.mark.parametrize("suffix", [".pt", ".pickle", ".pkl"])
def test_pickles_are_refused(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"Kato2015{suffix}").write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafePickleError, match=r"Kato2015.*expected arrays or text, got a .* file; read the raw"):
        read_worm(tmp_path / f"Kato2015{suffix}")


def test_a_structure_without_end_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "WT_Stim.mat", "w", userblock_size=512) as file:
        node = file.create_dataset("WT_Stim", (1, 1), dtype=h5py.ref_dtype)
        node[0, 0] = node.ref
    with pytest.raises(LoadError, match=r"WT_Stim\.mat: .*nested deeper than 8"):
        load_mat(tmp_path / "WT_Stim.mat")
