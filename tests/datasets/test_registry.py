"""The registry: cards, listing, loading, what a set that is not packed says, and downloads through pooch."""

from __future__ import annotations

import functools
import hashlib
import http.server
import subprocess
import sys
import threading
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from tectum import datasets
from tectum.core.errors import InputError, LoadError
from tectum.datasets import download, registry

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "datasets"
CARDS = sorted(FOLDER.glob("*/card.toml"))
PACKED = [
    "celegans_connectomes",
    "ecog_grip",
    "grasshopper",
    "head_direction",
    "resting_fmri",
    "songbird_hvc",
    "two_photon",
]
FREE = {"MIT", "BSD-3-Clause", "BSD-2-Clause", "BSD"}
MODALITIES = {"calcium", "spikes", "ieeg", "eeg", "meg", "fmri", "connectome"}
#: One entry for each row of the table of public sets.
PUBLIC = [
    "steinmetz2019", "allen_vc_npx", "allen_vc_2p", "ibl_bwm", "nlb_mc_maze", "nlb_mc_maze_small", "nlb_mc_rtt",
    "nlb_area2_bump", "nlb_dmfc_rsg", "churchland2012", "perich2018", "odoherty2017", "human_mtl", "ecog_cv",
    "ajile12", "zebrafish_futility", "worm_atanas", "worm_homogenised", "worm_randi2023", "sensorium2022",
    "sensorium2023", "neuroformer_v1_al", "cebra_demos", "zapbench", "mne_sample", "mne_testing", "mne_misc",
    "mne_epilepsy_ecog", "mne_visual_92_categories", "mne_mtrf", "mne_kiloword", "mne_erp_core", "eegbci",
    "sleep_physionet", "chb_mit", "tuh_eeg", "moabb", "ieeg_film", "visual_naming_ieeg", "braintreebank", "du_in",
    "nsd", "god", "bravl", "things_fmri", "things_meg", "things_eeg2", "haxby", "adhd200_40", "development_fmri",
    "localizer", "spm_auditory", "miyawaki2008", "language_localizer", "vim2", "crcns", "open_retina",
    "nelpy_linear_track",
]  # fmt: skip


def content(key: str) -> dict:
    return tomllib.loads((FOLDER / key / "card.toml").read_text(encoding="utf-8"))


# Cards


@pytest.mark.parametrize("file", CARDS, ids=lambda file: file.parent.name)
def test_every_card_is_valid(file):
    card = registry.parse(content(file.parent.name), file.parent.name, folder=file.parent)
    assert card.key == file.parent.name
    assert card.modality in MODALITIES
    assert "\n" not in card.title
    assert card.description.endswith(".")
    assert all(doi.startswith("10.") for doi in card.doi)
    assert all(any(doi in text for text in card.citation) for doi in card.doi if "zenodo" not in doi)
    machine_paths = ("/work", "/tmp", "/home", "/mnt")
    assert not any(path in file.read_text(encoding="utf-8") for path in machine_paths)


def test_the_registry_is_complete():
    keys = [card.key for card in datasets.list()]
    assert sorted(keys) == sorted(PACKED + PUBLIC)
    assert keys[: len(PACKED)] == PACKED


@pytest.mark.parametrize("key", PACKED)
def test_packed_cards_name_a_small_free_sample_and_its_licence(key):
    card = datasets.info(key)
    assert card.licence in FREE
    assert card.bytes == card.path.stat().st_size <= 2_000_000
    assert card.sha256 == hashlib.sha256(card.path.read_bytes()).hexdigest()
    members = {m["path"]: m for m in card.source["members"]}
    licence = (card.folder / "LICENSE").read_bytes()
    assert hashlib.sha256(licence).hexdigest() == members[card.source["licence_member"]]["sha256"]
    assert b"ermission" in licence or b"Redistribution" in licence
    assert card.citation
    assert card.assumed
    assert not card.needs_account


def test_all_samples_together_are_small():
    assert sum(card.bytes for card in datasets.list(kind="packed")) < 10_000_000


