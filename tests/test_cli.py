"""The command line: exit codes, messages without a traceback, and what each command prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tectum
from tectum import Graph, Intervals, Recording, Session, Spikes
from tectum.cli import main
from tectum.core.serialize import write

COMMANDS = ("demo", "run", "info", "datasets", "report", "stream", "export")
FAST = {"rank": 1, "restarts": 1, "max_iter": 15, "derivative": 0.3, "min_run": 0.1, "smoothing": 0.5, "bin": 0.5,
        "floor": 0.0}  # fmt: skip


def recording(n_time: int = 80) -> Recording:
    draw = torch.Generator().manual_seed(0)
    data = (torch.randn(n_time, 1, generator=draw) + 0.3 * torch.randn(n_time, 8, generator=draw)).cumsum(0)
    coords = {"unit": {"name": [f"n{i}" for i in range(8)]}}
    return Recording(data=data, dims=("time", "unit"), rate=10.0, units="dF/F", modality="calcium", coords=coords)


def call(*words: Any) -> int:
    return main([str(word) for word in words])


def shell(*words: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    given = [sys.executable, "-W", "error", "-m", "tectum", *map(str, words)]
    return subprocess.run(given, capture_output=True, text=True, timeout=120, check=False, **options)


@pytest.fixture(scope="module")
def model() -> Any:
    return tectum.DynamicConnectome(**FAST).fit(recording())


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of one good and one bad recording."""
    write(tmp_path / "data" / "good.safetensors", recording())
    settings = ", ".join(f"{k} = {v}" for k, v in FAST.items())
    (tmp_path / "study.toml").write_text(
        f'recordings = ["data/*"]\n[[models]]\nmodel = "DynamicConnectome"\nparameters = {{ {settings} }}\n'
    )
    return tmp_path / "study.toml"


# Help, version, usage


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_names_what_there_is(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        call(*command.split(), "-h")
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS) if not command else f"tectum {command}" in shown


