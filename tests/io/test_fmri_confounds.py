"""Confounds equal nilearn's on the tables it carries and on made ones; names of BIDS; events; bad tables."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import fmri as writer
from writers.fmri import packaged

import tectum
from tectum.core.errors import InputError, LoadError, TectumWarning
from tectum.io.fmri.bids import entities, find, find_one, sidecar
from tectum.io.fmri.confounds import MissingColumnError, confounds_beside, read_confounds, short_segments
from tectum.io.fmri.events import read_bids_events

BASE = "sub-01_task-rest"


def copied(folder: Path, version: str) -> tuple[Path, Path]:
    """Lay out a table that nilearn carries beside an image of its run, and return both."""
    data = packaged("nilearn", "interfaces/fmriprep/data/test_desc-confounds_regressors.tsv").parent
    source = {"1.4": "test_desc-confounds_regressors", "21": "test-v21_desc-confounds_timeseries"}.get(
        version, "no_nonsteady_desc-confounds_regressors"
    )
    end = "timeseries" if version == "21" else "regressors"
    table = folder / f"{BASE}_desc-confounds_{end}.tsv"
    shutil.copy(data / f"{source}.tsv", table)
    about = "test_desc-confounds_regressors" if version == "none" else source
    shutil.copy(data / f"{about}.json", table.with_suffix(".json"))
    image = folder / f"{BASE}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
    image.touch()
    return image, table


CASES: list[tuple[Any, dict[str, Any]]] = [
    ("simple", {}),
    ("simple", {"global_signal": "basic"}),
    ("simple", {"global_signal": "full", "motion": "basic", "wm_csf": "full"}),
    ("scrubbing", {"fd_threshold": 0.4, "scrub": 0}),
    ("scrubbing", {"fd_threshold": 0.3, "std_dvars_threshold": 1.3, "scrub": 2}),
    ("compcor", {}),
    ("compcor", {"n_compcor": 3}),
    (("high_pass", "motion", "compcor"), {"compcor": "anat_separated", "n_compcor": 2}),
    (("high_pass", "compcor"), {"compcor": "temporal"}),
    (("high_pass", "compcor"), {"compcor": "temporal_anat_combined", "n_compcor": 4}),
    (("motion",), {"motion": "derivatives"}),
    (("ica_aroma", "motion"), {"ica_aroma": "basic"}),
    (("motion", "wm_csf", "global_signal"), {"motion": "power2", "wm_csf": "derivatives", "global_signal": "power2"}),
]


@pytest.mark.parametrize("version", ["1.4", "21", "none"])
@pytest.mark.parametrize(("strategy", "options"), CASES)
def test_equals_nilearn_on_the_tables_it_carries(version: str, strategy: Any, options: Any, tmp_path: Path) -> None:
    _compare(*copied(tmp_path, version), strategy, options)


@pytest.mark.parametrize(("strategy", "options"), CASES)
def test_equals_nilearn_on_made_tables(strategy: Any, options: Any, tmp_path: Path) -> None:
    run = writer.write_derivative(tmp_path, n=60)
    _compare(run.bold, confounds_beside(run.bold), strategy, options)


def _compare(image: Path, table: Path, strategy: Any, options: dict[str, Any]) -> None:
    from nilearn.interfaces.fmriprep import load_confounds, load_confounds_strategy

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # all volumes scrubbed
            if isinstance(strategy, str):
                theirs, sample = load_confounds_strategy(str(image), denoise_strategy=strategy, **options)
            else:
                theirs, sample = load_confounds(str(image), strategy=strategy, **options)
    except (ValueError, KeyError):
        with pytest.raises((MissingColumnError, InputError)):
            read_confounds(table, strategy=strategy, tr=2.0, minimum=1, **options)
        return
    if sample is not None and len(sample) == 0:
        with pytest.raises(InputError, match="volumes that stay"):
            read_confounds(table, strategy=strategy, tr=2.0, minimum=1, **options)
        return
    ours = read_confounds(table, strategy=strategy, tr=2.0, minimum=1, **options)
    assert ours.coords["feature"]["name"].tolist() == list(theirs.columns)
    assert ours.shape[1] == theirs.shape[1]
    kept = np.flatnonzero(np.asarray(ours.coords["time"]["kept"]))
    np.testing.assert_array_equal(kept, np.arange(len(theirs)) if sample is None else sample)
    np.testing.assert_allclose(ours.values.numpy(), theirs.to_numpy(), rtol=1e-9, atol=1e-9)


def tedana(folder: Path) -> Path:
    """Lay out the tables of tedana that nilearn carries beside an image, and return the image."""
    data = packaged("nilearn", "interfaces/fmriprep/data/test_desc-tedana_metrics.tsv").parent
    for end in ("desc-ICA_mixing.tsv", "desc-tedana_metrics.tsv"):
        shutil.copy(data / f"test_{end}", folder / f"{BASE}_{end}")
    image = folder / f"{BASE}_space-MNI152NLin2009cAsym_desc-optcom_bold.nii.gz"
    image.touch()
    return image


@pytest.mark.parametrize("choice", ["aggressive", "non-aggressive"])
def test_tedana_equals_nilearn(choice: Any, tmp_path: Path) -> None:
    from nilearn.interfaces.fmriprep import load_confounds

    image = tedana(tmp_path)
    theirs, sample = load_confounds(str(image), strategy=("tedana",), tedana=choice)
    ours = read_confounds(image, strategy="tedana", tedana=choice, tr=2.0)
    assert sample is None
    assert ours.coords["time"]["kept"].all()
    names = ours.coords["feature"]["name"].tolist()
    assert sorted(theirs.columns) == names
    assert len(names) == theirs.shape[1] > 20
    np.testing.assert_allclose(ours.values.numpy(), theirs[names].to_numpy(), rtol=1e-9, atol=1e-9)
    for table in tmp_path.glob("*.tsv"):
        again = read_confounds(table, strategy="tedana", tedana=choice, tr=2.0)
        np.testing.assert_array_equal(again.values.numpy(), ours.values.numpy())


def test_bad_tedana(tmp_path: Path) -> None:
    image = tedana(tmp_path)
    metrics = tmp_path / f"{BASE}_desc-tedana_metrics.tsv"
    with pytest.raises(InputError, match="'tedana' alone, got .'motion', 'tedana'"):
        read_confounds(image, strategy=("motion", "tedana"), tr=2.0)
    with pytest.raises(InputError, match="tedana: expected one of .*got 'mild'"):
        read_confounds(image, strategy="tedana", tedana="mild", tr=2.0)
    text = metrics.read_text()
    metrics.write_text(text.replace("ICA_01\t", "ICA_991\t"))
    with pytest.raises(InputError, match=r"metrics\.tsv.*component ICA_991 in the mixing matrix"):
        read_confounds(image, strategy="tedana", tr=2.0)
    metrics.write_text(text.replace("classification\t", "class\t", 1))
    with pytest.raises(InputError, match=r"metrics\.tsv.*columns Component and classification"):
        read_confounds(image, strategy="tedana", tr=2.0)
    metrics.unlink()
    with pytest.raises(LoadError, match="tedana's metrics: expected a file, got none"):
        read_confounds(image, strategy="tedana", tr=2.0)


def test_presets(tmp_path: Path) -> None:
    run = writer.write_derivative(tmp_path)
    table = confounds_beside(run.bold)
    counts = {
        s: read_confounds(table, strategy=s).shape[1] for s in ("none", "motion6", "motion12", "motion24", "aroma")
    }
    assert counts == {"none": 0, "motion6": 6, "motion12": 12, "motion24": 24, "aroma": 5}
    rec = tectum.read(table, strategy="motion6", columns=["global_signal"])
    assert rec.shape == (120, 7)
    assert rec.rate == 0.5  # of the image's sidecar
    assert rec.subject == "01"
    assert read_confounds(run.bold, strategy="motion6").shape == (120, 6)


def test_the_first_row(tmp_path: Path) -> None:
    run = writer.write_derivative(tmp_path, dummy=0)
    table = confounds_beside(run.bold)
    name = "trans_x_derivative1"

    def first(**options: Any) -> np.ndarray:
        found = read_confounds(table, strategy="motion12", **options)
        column = found.coords["feature"]["name"].tolist().index(name)
        return found.values[:, column].numpy()

    following = first(first_row="next", demean=False)
    assert following[0] == following[1]
    zero = first(first_row="zero")
    assert abs(zero[0]) < 1e-12
    assert abs(zero[1:].mean()) < 1e-12
    assert first(first_row="mean", demean=False)[0] == pytest.approx(following[1:].mean())
    assert first(first_row="zero", demean=False)[0] == 0.0


@settings(max_examples=60)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 6))
def test_short_segments_go(removed: list[bool], shortest: int) -> None:
    found = short_segments(np.array(removed), shortest)
    assert (found | ~np.array(removed)).all()
    if not any(removed):
        assert not found.any()
        return
    lengths = [len(part) for part in "".join("x" if f else "." for f in found).split("x") if part]
    assert all(n >= shortest for n in lengths)
    for part in np.split(np.arange(len(removed)), np.flatnonzero(removed)):
        inner = [k for k in part if not removed[k]]
        assert len(inner) < shortest or not found[inner].any()


def test_spikes_are_flagged_and_no_other(tmp_path: Path) -> None:
    run = writer.write_derivative(tmp_path, dummy=0)
    found = read_confounds(run.bold, strategy="scrubbing", scrub=0)
    removed = np.flatnonzero(~np.asarray(found.coords["time"]["kept"])).tolist()
    assert removed == sorted(k for s in run.spikes for k in (s, s + 1))  # the way there and back


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"columns": ["trans_w"]}, MissingColumnError, r"columns trans_w, got \d+ others; near 'trans_w': trans_"),
        (
            {"strategy": "scrubbing", "fd_threshold": 0.0},
            InputError,
            "at least 20 volumes that stay, got 0 of 120; raise",
        ),
        ({"strategy": "fancy"}, InputError, "strategy: expected one of none, motion6.*got 'fancy'"),
        ({"strategy": ("motion", "fancy")}, InputError, "components among .*got 'fancy'"),
        ({"strategy": ("motion", "compcor")}, InputError, "high_pass with compcor"),
        ({"motion": "some"}, InputError, "models among"),
        ({"speed": 3}, InputError, "options among .*got speed"),
        ({"first_row": "last"}, InputError, "'next', 'zero' or 'mean', got 'last'"),
        ({"strategy": "aroma", "ica_aroma": "basic", "columns": ["nothing"]}, KeyError, "nothing"),
        ({"tr": 3.0}, InputError, "one value|sidecar"),
    ],
)
def test_bad_choices(options: dict[str, Any], error: type[Exception], says: str, tmp_path: Path) -> None:
    run = writer.write_derivative(tmp_path)
    if "tr" in options:
        assert read_confounds(run.bold, **options).rate == pytest.approx(1 / 3)
        return
    with pytest.raises(error, match=says) as caught:
        read_confounds(run.bold, **options)
    assert isinstance(caught.value, ValueError)


def test_bad_tables(tmp_path: Path) -> None:
    run = writer.write_derivative(tmp_path, n=40)
    table = confounds_beside(run.bold)
    text = table.read_text()
    lines = text.splitlines()
    for change, says in (
        (text.replace("csf\t", "CSF\t", 1), "fMRIPrep 1.2 or later, got 'CSF'"),
        ("\n".join([*lines[:-1], "n/a" + lines[-1][lines[-1].index("\t") :]]), "global_signal|n/a in"),
        (text.replace(lines[3].split("\t")[0], "word", 1), "global_signal: expected a column of numbers"),
        ("\n".join([*lines[:-1], lines[-1] + "\t0"]), "values in row 41"),
        ("", "no rows of text|IndexError|rows"),
    ):
        table.write_text(change)
        with pytest.raises(LoadError, match=rf"confounds_timeseries\.tsv.*({says})"):
            read_confounds(table, tr=2.0, global_signal="basic", minimum=1)
    table.write_text(text)
    table.with_suffix(".json").unlink()
    with pytest.raises(LoadError, match="a sidecar that tells the CompCor masks, got no sub-01"):
        read_confounds(table, strategy="compcor")
    shutil.copy(table, table.with_name(table.name.replace("timeseries", "regressors")))
    with pytest.raises(InputError, match="expected one file, got 2: .*timeseries.*regressors"):
        read_confounds(run.bold)
    lone = tmp_path / "sub-09_task-x_bold.nii.gz"
    lone.touch()
    with pytest.raises(LoadError, match="table of confounds: expected a file, got none"):
        read_confounds(lone)
    alone = tmp_path / "apart"
    alone.mkdir()
    shutil.copy(table, alone / table.name)
    with pytest.raises(InputError, match="repetition time: expected 0.2 to 10 s, got none.*pass tr="):
        read_confounds(alone / table.name)


# Names


def test_names_and_search(tmp_path: Path) -> None:
    for subject in ("01", "02"):
        for run in (1, 2):
            writer.write_derivative(tmp_path, subject=subject, run=run, n=25)
    assert entities("sub-01_ses-a_task-x_bold.nii.gz") == {"sub": "01", "ses": "a", "task": "x", "suffix": "bold"}
    assert len(find(tmp_path)) == 4
    assert [entities(p)["run"] for p in find(tmp_path, subject="02")] == ["1", "2"]
    assert find_one(tmp_path, sub="01", run=2).name.startswith("sub-01_task-rest_run-2")
    assert len(find(tmp_path, suffix="events", extension=".tsv", sub="01")) == 2
    assert find(tmp_path, sub="01", ses=None) == find(tmp_path, sub="01")
    with pytest.raises(InputError, match="expected one file, got 2: sub-01_task-rest_run-1.*name more entities"):
        find_one(tmp_path, sub="01")
    with pytest.raises(LoadError, match="expected a file, got none"):
        find_one(tmp_path, sub="03")
    second = find_one(tmp_path, sub="02", run=2)
    assert confounds_beside(second).name == "sub-02_task-rest_run-2_desc-confounds_timeseries.tsv"


def test_sidecars_are_objects(tmp_path: Path) -> None:
    path = tmp_path / "sub-01_task-x_bold.nii.gz"
    path.touch()
    (tmp_path / "sub-01_task-x_bold.json").write_text("[1, 2]")
    with pytest.raises(LoadError, match=r"bold\.json: expected a JSON object"):
        sidecar(path)
    (tmp_path / "sub-01_task-x_bold.json").write_text(json.dumps({"RepetitionTime": "two"}))
    assert sidecar(path)[0] == {"RepetitionTime": "two"}


# Events


def test_events(tmp_path: Path) -> None:
    path = tmp_path / "sub-01_task-x_events.tsv"
    path.write_text(
        "onset\tduration\ttrial_type\tresponse_time\n1.5\t2.0\tface\t0.4\n0.5\t0\thouse\tn/a\n3\t1\tface\t0.2\n"
    )
    found = tectum.read(path)
    assert found.pairs() == [(0.5, 0.5), (1.5, 3.5), (3.0, 4.0)]
    assert found.columns["trial_type"].tolist() == ["house", "face", "face"]
    np.testing.assert_array_equal(found.columns["response_time"], [np.nan, 0.4, 0.2])
    path.write_text("onset\tduration\n1.5\tn/a\n")
    with pytest.warns(TectumWarning, match="1 durations n/a taken as 0"):
        assert read_bids_events(path).pairs() == [(1.5, 1.5)]
    path.write_text("onset\tduration\n8\t5\n")
    with pytest.warns(TectumWarning, match="1 events reach beyond the run of 10 s"):
        read_bids_events(path, duration=10.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("onset\tlength\n1\t2\n", r"columns onset and duration, got \['onset', 'length'\]"),
        ("onset\tduration\nn/a\t2\n", "onset: expected a time in s, got n/a in row 1"),
        ("onset\tduration\n1\t-2\n", "duration: expected durations of 0 s or more, got -2 in row 1"),
        ("onset\tduration\n1\tlong\n", "duration: expected times in s, got 'long'"),
        ("onset\tduration\n1\t1\n99\t2\n", "onsets in the run of 10 s, got 1 outside, the first 99 s in row 2"),
        ("onset\tduration\n-5\t2\n", "onsets in the run of 10 s, got 1 outside, the first -5 s"),
    ],
)
def test_bad_events(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "sub-01_task-x_events.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"events\.tsv.*{says}"):
        read_bids_events(path, duration=10.0)
