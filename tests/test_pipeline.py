"""Studies: what they refuse, what they leave behind, and what a second run does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tectum
from tectum import Intervals, Recording, Session, Spikes
from tectum.core.errors import InputError, TooLargeError
from tectum.core.estimator import Estimator
from tectum.core.params import param
from tectum.core.result import Result, axes
from tectum.core.serialize import write
from tectum.pipeline import Outcome, run
from tectum.study import Study, checksum, load_source, prepare

TINY = {"rank": 1, "partition_limit": 3, "restarts": 1, "max_iter": 15, "derivative": 0.3, "min_run": 0.1,
        "smoothing": 0.5, "bin": 0.5, "floor": 0.0}  # fmt: skip
real = pytest.mark.filterwarnings("ignore::tectum.core.errors.TectumWarning")  # tiny data: motifs without partition


@dataclass(frozen=True, kw_only=True, eq=False)
class ToyLevel(Result):
    level: Tensor = axes("unit")


@dataclass(kw_only=True, eq=False)
class Toy(Estimator[ToyLevel]):
    """Mean of every unit: a model whose page is drawn in a moment."""

    power: int = param(1, int, low=1)

    def _fit(self, data: tuple[Any, ...], target: Any, run: Any) -> tuple[ToyLevel, None]:
        (rec,) = data
        if rec.sizes["time"] < 16:
            raise TooLargeError("Toy: expected at least 16 samples")
        return ToyLevel(level=(rec.values.double() ** self.power).mean(0)), None

    def score(self, data: Recording) -> float:
        return -float((data.values.double().mean(0) - self.result_.level).abs().mean())


@pytest.fixture(autouse=True)
def _public_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tectum, "Toy", Toy, raising=False)
    monkeypatch.setattr(tectum, "__all__", [*tectum.__all__, "Toy"])


def recording(seed: int, n_time: int = 80, **fields: Any) -> Recording:
    x = torch.randn(n_time, 8, generator=torch.Generator().manual_seed(seed)).cumsum(0)
    x[:, 1] += x[:, 0]
    names = [f"n{i}" for i in range(8)]
    given = {"rate": 10.0, "units": "dF/F", "coords": {"unit": {"name": names}}, "subject": f"s{seed}", **fields}
    return Recording(data=x, dims=("time", "unit"), **given)


def model(name: str = "a", **parameters: Any) -> dict[str, Any]:
    return {"model": "Toy", "name": name, "parameters": parameters}


CONNECTOME = {"model": "DynamicConnectome", "name": "a", "parameters": TINY}


def make(folder: Path, recordings: list[str], **content: Any) -> Study:
    return Study.from_mapping(
        {"recordings": recordings, "models": [model()], "output": "out", "base": str(folder), **content}
    )


def write_toml(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A folder with spaces and letters of other alphabets, and two recordings in it."""
    folder = tmp_path / "my lab éß漢"
    for seed in (1, 2):
        write(folder / "data" / f"sub {seed} ü.safetensors", recording(seed))
    return folder


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and times of change of every model, page and record."""
    kept = (p for p in sorted(folder.rglob("*")) if p.suffix in (".safetensors", ".html", ".json"))
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in kept}


def factors(outcomes: list[Outcome]) -> list[torch.Tensor]:
    """The numbers of every model."""
    results = [tectum.load(o.job.path(".safetensors")).result_ for o in outcomes]
    return [torch.cat([tensor.double().flatten() for _, _, tensor in result.tensors()]) for result in results]


# Errors in the file

HEAD = 'recordings = ["data/*.safetensors"]\n[[models]]\nmodel = "DynamicConnectome"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("recordings = [", "a readable TOML file"),
        (HEAD.replace("recordings", "recording"), "known keys, got 'recording'; did you mean 'recordings'"),
        ("[[models]]\nmodel = 'DynamicConnectome'", "an entry 'recordings'"),
        ("recordings = ['x']", "an entry 'models'"),
        ("recordings = []\n[[models]]\nmodel = 'DynamicConnectome'", r"Study.recordings: expected at least one entry"),
        ("recordings = 'x'\n[[models]]\nmodel = 'D'", r"Study.recordings: expected a list, each text, got 'x'"),
        ("recordings = [1]\n[[models]]\nmodel = 'D'", r"Study.recordings\[0\]: expected text, got 1"),
        ("recordings = ['x']\nmodels = ['D']", r"Study.models\[0\]: expected a table, got 'D'"),
        ("recordings = ['x']\n[models]\nmodel = 'D'", r"Study.models: expected a list, each a table"),
        ("name = 3\n" + HEAD, "Study.name: expected text, got 3"),
        ("output = ['x']\n" + HEAD, "Study.output: expected text"),
        ("base = 3\n" + HEAD, "study.toml: "),
        (HEAD.replace("DynamicConnectome", "DynamicConnectom"), "did you mean 'DynamicConnectome'"),
        (HEAD.replace("DynamicConnectome", "Recording"), "the name of an estimator, got 'Recording'"),
        (HEAD.replace("DynamicConnectome", "__name__"), "the name of an estimator"),
        (HEAD.replace('"DynamicConnectome"', "3"), "Study.models.model: expected text, got 3"),
        (HEAD.replace("model =", "modle ="), "'modle'; did you mean 'model'"),
        (HEAD + "parameters = { ranks_ = 3 }", "'ranks_'; did you mean 'ranks'"),
        (HEAD + "parameters = { rank = -3 }", r"DynamicConnectome.rank: .*got -3"),
        (HEAD + "parameters = [3]", "Study.models.parameters: expected a table"),
        (
            HEAD + "parameters = { ranks = [2024-01-01] }",
            "DynamicConnectome.ranks: expected int, got datetime",
        ),
        (HEAD + "name = '../x'", r"Study.models.name: expected a name of letters.*got '\.\./x'"),
        (HEAD + "name = '..'", "Study.models.name"),
        (HEAD + "name = 'a/b'", "Study.models.name"),
        (HEAD + "name = ''", "Study.models.name"),
        (HEAD + "[[models]]\nmodel = 'DynamicConnectome'\nname = 'dynamicconnectome'", "different names"),
        (HEAD + "[[preprocess]]\nstart = 1.0", "Study.preprocess: expected an entry 'step'"),
        (HEAD + "[[preprocess]]\nstep = 'smoth'", "'smoth'; did you mean 'smooth'"),
        (HEAD + "[[preprocess]]\nstep = 'smooth'\nsigm = 1.0", "step 'smooth': .*'sigm'; did you mean 'sigma'"),
        (HEAD + "[[preprocess]]\nstep = 'smooth'", "step 'smooth': expected an entry 'sigma'"),
        (HEAD + "[preprocess]\nstep = 'smooth'", "Study.preprocess: expected a list"),
        (HEAD + "[evaluation]\ngap = 1.0", "Study.evaluation: expected an entry 'folds'"),
        (HEAD + "[evaluation]\nfolds = 2\ngaps = 1.0", "'gaps'; did you mean 'gap'"),
        (HEAD + "[evaluation]\nfolds = 2.5", "Study.evaluation.folds: expected an integer, got 2.5"),
        (HEAD + "[evaluation]\nfolds = 2\ngap = '1 s'", "Study.evaluation.gap: expected an integer or a number"),
        (HEAD + "[evaluation]\nfolds = true", "Study.evaluation.folds: expected an integer"),
    ],
)
def test_a_wrong_file_is_refused_by_name_before_anything_runs(text: str, says: str, lab: Path) -> None:
    path = write_toml(lab / "study.toml", text)
    with pytest.raises(InputError, match=says) as error:
        Study.read(path).jobs()
    assert str(path) in str(error.value)
    assert not (lab / "results").exists()


def test_a_file_that_is_missing_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.toml: expected a readable TOML file"):
        Study.read(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="binary.toml"):
        Study.read(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("data/nothing-*.safetensors", "a pattern that matches files, got 'data/nothing"),
        ("dataset:songbirds_hvc", "songbird_hvc"),
        ("dataset:../x", r"'\.\./?x?'"),
        ("dataset:songbird_hvc/calcum", "a part of songbird_hvc, got 'calcum'; did you mean 'calcium'"),
        ("dataset:steinmetz2019", "a packed data set, got 'steinmetz2019'; download it"),
    ],
)
def test_recordings_that_are_not_there(source: str, says: str, lab: Path) -> None:
    with pytest.raises(InputError, match=says):
        make(lab, [source]).jobs()


@pytest.mark.parametrize("n_jobs", [0, -1, 1.0, True])
def test_a_wrong_number_of_processes(n_jobs: Any, lab: Path) -> None:
    with pytest.raises(InputError, match=r"run\(n_jobs\)"):
        run(make(lab, ["data/*"]), n_jobs=n_jobs)


# Recordings, labels, keys


def labels(study: Study) -> list[str]:
    return [job.label for job in study.jobs()]


def test_recordings_from_lists_patterns_and_the_registry(lab: Path) -> None:
    write(lab / "data" / "odd [x].safetensors", recording(3))
    sources = ["data/sub 2*", "data/*.safetensors", "./data/odd [x].safetensors", "dataset:songbird_hvc/calcium"]
    assert labels(make(lab, sources)) == ["sub 2 ü", "odd _x_", "sub 1 ü", "songbird_hvc_calcium"]


def test_own_results_are_never_recordings(lab: Path) -> None:
    study = make(lab, ["**/*.safetensors"])
    before = [job.recording for job in study.jobs()]
    write(lab / "out" / "sub" / "a-123.safetensors", recording(5))
    assert [job.recording for job in study.jobs()] == before


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["s1/x.st", "s2/x.st"], ["s1_x", "s2_x"]),
        (["s1/d/x.st", "s2/d/x.st", "y.st"], ["s1_d_x", "s2_d_x", "y"]),
        (["x.mat", "x.nwb"], ["x.mat", "x.nwb"]),
        (["a/X.st", "b/x.st"], ["a_X", "b_x"]),
        (["a/.._.st", "b/...st"], None),
        (["a/b_c.st", "a_b/c.st", "q/c.st", "q/b_c.st"], None),
        (["x.st", "sub/x.st"], None),
    ],
)
def test_labels_are_distinct_safe_and_say_which(files: list[str], expected: list[str] | None, tmp_path: Path) -> None:
    for k, name in enumerate(files):
        (tmp_path / "base" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "base" / name).write_text(str(k))
    found = labels(make(tmp_path / "base", files))
    assert len({x.lower() for x in found}) == len(files)
    assert all(re.fullmatch(r"[\w][\w .+=-]*", x) for x in found)
    if expected is not None:
        assert found == expected


def test_the_key_depends_on_configuration_and_bytes_only(lab: Path, tmp_path: Path) -> None:
    base = make(lab, ["data/sub 1*"]).jobs()[0].key
    assert re.fullmatch("[0-9a-f]{12}", base)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "other name.safetensors").write_bytes((lab / "data" / "sub 1 ü.safetensors").read_bytes())
    same = make(moved, ["*"], models=[model("b")], name="other", output="there")
    assert same.jobs()[0].key == base
    crop = {"step": "crop", "start": 0.0, "stop": 2.0}
    others = [
        make(lab, ["data/sub 2*"]),
        make(lab, ["data/sub 1*"], models=[model(power=3)]),
        make(lab, ["data/sub 1*"], preprocess=[crop]),
        make(lab, ["data/sub 1*"], preprocess=[crop, {"step": "smooth", "sigma": 0.1}]),
        make(lab, ["data/sub 1*"], preprocess=[{"step": "smooth", "sigma": 0.1}, crop]),
        make(lab, ["data/sub 1*"], evaluation={"folds": 2}),
    ]
    assert len({base, *(study.jobs()[0].key for study in others)}) == 7


def test_keys_are_stable_over_processes_and_order_of_entries(lab: Path) -> None:
    code = (
        "import json, sys; from tectum.study import Study\n"
        "print(json.dumps([j.key for j in Study.from_mapping(json.loads(sys.argv[1])).jobs()]))"
    )
    turned = {k: TINY[k] for k in reversed(TINY)}
    content = {"recordings": ["data/*"], "models": [{"parameters": turned, "name": "a", "model": "DynamicConnectome"}]}
    call = [sys.executable, "-c", code, json.dumps({**content, "base": str(lab)})]
    done = subprocess.run(call, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert json.loads(done.stdout) == [job.key for job in make(lab, ["data/*"], models=[CONNECTOME]).jobs()]


def test_numbers_of_numpy_are_numbers(lab: Path) -> None:
    numpy = pytest.importorskip("numpy")
    plain = make(lab, ["data/sub 1*"], models=[model(power=2)]).jobs()[0].key
    assert make(lab, ["data/sub 1*"], models=[model(power=numpy.int64(2))]).jobs()[0].key == plain


def test_the_checksum_of_a_folder_sees_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "f" / "sub").mkdir(parents=True)
    (tmp_path / "f" / "sub" / "a").write_bytes(b"1")
    seen = {checksum(str(tmp_path / "f"))}
    (tmp_path / "f" / "sub" / "a").rename(tmp_path / "f" / "sub" / "b")
    seen.add(checksum(str(tmp_path / "f")))
    (tmp_path / "f" / "sub" / "b").write_bytes(b"2")
    seen.add(checksum(str(tmp_path / "f")))
    assert len(seen) == 3


def test_parts_of_packed_sets_by_path() -> None:
    assert isinstance(load_source("dataset:songbird_hvc"), Session)
    assert load_source("dataset:songbird_hvc/calcium").sizes["unit"] == 75
    nested = load_source("dataset:grasshopper/cutoff_200hz/spikes")
    assert isinstance(nested, Spikes)


# A run


def test_two_models_on_two_recordings_and_nothing_to_do_the_second_time(lab: Path) -> None:
    study = make(lab, ["data/*"], models=[model("a"), model("b two", power=2)], evaluation={"folds": 2, "gap": 0.5})
    first = run(study)
    assert [(o.job.label, o.job.name, o.status) for o in first] == [
        (label, name, "done") for label in ("sub 1 ü", "sub 2 ü") for name in ("a", "b two")
    ]
    assert all(o.score is not None and o.score <= 0 and o.seconds > 0 for o in first)
    before = contents(lab / "out")
    assert len(before) == 12
    second = run(study)
    assert [o.status for o in second] == ["skipped"] * 4
    assert [o.score for o in second] == [o.score for o in first]
    assert contents(lab / "out") == before
    record = json.loads(first[0].job.path(".json").read_text())
    assert record["tectum"] == tectum.__version__
    assert json.loads(first[1].job.path(".json").read_text())["parameters"] == {"power": 2}
    assert not list(lab.rglob("*.checkpoint")) + list(lab.rglob("*.part"))


def test_the_summary_is_a_table(lab: Path) -> None:
    run(make(lab, ["data/*"], evaluation={"folds": 2}))
    rows = [line.split("\t") for line in (lab / "out" / "summary.tsv").read_text(encoding="utf-8").splitlines()]
    assert rows[0] == ["recording", "model", "status", "seconds", "score", "file", "error"]
    assert [row[0] for row in rows[1:]] == ["sub 1 ü", "sub 2 ü"]
    assert all(len(row) == 7 and (lab / "out" / row[5]).exists() and float(row[4]) <= 1 for row in rows[1:])


def test_the_model_equals_one_fitted_by_hand(lab: Path) -> None:
    (outcome, *_) = run(
        make(lab, ["data/sub 1*"], models=[model(power=3)], preprocess=[{"step": "crop", "start": 1.0, "stop": 7.0}])
    )
    cut = tectum.preprocess.crop(recording(1), start=1.0, stop=7.0)
    assert torch.equal(factors([outcome])[0], Toy(power=3).fit(cut).result_.level)


def test_only_what_is_missing_runs(lab: Path) -> None:
    run(make(lab, ["data/*"]))
    before = contents(lab / "out")
    write(lab / "data" / "sub 3.safetensors", recording(3))
    outcomes = run(make(lab, ["data/*"], models=[model(), model("b", power=2)]))
    assert sorted((o.job.label, o.job.name) for o in outcomes if o.status == "skipped") == [
        ("sub 1 ü", "a"),
        ("sub 2 ü", "a"),
    ]
    assert contents(lab / "out").items() >= before.items()


def test_a_changed_recording_runs_again(lab: Path) -> None:
    run(make(lab, ["data/*"]))
    write(lab / "data" / "sub 2 ü.safetensors", recording(20))
    assert [o.status for o in run(make(lab, ["data/*"]))] == ["skipped", "done"]


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [(".safetensors", "gone"), (".html", "gone"), (".json", "gone"), (".safetensors", "torn"), (".json", "torn")],
)
def test_missing_and_damaged_results_are_made_anew(suffix: str, damage: str, lab: Path) -> None:
    study = make(lab, ["data/*"])
    first = run(study)
    victim, whole = first[1].job.path(suffix), first[1].job.path(".safetensors").read_bytes()
    if damage == "gone":
        victim.unlink()
    else:  # of equal length
        victim.write_bytes(victim.read_bytes()[:-20] + b"x" * 20)
    assert [o.status for o in run(study)] == ["skipped", "done"]
    assert [o.status for o in run(study)] == ["skipped", "skipped"]
    assert len(first[1].job.path(".safetensors").read_bytes()) == pytest.approx(len(whole), rel=0.01)


def test_a_failed_job_does_not_stop_the_others_and_goes_when_mended(lab: Path) -> None:
    write(lab / "data" / "bad.safetensors", recording(4, n_time=6))
    (lab / "data" / "torn.safetensors").write_bytes(b"no file\tof ours")
    study = make(lab, ["data/*"])
    outcomes = {o.job.label: o for o in run(study)}
    assert {label: o.status for label, o in outcomes.items()} == {
        "bad": "failed", "torn": "failed", "sub 1 ü": "done", "sub 2 ü": "done"
    }  # fmt: skip
    assert "at least 16 samples" in outcomes["bad"].error
    assert "torn.safetensors" in outcomes["torn"].error
    text = outcomes["bad"].job.path(".error.txt").read_text()
    assert text.startswith(outcomes["bad"].error)
    assert "Traceback (most recent call last)" in text
    rows = (lab / "out" / "summary.tsv").read_text(encoding="utf-8").splitlines()
    assert all(len(row.split("\t")) == 7 for row in rows)
    bad = next(row for row in rows if row.startswith("bad\t"))
    assert "failed" in bad
    assert bad.split("\t")[5].endswith(".error.txt")
    again = {o.job.label: o.status for o in run(study)}
    assert again == {"bad": "failed", "torn": "failed", "sub 1 ü": "skipped", "sub 2 ü": "skipped"}


def test_the_error_file_goes_with_a_later_success(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make(lab, ["data/*"])

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(Toy, "_fit", broken)
        failed = run(study)
    assert [o.error for o in failed] == ["RuntimeError: out of luck"] * 2
    assert len(list((lab / "out").rglob("*.error.txt"))) == 2
    assert [o.status for o in run(study)] == ["done", "done"]
    assert not list((lab / "out").rglob("*.error.txt"))


def test_spikes_are_binned_and_sessions_taken_apart(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    trains = [torch.rand(300, generator=draw) * 40 for _ in range(8)]
    spikes = Spikes.from_trains(trains, support=(0.0, 40.0), units={"name": list("abcdefgh")})
    write(tmp_path / "s.safetensors", Session(items_={"spikes": spikes, "wake": Intervals.from_pairs([(0, 40)])}))
    steps = [{"step": "part", "name": "spikes"}, {"step": "bin", "dt": 0.25}, {"step": "smooth", "sigma": 0.5}]
    (outcome,) = run(make(tmp_path, ["s.safetensors"], preprocess=steps))
    assert (outcome.status, outcome.error) == ("done", "")
    made = prepare(load_source(str(tmp_path / "s.safetensors")), steps)
    assert [step["step"] for step in made.history] == ["bin", "smooth"]
    (wrong,) = run(make(tmp_path, ["s.safetensors"], preprocess=[{"step": "part", "name": "spike"}]))
    assert "did you mean 'spikes'" in wrong.error


def test_an_evaluation_that_would_leak_fails_with_its_reason(lab: Path) -> None:
    step = {"step": "smooth", "sigma": 0.2}
    outcomes = run(make(lab, ["data/sub 1*"], preprocess=[step], evaluation={"folds": 2, "gap": 0.1}))
    assert "gap >= 1.6 s" in outcomes[0].error


@real
def test_a_packed_sample_through_a_real_model(tmp_path: Path) -> None:
    crop = {"step": "crop", "start": 0.0, "stop": 8.0}
    fast = {**TINY, "derivative": 0.2, "smoothing": 0.3, "partition_limit": 3}
    models = [{"model": "DynamicConnectome", "name": "rank 2", "parameters": fast}]
    study = make(tmp_path, ["dataset:songbird_hvc/calcium"], preprocess=[crop], models=models)
    (outcome,) = run(study)
    assert outcome.error == ""
    assert outcome.job.path(".safetensors").parent == tmp_path / "out" / "songbird_hvc_calcium"
    by_hand = tectum.DynamicConnectome(**fast).fit(prepare(load_source("dataset:songbird_hvc/calcium"), [crop]))
    assert torch.equal(tectum.load(outcome.job.path(".safetensors")).result_.time_factor, by_hand.result_.time_factor)
    assert [o.status for o in run(study)] == ["skipped"]


def test_results_are_written_whole_or_not_at_all(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(*args: Any, **kwargs: Any) -> Any:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", torn)
        outcomes = run(make(lab, ["data/sub 1*"]))
    assert "disk full" in outcomes[0].error
    assert [p.name for p in (lab / "out" / "sub 1 ü").iterdir()] == [outcomes[0].job.path(".error.txt").name]


# Processes

WAITS_IN_SECOND = """
import sys, time
from pathlib import Path
import tectum
from tectum.pipeline import run
from tectum.study import Study