@pytest.mark.parametrize("key", PACKED)
def test_builders_compile_and_name_their_source(key):
    script = FOLDER / key / "build.py"
    text = script.read_text(encoding="utf-8")
    code = compile(text, str(script), "exec")
    source = datasets.info(key).source
    assert f"{source['package']}=={source['version']}" in code.co_consts[0]
    assert "allow_pickle" not in text
    assert "pickle.load" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "virtual"}, "kind: expected one of"),
        ({"licence": None}, "expected an entry 'licence', got none"),
        ({"licence": ""}, "licence: expected non-empty str, got ''"),
        ({"licnce": "MIT"}, "'licnce'; did you mean 'licence'?"),
        ({"doi": "10.1/x"}, "doi: expected non-empty list, got '10.1/x'"),
        ({"needs_account": "no"}, "needs_account: expected non-empty bool, got 'no'"),
        ({"bytes": True}, "bytes: expected non-empty int, got True"),
        ({"file": {"name": "x", "bytes": 1}}, "file: expected an entry 'sha256', got none"),
        ({"files": [{"name": "x"}]}, "files: expected tables of name, url, sha256 and bytes, got \\['name'\\]"),
    ],
)
def test_bad_cards_are_refused(change, message):
    card = content("songbird_hvc") | change
    with pytest.raises(InputError, match=message):
        registry.parse({name: value for name, value in card.items() if value is not None}, "card")


# Listing


def test_the_list_prints_as_a_table():
    listed = datasets.list(modality="calcium")
    lines = str(listed).splitlines()
    assert len(lines) == len(listed) + 2
    assert lines[0].split() == ["key", "modality", "size", "licence", "title"]
    assert lines[1].startswith("songbird_hvc")
    assert " * " not in lines[1]
    assert all(" * " in line for line in lines[3:-1])
    assert lines[-1].startswith("* not packed")
    assert max(len(line) for line in str(datasets.list()).splitlines()) <= 180
    assert len(str(datasets.list(kind="packed")).splitlines()) == len(PACKED) + 1


def test_unknown_names_get_the_nearest_one():
    with pytest.raises(InputError, match="'songbird'; did you mean 'songbird_hvc'?"):
        datasets.info("songbird")
    with pytest.raises(InputError, match="did you mean 'songbird_hvc'?"):
        datasets.load("songbird_hcv")
    with pytest.raises(InputError, match="modality: expected a known one, got 'calcum'; did you mean 'calcium'?"):
        datasets.list(modality="calcum")
    with pytest.raises(InputError, match="kind"):
        datasets.list(kind="local")


def test_info_prints_what_matters():
    text = str(datasets.info("ecog_grip"))
    for part in ("py-neuromodulation==0.1.3 (wheel)", "MIT", "10.7554/eLife.75126", "19001 x 10, a.u., 1000 Hz", "uV"):
        assert part in text
    text = str(datasets.info("nelpy_linear_track"))
    assert "615b05a9228a5eaea7f99d5fc5b11848a4d94fc154104612410c887875b65bc7" in text


# Loading


def test_a_changed_sample_is_refused(tmp_path, monkeypatch):
    card = datasets.info("resting_fmri")
    data = bytearray(card.path.read_bytes())
    data[-1] ^= 1
    (tmp_path / card.file).write_bytes(data)
    monkeypatch.setattr(registry, "_cards", lambda: {card.key: replace(card, folder=tmp_path)})
    with pytest.raises(LoadError, match=f"expected sha256 {card.sha256}, got .*; restore the file"):
        datasets.load("resting_fmri")
    (tmp_path / card.file).unlink()
    with pytest.raises(LoadError, match="expected the packed sample, got no file; reinstall tectum"):
        datasets.load("resting_fmri")


@pytest.mark.parametrize("key", PUBLIC)
def test_sets_that_are_not_packed_say_how_to_get_them(key):
    card = datasets.info(key)
    with pytest.raises(LoadError) as caught:
        datasets.load(key)
    for part in (key, card.access, card.size, card.licence, card.reader):
        assert part in str(caught.value)
    assert isinstance(caught.value, datasets.AccountError) == card.needs_account
    assert isinstance(caught.value, RuntimeError) == card.needs_account


def test_which_sets_need_an_account():
    assert {card.key for card in datasets.list() if card.needs_account} == {"crcns", "nsd", "tuh_eeg", "vim2"}
    with pytest.raises(datasets.AccountError, match="an account is needed"):
        datasets.fetch("nsd")


# Downloads


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Serve a folder on this machine; yields the folder and its address."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def offer(monkeypatch, address: str, data: bytes, **changes):
    """Register a set of one file, ``trace.bin``, whose digest is that of ``data``."""
    file = download.RemoteFile(
        name="trace.bin", url=f"{address}/trace.bin", sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)
    )
    card = replace(datasets.info("nelpy_linear_track"), **({"key": "demo", "files": (file,)} | changes))
    monkeypatch.setattr(registry, "_cards", lambda: {"demo": card})
    return file