@pytest.mark.parametrize("words", [(), ("nonsense",), ("run",), ("info",), ("report",), ("run", "x", "--jobs", "two")])
def test_wrong_usage_is_two(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        call(*words)
    assert end.value.code == 2
    assert "usage: tectum" in capsys.readouterr().err


def test_the_version() -> None:
    done = shell("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"tectum {tectum.__version__}\n", "")


# Wrong input


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("info", "none.safetensors"), "none.safetensors: expected an existing file"),
        (("info", "torn.safetensors"), "torn.safetensors: expected a readable tectum file"),
        (("info", "notes.txt"), "notes.txt: expected a file of"),
        (("report", "torn.safetensors"), "torn.safetensors"),
        (("run", "none.toml"), "none.toml: expected a readable TOML file"),
        (("run", "bad.toml"), "bad.toml: Study: expected known keys, got 'recording'; did you mean 'recordings'?"),
        (("datasets", "songbird"), "songbird_hvc"),
    ],
)
def test_wrong_input_is_two_and_named(
    words: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torn.safetensors").write_bytes(b"\x10torn")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "bad.toml").write_text("recording = ['x']")
    assert call(*words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("tectum: ")
    assert says in shown.err
    assert shown.err.count("\n") == 1


def test_the_shell_sees_code_and_message_without_a_traceback(tmp_path: Path) -> None:
    done = shell("info", "none.safetensors", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tectum: none.safetensors: expected an existing file")
    assert "Traceback" not in done.stderr


def test_a_page_that_cannot_be_written_is_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "x.safetensors", recording())
    (tmp_path / "file").write_text("")
    assert call("report", tmp_path / "x.safetensors", "-o", tmp_path / "file" / "page.html") == 2
    assert "tectum: " in capsys.readouterr().err


def test_an_interruption_is_not_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(tectum.datasets, "list", stop)
    assert call("datasets") == 130
    assert "interrupted" in capsys.readouterr().err


# run


def test_run_says_what_happened(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = shell("--log", "run", study)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "done     good  DynamicConnectome",
        f"1 jobs, 0 failed; summary: {study.parent / 'results' / 'summary.tsv'}",
    ]
    assert done.stderr == "INFO 1 of 1 jobs to do\n"  # and no bar where nobody watches
    assert call("run", study) == 0
    assert capsys.readouterr().out.startswith("skipped  good")


def test_run_is_one_when_a_job_failed(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(study.parent / "data" / "bad.safetensors", recording(6))
    assert call("run", study, "-j", 1) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("failed   bad  DynamicConnectome  DynamicConnectome, animal")
    assert "at least 24 samples" in shown[0]
    assert shown[1] == "done     good  DynamicConnectome"
    assert shown[2].startswith("2 jobs, 1 failed")


@pytest.mark.parametrize("n", ["0", "-3"])
def test_run_needs_a_process(n: str, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", study, f"--jobs={n}") == 2
    assert "a number of processes >= 1" in capsys.readouterr().err


# info


def things() -> dict[str, tuple[Any, list[str]]]:
    rec = recording()
    spikes = Spikes.from_trains([[0.1], [0.2, 0.3]], support=(0.0, 1.0))
    events = Intervals.from_pairs([(0, 1), (2, 3)], name=["tone", "light"])
    graph = Graph(weights=torch.eye(3)[None], layers=("gap",))
    session = Session(items_={"trace": rec, "events": events}, subject="m1")
    return {
        "recording": (rec, ["Recording: calcium", "sampling", "10 Hz", "dF/F", "unit axis"]),
        "spikes": (spikes, ["Recording: spikes", "units", "2", "observed", "1.0 s"]),
        "intervals": (events, ["Intervals", "2 intervals cover 2.00 s", "tone", "start (s)"]),
        "graph": (graph, ["Connectome", "gap", "3 units"]),
        "session": (session, ["Session", "Subject m1", "trace", "events", "2 intervals"]),
    }


@pytest.mark.parametrize("name", things())
def test_info_on_containers(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    item, words = things()[name]
    path = write(tmp_path / "a file.safetensors", item)
    assert call("info", path) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{path}\n")
    assert all(word in shown for word in words)


@pytest.mark.parametrize("kind", ["model", "result"])
def test_info_on_what_was_fitted(kind: str, model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fit.safetensors"
    (model if kind == "model" else model.result_).save(path)
    assert call("info", path) == 0
    shown = capsys.readouterr().out
    assert "Motifs in time" in shown
    assert "How this was made: DynamicConnectome" in shown
    assert model.result_.provenance.data_hash in shown


def test_info_on_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write(tmp_path / f"{k}.safetensors", recording()) for k in range(2)]
    assert call("info", *paths) == 0
    assert capsys.readouterr().out.count("Recording: calcium") == 2


def test_info_with_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n3,4\n")
    words = ("--format", "array", "-o", "rate=10.0", "-o", 'dims=["time", "unit"]', "-o", "units=mV")
    assert call("info", path, *words) == 0
    shown = capsys.readouterr().out
    assert "option rate" in shown
    assert "10 Hz" in shown
    assert call("info", path, "--format", "array", "-o", "speed=3") == 2
    assert "speed" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call("info", path, "-o", "rate")
    assert "expected NAME=VALUE, got 'rate'" in capsys.readouterr().err


def test_info_on_a_file_of_ours_that_is_no_container(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "x.safetensors", {"a": 1})
    assert call("info", path) == 2
    assert "x.safetensors" in capsys.readouterr().err


# datasets, report


def test_datasets_lists_and_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("datasets") == 0
    assert "songbird_hvc" in capsys.readouterr().out
    assert call("datasets", "songbird_hvc") == 0
    assert "licence    MIT" in capsys.readouterr().out


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -W error -m tectum datasets | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "0"


def test_report_of_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], model: Any) -> None:
    first, second = write(tmp_path / "rec.safetensors", recording()), model.save(tmp_path / "fit.safetensors")
    assert call("report", first, second, "-o", tmp_path / "page.html", "--title", "Mine & yours") == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'page.html'}\n"
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>Mine &amp; yours</h1>" in text
    assert "<h2>rec</h2>" in text
    assert "<h2>fit: Motifs in time</h2>" in text


def test_the_console_command_is_the_same(tmp_path: Path) -> None:
    from importlib.metadata import entry_points

    (found,) = entry_points(group="console_scripts", name="tectum")
    assert found.load() is main


def test_an_offset_needs_markers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    windows = Recording(
        data=torch.randn(8, 2, 20),
        dims=("trial", "channel", "time"),
        rate=20.0,
        coords={"trial": {"label": [0, 1] * 4}},
    )
    path = tectum.LightCNN(epochs=1, validation=0.0, device="cpu").fit(windows).save(str(tmp_path / "m"))
    assert call("stream", path, "--lsl", "EEG", "--offset", "0.1") == 2
    assert "expected --markers NAME with --offset" in capsys.readouterr().err