plain = tectum.DynamicConnectome._fit

def slow(self, data, target, run):
    if data[0].subject == "s2":
        Path(sys.argv[2]).touch()
        time.sleep(600)
    return plain(self, data, target, run)

tectum.DynamicConnectome._fit = slow
run(Study.read(sys.argv[1]))
"""

SETTINGS = ", ".join(f"{key} = {value}" for key, value in TINY.items())
TOML = f"""
recordings = ["data/*"]
output = "out"
[[models]]
model = "DynamicConnectome"
name = "a"
parameters = {{ {SETTINGS} }}
"""


@pytest.mark.slow
@real
def test_a_killed_run_goes_on_where_it_stopped(lab: Path, tmp_path: Path) -> None:
    study, reached = write_toml(lab / "study.toml", TOML), tmp_path / "reached"
    child = subprocess.Popen([sys.executable, "-c", WAITS_IN_SECOND, str(study), str(reached)])
    try:
        deadline = time.monotonic() + 120
        while not reached.exists():
            assert child.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        assert child.wait(30) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait(30)
    before = contents(lab / "out")
    assert len(before) == 3
    outcomes = run(Study.read(study))
    assert [(o.job.label, o.status) for o in outcomes] == [("sub 1 ü", "skipped"), ("sub 2 ü", "done")]
    assert contents(lab / "out").items() >= before.items()
    assert len(factors(outcomes)) == 2


@pytest.mark.distributed
@pytest.mark.slow
@real
def test_processes_give_the_bits_of_a_serial_run(lab: Path) -> None:
    write(lab / "data" / "bad.safetensors", recording(4, n_time=6))
    how: dict[str, Any] = {"models": [CONNECTOME], "evaluation": {"folds": 2}}
    serial = run(make(lab, ["data/*"], **how))
    parallel = run(make(lab, ["data/*"], output="out2", **how), n_jobs=2)
    assert [o.status for o in serial] == [o.status for o in parallel] == ["failed", "done", "done"]
    assert [o.score for o in serial] == [o.score for o in parallel]
    torch.testing.assert_close(factors(serial[1:]), factors(parallel[1:]), rtol=0, atol=0, equal_nan=True)
    assert "at least 24 samples" in parallel[0].error
    assert "Traceback" in parallel[0].job.path(".error.txt").read_text()


@pytest.mark.distributed
def test_workers_use_one_thread_and_the_caller_keeps_its_own(lab: Path) -> None:
    import joblib

    from tectum.pipeline import _backend, run_job

    job, before = make(lab, ["data/sub 1*"]).jobs()[0], torch.get_num_threads()
    with _backend(2, None):
        made = joblib.Parallel()(joblib.delayed(_threads_after)(job) for _ in range(2))
    assert made == [1, 1]
    assert run_job(job).status == "done"
    assert torch.get_num_threads() == before


def _threads_after(job: Any) -> int:
    from tectum.pipeline import run_job

    torch.set_num_threads(2)
    run_job(job, one_thread=True)
    return torch.get_num_threads()


@pytest.mark.distributed
def test_a_worker_that_dies_is_a_failed_job(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tectum.pipeline as pipeline

    run_job = pipeline.run_job
    monkeypatch.setattr(pipeline, "run_job", _dies_on_the_second)
    outcomes = run(make(lab, ["data/*"]), n_jobs=2)
    assert outcomes[1].status == "failed"
    assert "worker died" in outcomes[1].error
    monkeypatch.setattr(pipeline, "run_job", run_job)
    assert all(o.status in ("done", "skipped") for o in run(make(lab, ["data/*"])))


def _dies_on_the_second(job: Any, *, one_thread: bool) -> Any:
    from tectum.pipeline import run_job

    if "sub 2" in job.label:
        os.kill(os.getpid(), signal.SIGKILL)
    return run_job(job, one_thread=one_thread)


@contextmanager
def cluster() -> Iterator[Any]:
    from dask.distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as made:
        yield made


@pytest.mark.distributed
@pytest.mark.slow
@real
def test_a_dask_scheduler_gives_the_bits_of_a_serial_run(lab: Path) -> None:
    pytest.importorskip("dask.distributed")
    write(lab / "data" / "bad.safetensors", recording(4, n_time=6))
    serial = run(make(lab, ["data/*"], models=[CONNECTOME]))
    with cluster() as made:
        spread = run(make(lab, ["data/*"], models=[CONNECTOME], output="out2"), scheduler=made.scheduler_address)
    assert [o.status for o in serial] == [o.status for o in spread] == ["failed", "done", "done"]
    torch.testing.assert_close(factors(serial[1:]), factors(spread[1:]), rtol=0, atol=0, equal_nan=True)


@pytest.mark.distributed
def test_a_scheduler_that_does_not_answer(lab: Path) -> None:
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "500ms"}),
        pytest.raises(InputError, match=r"run\(scheduler\): expected a Dask scheduler that answers, got 'tcp://127"),
    ):
        run(make(lab, ["data/*"]), scheduler="tcp://127.0.0.1:9")
