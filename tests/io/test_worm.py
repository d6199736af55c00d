"""The twelve activity sets of C. elegans and their homogenised table against independent readers."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from writers import worm as writer

import tectum
from tectum import Recording, Session
from tectum.core.errors import InputError, LoadError, MissingExtraError, TectumWarning
from tectum.io.worm import parquet as worm_parquet
from tectum.io.worm.flavell import read_labels
from tectum.io.worm.matlab import load_mat
from tectum.io.worm.read import DATASETS, dataset_of, from_canonical, read_worm, to_canonical


def activity(session: Session) -> Recording:
    part = session["activity"]
    assert isinstance(part, Recording)
    return part


def same(rec: Recording, values: np.ndarray, times: np.ndarray) -> None:
    """Values are those of the file in float32, element by element; times agree to 1e-9 s."""
    np.testing.assert_array_equal(rec.values.numpy(), np.asarray(values).astype(np.float32))
    np.testing.assert_allclose(rec.time.numpy(), times, rtol=0, atol=1e-9)
    assert len(np.unique(rec.time.numpy())) == len(times)


ZIMMER = [
    ("Kato2015", "WT_Stim"),
    ("Nichols2017", "npr1_prelet"),
    ("Skora2018", "WT_fasted"),
    ("Kaplan2020", "Neuron2019_Data_MNhisCl_RIShisCl"),
    ("Uzel2022", "Uzel_WT"),
]


@pytest.mark.parametrize(("dataset", "stem"), ZIMMER)
def test_zimmer_equals_h5py(dataset: str, stem: str, tmp_path: Path) -> None:
    path = tmp_path / f"{stem}.mat"
    made = writer.write_zimmer(path, dataset)
    found = read_worm(path)
    assert [s.subject for s in found] == [f"{dataset}/{stem}-0", f"{dataset}/{stem}-1"]
    names, field, clock = writer._FIELDS[dataset]
    with h5py.File(path) as file:
        struct = file[next(name for name in file if name != "#refs#")]
        for k, session in enumerate(found):
            rec = activity(session)
            same(rec, file[struct[field][k, 0]][()].T, file[struct[clock][k, 0]][()].reshape(-1))
            np.testing.assert_array_equal(rec.values.numpy(), made["values"][k].astype(np.float32))
            assert len(file[struct[names][k, 0]]) == rec.sizes["unit"]
    units = activity(found[0]).coords["unit"]
    assert units["name"].tolist() == writer.NAMES
    assert units["label"].tolist() == ["AVAL", "AS01", "", "RMF?", "VD10", "17"]
    assert units["class"].tolist() == ["AVA", "AS", "", "", "VD", ""]
    assert activity(found[0]).meta["ambiguous"] == ["RMF?"]
    assert activity(found[0]).units == ("dF/F" if field == "deltaFOverF_bc" else "a.u.")
    assert DATASETS[dataset].citation == activity(found[0]).meta["citation"]
    assert read_worm(path, units="dF/F")[0]["activity"].units == "dF/F"


def test_zimmer_v5_equals_v73_and_scipy(tmp_path: Path) -> None:
    from scipy.io import loadmat

    (tmp_path / "old").mkdir()
    old, new = tmp_path / "old" / "WT_Stim.mat", tmp_path / "WT_Stim.mat"
    writer.write_zimmer(old, old=True)
    writer.write_zimmer(new)
    struct = loadmat(old)["WT_Stim"][0, 0]
    for k, (a, b) in enumerate(zip(read_worm(old), read_worm(new), strict=True)):
        rec = activity(a)
        same(rec, struct["deltaFOverF_bc"][0, k], struct["tv"][0, k].reshape(-1))
        assert torch.equal(rec.values, activity(b).values)
        assert rec.coords["unit"]["name"].tolist() == activity(b).coords["unit"]["name"].tolist()


def test_one_animal_without_cells_and_a_foreign_name(tmp_path: Path) -> None:
    x = writer.traces()
    content = {"IDs": writer.cell(*writer.LABELS), "traces": x, "tv": np.arange(40.0)[:, None]}
    writer.write_mat73(tmp_path / "mine.mat", content)
    with pytest.raises(
        LoadError, match=r"mine\.mat: expected a recording of a known set, got mine\.mat; pass dataset="
    ):
        read_worm(tmp_path / "mine.mat")
    same(activity(read_worm(tmp_path / "mine.mat", dataset="Uzel2022")[0]), x, np.arange(40.0))


def test_yemini_equals_scipy(tmp_path: Path) -> None:
    from scipy.io import loadmat

    path = tmp_path / "Head_Activity_OH16230.mat"
    writer.write_yemini(path)
    raw = loadmat(path)
    found = read_worm(path)
    assert [activity(s).meta["animal"] for s in found] == ["worm_a", "worm_b"]
    for k, session in enumerate(found):
        rec = activity(session)
        ava, avg = raw["norm_traces"][0, 0], raw["norm_traces"][0, 1]
        columns = [ava[0, k], ava[0, 2 + k], avg[0, k]] + ([raw["norm_traces"][0, 2][0, 3]] if k else [])
        same(rec, np.concatenate(columns, axis=1)[4:], np.arange(4, 30) / raw["fps"].item())
        assert rec.coords["unit"]["name"].tolist() == ["AVAL", "AVAR", "AVG", "RMFR"][: 3 + k]
        assert rec.rate == 4.0
        stimuli = rec.intervals["stimuli"]
        assert stimuli.pairs() == [(1.0, 1.5), (3.0, 3.5), (5.0, 5.5)]
        order = ["butanone", "pentanedione", "NaCl"] if k == 0 else ["NaCl", "butanone", "pentanedione"]
        assert stimuli.columns["name"].tolist() == order


def test_yemini_onsets_only(tmp_path: Path) -> None:
    path = tmp_path / "Head_Activity_OH15500.mat"
    names = writer.cell("butanone", "pentanedione", "NaCl")
    writer.write_yemini(path, stim_names=names, stim_times=np.array([[60.5], [120.5], [180.5]]))
    stimuli = activity(read_worm(path)[1]).intervals["stimuli"]
    assert stimuli.pairs() == [(60.5, 70.5), (120.5, 130.5), (180.5, 190.5)]


def test_yemini_with_stimuli_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "Head_Activity_OH15500.mat"
    writer.write_yemini(path, stim_times=np.ones((2, 2)))
    with pytest.warns(TectumWarning, match=r"OH15500\.mat: stimuli left out: .*got 3 names, times of shape \(2, 2\)"):
        found = read_worm(path)
    assert all("stimuli" not in activity(s).intervals for s in found)


def test_other_variables_of_a_file_are_not_read(tmp_path: Path) -> None:
    writer.write_zimmer(tmp_path / "WT_Stim.mat")
    with h5py.File(tmp_path / "WT_Stim.mat", "r+") as file:
        node = file.create_dataset("WT_Stim/movie", (1, 1), dtype=h5py.ref_dtype)
        node[0, 0] = node.ref  # a cell that holds itself
        file.create_dataset("other", (1, 1), dtype=h5py.ref_dtype)
    assert len(read_worm(tmp_path / "WT_Stim.mat")) == 2
    with pytest.raises(LoadError, match="nested deeper than 8"):
        load_mat(tmp_path / "WT_Stim.mat")


def test_lin_equals_scipy(tmp_path: Path) -> None:
    made = writer.write_lin(tmp_path / "animal 7.mat")
    with pytest.warns(TectumWarning, match="AWCON left unidentified; pass awc_on="):
        (session,) = read_worm(tmp_path / "animal 7.mat")
    rec = activity(session)
    same(rec, made["values"][:3].T, made["times"])
    assert rec.coords["unit"]["name"].tolist() == ["AWAL", "ASHR", ""]
    assert rec.meta["left_out"] == 1
    np.testing.assert_array_equal(rec.coords["unit"]["f0"], made["f0"][:3, 0])
    assert rec.units == "F"
    told = read_worm(tmp_path / "animal 7.mat", awc_on={"animal 7": "R"})
    assert activity(told[0]).coords["unit"]["name"].tolist() == ["AWAL", "ASHR", "AWCR"]


@pytest.mark.parametrize("kind", ["json", "jld2"])
def test_dag_equals_h5py(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "2022-07-26-31-data.h5"
    made = writer.write_dag(path)
    writer.write_dag_labels(tmp_path / f"NeuroPAL_labels_dict.{kind}")
    with pytest.warns(TectumWarning, match="AVAL named more than once; the surest"):
        (session,) = read_worm(path)
    rec = activity(session)
    same(rec, made["gcamp/traces_array_F_F20"], made["timing/timestamp_confocal"] - 1000.0)
    assert rec.coords["unit"]["name"].tolist() == ["", "AVAL", "", "", "AS5"]
    np.testing.assert_array_equal(rec.coords["unit"]["confidence"], [4, 5, np.nan, 3, 2.5])
    assert rec.meta["clock_origin_s"] == 1000.0
    assert rec.meta["food_encounter_s"] == pytest.approx(10 * 0.6)
    np.testing.assert_allclose(rec.intervals["reversals"].pairs(), [(3 * 0.6, 5 * 0.6), (40 * 0.6, 50 * 0.6)])
    np.testing.assert_allclose(rec.intervals["support"].pairs(), [(0, 20 * 0.6), (25 * 0.6, 50 * 0.6)])
    behaviour = session["behaviour"]
    assert behaviour.labels("channel").tolist() == ["pumping", "velocity"]
    np.testing.assert_array_equal(behaviour.values[:, 1].numpy(), made["behavior/velocity"].astype(np.float32))
    np.testing.assert_array_equal(session["body_angle"].values.numpy(), made["behavior/body_angle"].astype(np.float32))
    with pytest.warns(TectumWarning, match="AVAL named more than once"):
        scaled = read_worm(path, signal="trace_array", labels=tmp_path / f"NeuroPAL_labels_dict.{kind}", min_frames=50)
    guessed = read_worm(path, ambiguous="guess")[0]["activity"].coords["unit"]["name"].tolist()
    assert guessed[:2] == ["AVAL", "ADAL"]
    assert all(guessed[3:])
    assert activity(scaled[0]).units == "z"
    assert set(read_labels(tmp_path / f"NeuroPAL_labels_dict.{kind}")) == {"2022-07-26-31"}


def test_dag_without_labels_and_with_too_many_times(tmp_path: Path) -> None:
    path = tmp_path / "2022-01-16-01-data.h5"
    made = writer.write_dag(path, extra_times=2)
    with pytest.warns(TectumWarning, match=r"52 times for 50 frames; the last are cut"):
        (session,) = read_worm(path)
    same(activity(session), made["gcamp/traces_array_F_F20"], np.arange(50) * 0.6)
    assert (activity(session).coords["unit"]["name"] == "").all()
    with pytest.raises(InputError, match="signal: expected one of traces_array_F_F20"):
        read_worm(tmp_path, signal="raw")


@pytest.mark.parametrize("kind", ["json", "h5"])
def test_flavell_equals_json_and_h5py(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"2022-06-14-01-data.{kind}"
    made = writer.write_flavell(path)
    (session,) = read_worm(path)
    rec = activity(session)
    if kind == "json":
        raw = json.loads(path.read_text())
        same(rec, np.asarray(raw["trace_array"]).T, np.asarray(raw["timestamp_confocal"]) - 5.0)
    else:
        with h5py.File(path) as file:
            same(rec, file["trace_array"][()].T, file["timestamp_confocal"][()] - 5.0)
    assert rec.coords["unit"]["name"].tolist() == ["AVAL", "", "VB2", ""]
    np.testing.assert_array_equal(rec.coords["unit"]["confidence"], [4, np.nan, 3, np.nan])
    np.testing.assert_array_equal(session["behaviour"].values[:, 0].numpy(), np.float32(made["velocity"]))


def test_leifer_equals_loadtxt(tmp_path: Path) -> None:
    for number in (10, 2):
        writer.write_leifer(tmp_path, number)
    found = read_worm(tmp_path)
    assert [activity(s).meta["animal"] for s in found] == ["2", "10"]
    for number, session in zip((2, 10), found, strict=True):
        rec = activity(session)
        same(rec, np.loadtxt(tmp_path / f"{number}_gcamp.txt"), np.loadtxt(tmp_path / f"{number}_t.txt"))
        assert rec.coords["unit"]["name"].tolist() == ["AVAL", "", "", "", "RID"]
        assert rec.intervals["stimuli"].pairs() == [(5.0, 5.0), (10.0, 10.0)]
        assert rec.intervals["stimuli"].columns["name"].tolist() == ["RID", ""]
        assert rec.meta["source"] == "pumpprobe_20210101"
    guessed = activity(read_worm(tmp_path / "2_gcamp.txt", ambiguous="guess")[0])
    assert guessed.coords["unit"]["name"].tolist() == ["AVAL", "", "AVAR", "", "RID"]


def test_leifer_labels(tmp_path: Path) -> None:
    writer.write_leifer(tmp_path, labels=["AVAL", "", "AVA", "merge", "RID", "RMED"])
    with pytest.warns(TectumWarning, match="6 labels for 5 traces; the last are cut"):
        assert activity(read_worm(tmp_path)[0]).sizes["unit"] == 5
    writer.write_leifer(tmp_path, labels=["AVAL", "RID"])
    with pytest.raises(InputError, match=r"0_gcamp\.txt.*0: labels: expected 5, one a trace, got 2 labels"):
        read_worm(tmp_path)
    (tmp_path / "0_t.txt").unlink()
    with pytest.raises(LoadError, match=r"0_t\.txt: expected an existing file: it provides the time of each frame"):
        read_worm(tmp_path)


def test_venkatachalam_equals_pandas(tmp_path: Path) -> None:
    import pandas as pd

    path = tmp_path / "20240101.zip"
    writer.write_venkatachalam(path)
    with zipfile.ZipFile(path) as archive:
        table = pd.read_csv(archive.open("20240101.csv"))
    values = table.iloc[:, 107:-1].to_numpy(float).T
    (session,) = read_worm(path)
    rec = activity(session)
    same(rec, values[:, [0, 2]], np.arange(20) * 0.375)
    assert rec.coords["unit"]["name"].tolist() == ["AVAL", ""]
    assert rec.meta["left_out"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["20240101.zip"]  # nothing is unpacked


@pytest.mark.parametrize(("turned", "rate"), [(False, None), (True, 3.5)])
def test_nejatbakhsh_equals_h5py(turned: bool, rate: float | None, tmp_path: Path) -> None:
    folder = tmp_path / "20190101"
    folder.mkdir()
    x = writer.write_nejatbakhsh(folder / "animal.nwb", turned=turned, rate=rate)
    (session,) = read_worm(tmp_path, dataset="Nejatbakhsh2020")
    rec = activity(session)
    start, step = (0.0, 0.25) if rate is None else (0.5, 1 / 3.5)
    same(rec, x, start + np.arange(24) * step)
    assert rec.units == "F"
    assert rec.coords["unit"]["name"].tolist() == ["AVAL", "", "RMER"]
    assert ("4 Hz" in str(rec.history)) == (rate is None)
    assert dataset_of(folder) == "Nejatbakhsh2020"


def test_nejatbakhsh_axes_that_cannot_be_told(tmp_path: Path) -> None:
    writer.write_nejatbakhsh(tmp_path / "a.nwb", values=np.ones((3, 3)))
    with pytest.raises(InputError, match=r"a\.nwb: expected neurons told from frames, got as many as frames"):
        read_worm(tmp_path / "a.nwb")


# The homogenised table


def test_homogenised_equals_pandas(tmp_path: Path) -> None:
    import pandas as pd

    path = tmp_path / "worm_data_short.parquet"
    writer.write_homogenised(path)
    table = pd.read_parquet(path)
    found = read_worm(path)
    assert [s.subject for s in found] == ["Kato2015/worm0", "Uzel2022/worm0"]
    for session in found:
        rec = activity(session)
        rows = table[table.source_dataset == rec.meta["dataset"]]
        same(rec, np.stack(rows.original_calcium_data.to_list(), 1), rows.original_time_in_seconds.iloc[0])
        named = np.where(rows.is_labeled_neuron, rows.neuron, "")
        assert rec.coords["unit"]["name"].tolist() == named.tolist()
        assert rec.meta["condition"] == "WT"
        assert "Simeon" in rec.meta["citation"]
        assert DATASETS[rec.meta["dataset"]].citation in rec.meta["citation"]
    (one,) = read_worm(path, signal="calcium", datasets=["Uzel2022"], worms=["worm0"])
    rows = table[table.source_dataset == "Uzel2022"]
    same(
        activity(one), np.stack(rows.calcium_data.to_list(), 1), 0.333 * np.arange(31)
    )  # not the stored half precision
    assert activity(one).units == "z"


def test_homogenised_times_in_half_precision_become_a_steady_clock(tmp_path: Path) -> None:
    rows = writer.homogenised_rows()
    for row in rows:
        n = row["original_max_timesteps"]
        row["original_time_in_seconds"] = (600 + 0.3 * np.arange(n)).astype(np.float16).astype(np.float32)
    writer.write_homogenised(tmp_path / "a.parquet", rows)
    rec = activity(read_worm(tmp_path / "a.parquet")[0])
    assert rec.rate is not None
    assert len(torch.unique(rec.time)) == 40
    assert "half precision" in str(rec.history)


@pytest.mark.parametrize(
    ("change", "drop", "says"),
    [
        ({}, "slot", None),
        ({}, "max_timesteps", None),
        ({}, "original_max_timesteps", r"a\.parquet: expected columns original_max_timesteps"),
        (
            {"original_max_timesteps": 41},
            "",
            r"row \(Kato2015, worm0, VD10\): original_calcium_data: expected 41 numbers",
        ),
        ({"original_calcium_data": None}, "", r"row \(Kato2015, worm0, VD10\): original_calcium_data: .*got none"),
    ],
)
def test_homogenised_contradictions(change: Any, drop: str, says: str | None, tmp_path: Path) -> None:
    rows = writer.homogenised_rows()
    rows[2].update(change)
    writer.write_homogenised(tmp_path / "a.parquet", rows, drop)
    if says is None:
        assert len(read_worm(tmp_path / "a.parquet")) == 2
        return
    with pytest.raises(InputError, match=says):
        read_worm(tmp_path / "a.parquet")


def test_homogenised_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.write_homogenised(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"expected worms \['worm9'\] of None, got none"):
        read_worm(tmp_path / "a.parquet", worms=["worm9"])
    with pytest.raises(InputError, match=r"signal: expected one of \('calcium', 'original'\), got 'raw'"):
        read_worm(tmp_path / "a.parquet", signal="raw")
    import builtins

    found = builtins.__import__

    def without(name: str, *more: Any, **named: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return found(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pyarrow.*pip install tectum\[worm\]"):
        worm_parquet._parquet()


def test_the_citation_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer.write_zimmer(tmp_path / "WT_Stim.mat")
    with caplog.at_level(logging.INFO, logger="tectum"):
        read_worm(tmp_path / "WT_Stim.mat")
    assert "Kato2015: cite Kato S. et al. (2015)" in caplog.text


def test_read_finds_recordings_by_what_they_hold(tmp_path: Path) -> None:
    writer.write_zimmer(tmp_path / "WT_NoStim.mat")
    writer.write_flavell(tmp_path / "a.json")
    writer.write_dag(tmp_path / "b-data.h5")
    writer.write_venkatachalam(tmp_path / "c.zip")
    writer.write_homogenised(tmp_path / "d.parquet")
    writer.write_yemini(tmp_path / "x.mat")
    (tmp_path / "leifer").mkdir()
    writer.write_leifer(tmp_path / "leifer")
    for name in ("WT_NoStim.mat", "d.parquet", "x.mat"):  # several animals
        found = tectum.read(tmp_path / name)
        assert [type(x) for x in found] == [Session, Session]
    for name in ("a.json", "b-data.h5", "c.zip", "leifer"):
        assert isinstance(tectum.read(tmp_path / name), Session)
        assert isinstance(tectum.read(tmp_path / name, format="worm"), Session)


def test_files_keep_their_metadata(tmp_path: Path) -> None:
    writer.write_dag(tmp_path / "2022-07-26-31-data.h5")
    writer.write_dag_labels(tmp_path / "NeuroPAL_labels_dict.json", labels={1: ("AVAL", 4.0)})
    (session,) = read_worm(tmp_path / "2022-07-26-31-data.h5")
    session.save(str(tmp_path / "saved.safetensors"))
    again = tectum.load(str(tmp_path / "saved.safetensors"))
    assert torch.equal(again["activity"].values, activity(session).values)
    assert again["activity"].meta == dict(activity(session).meta)
    assert again["activity"].coords["unit"]["name"].tolist() == ["AVAL", "", "", "", ""]


# The canonical axis


def test_there_and_back_is_exact(tmp_path: Path) -> None:
    writer.write_dag(tmp_path / "2022-07-26-31-data.h5")
    writer.write_dag_labels(tmp_path / "NeuroPAL_labels_dict.json", labels={5: ("AVAL", 4.0), 2: ("AS01", 1.0)})
    rec = activity(read_worm(tmp_path / "2022-07-26-31-data.h5")[0])
    both = to_canonical(rec)
    named, left = both["named"], both["unidentified"]
    assert named.shape == (50, 300)
    assert named.mask.sum() == 2
    assert left.sizes["unit"] == 3
    assert torch.isnan(named.values[:, ~named.mask[0]]).all()
    torch.testing.assert_close(named.sel(unit="AVAL").values, rec.values[:, 4])
    assert set(named.coords["unit"]["name"][named.mask[0].numpy()]) == {"AVAL", "AS1"}
    assert named.mask[0].sum() + left.sizes["unit"] == rec.sizes["unit"]  # disjoint, and together what was recorded
    back = from_canonical(both)
    assert torch.equal(back.values, rec.values)
    assert torch.equal(back.time, rec.time)
    assert back.mask is None
    assert set(back.coords["unit"]) == set(rec.coords["unit"])
    for name, column in rec.coords["unit"].items():
        np.testing.assert_array_equal(back.coords["unit"][name], column)
    assert back.history == rec.history
    assert to_canonical(rec, include_can=True)["named"].sizes["unit"] == 302


def test_masks_move_along() -> None:
    mask = torch.ones(5, 3, dtype=torch.bool)
    mask[2, 1] = False
    units = {"unit": {"name": ["AVAR", "ADAL", ""]}}
    rec = Recording(data=torch.randn(5, 3), dims=("time", "unit"), rate=1.0, mask=mask, coords=units)
    both = to_canonical(rec)
    assert both["named"].mask.sum() == 9
    assert not both["named"].mask[2, 0]
    back = from_canonical(both)
    assert torch.equal(back.mask, mask)
    assert torch.equal(back.values, rec.values)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["AVAL", "AVAL"], "each canonical name once, or '', got AVAL"),
        (["AVAL", "roi1"], "each canonical name once, or '', got roi1"),
        (None, "each canonical name once, or '', got none"),
    ],
)
def test_what_has_no_place_on_the_axis(names: list[str] | None, says: str) -> None:
    coords = {"unit": {"name": names}} if names else {}
    rec = Recording(data=torch.zeros(3, 2), dims=("time", "unit"), rate=1.0, coords=coords)
    with pytest.raises(InputError, match=f"to_canonical: name: expected {says}"):
        to_canonical(rec)
    with pytest.raises(InputError, match=r"to_canonical: expected a recording \(time, unit\)"):
        to_canonical(rec.isel(unit=0))