def test_fetch_downloads_once_and_checks(site, tmp_path, monkeypatch):
    folder, address = site
    data = bytes(range(256)) * 10
    (folder / "trace.bin").write_bytes(data)
    offer(monkeypatch, address, data)
    (found,) = datasets.fetch("demo", tmp_path / "cache")
    assert found == tmp_path / "cache" / "trace.bin"
    assert found.read_bytes() == data
    (folder / "trace.bin").unlink()  # a second download would fail
    assert datasets.fetch("demo", tmp_path / "cache") == [found]


def test_the_default_folder_follows_the_environment(site, tmp_path, monkeypatch):
    folder, address = site
    (folder / "trace.bin").write_bytes(b"abc")
    offer(monkeypatch, address, b"abc")
    monkeypatch.setenv("TECTUM_DATA", str(tmp_path / "mine"))
    assert datasets.fetch("demo") == [tmp_path / "mine" / "demo" / "trace.bin"]


def test_a_copy_made_by_hand_is_accepted_without_network(tmp_path, monkeypatch):
    offer(monkeypatch, "http://127.0.0.1:9", b"abc")
    (tmp_path / "trace.bin").write_bytes(b"abc")
    assert datasets.fetch("demo", tmp_path) == [tmp_path / "trace.bin"]


def test_a_wrong_local_copy_is_replaced(site, tmp_path, monkeypatch):
    folder, address = site
    (folder / "trace.bin").write_bytes(b"right")
    offer(monkeypatch, address, b"right")
    (tmp_path / "trace.bin").write_bytes(b"wrong")
    assert datasets.fetch("demo", tmp_path)[0].read_bytes() == b"right"


def test_a_wrong_download_is_kept_and_both_digests_are_told(site, tmp_path, monkeypatch):
    folder, address = site
    (folder / "trace.bin").write_bytes(b"tampered")
    file = offer(monkeypatch, address, b"original")
    wrong = hashlib.sha256(b"tampered").hexdigest()
    with pytest.raises(LoadError, match=f"expected sha256 {file.sha256}, got {wrong}; the file was kept as .*bad"):
        datasets.fetch("demo", tmp_path)
    assert (tmp_path / "trace.bin.bad").read_bytes() == b"tampered"
    assert not (tmp_path / "trace.bin").exists()


@pytest.mark.parametrize("case", ["offline", "gone"])
def test_without_the_file_the_error_tells_how_to_do_it_by_hand(case, site, tmp_path, monkeypatch):
    address = site[1] if case == "gone" else "http://127.0.0.1:9"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    file = offer(monkeypatch, address, b"abc")
    with pytest.raises(LoadError) as caught:
        datasets.fetch("demo", tmp_path)
    for part in (
        file.url,
        file.name,
        file.sha256,
        str(tmp_path),
        "ConnectionError" if case == "offline" else "HTTPError",
    ):
        assert part in str(caught.value)
    assert list(tmp_path.glob("trace.bin*")) == []
    answer = getattr(caught.value.__cause__, "response", None)
    assert (answer is None) == (case == "offline")
    assert answer is None or answer.raw.closed  # else its socket warns whenever it is collected, in any later test


def test_fetch_refuses_what_it_cannot_check(monkeypatch):
    with pytest.raises(InputError, match="expected a remote set, got a packed sample; use tectum.datasets.load"):
        datasets.fetch("songbird_hvc")
    with pytest.raises(InputError, match="single files with known SHA-256, got none; download it with: nilearn"):
        datasets.fetch("haxby")
    file = download.RemoteFile(name="trace.bin", url="http://127.0.0.1:9/trace.bin")
    offer(monkeypatch, "", b"", files=(file,))
    with pytest.raises(InputError, match="known SHA-256"):
        datasets.fetch("demo")


# Packing


def test_the_wheel_carries_the_cards_and_the_loader_finds_them(tmp_path, monkeypatch):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"datasets": "tectum/_datasets"}
    package = tmp_path / "site-packages" / "tectum"
    monkeypatch.setattr(registry, "__file__", str(package / "datasets" / "registry.py"))
    with pytest.raises(LoadError, match="expected cards in .*_datasets"):
        registry.root()
    (package / "_datasets" / "demo").mkdir(parents=True)
    (package / "_datasets" / "demo" / "card.toml").touch()
    assert registry.root() == package / "_datasets"


def test_importing_the_room_is_light():
    code = "import sys, tectum.datasets; print({'pooch', 'requests', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert datasets.simulate.__name__ == "tectum.datasets.simulate"
    assert set(datasets.__all__) <= set(dir(datasets))
    with pytest.raises(AttributeError, match="no attribute 'lst'"):
        datasets.lst  # noqa: B018
