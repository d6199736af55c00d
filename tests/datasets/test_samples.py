"""The packed samples: what each must contain, and that its builder makes the same bytes again."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from support.simulated_accelerator import simulated_accelerator
from tectum import Graph, Intervals, Recording, Session, datasets
from tectum.core import serialize
from tectum.core.units import UNITS

FOLDER = Path(__file__).resolve().parents[2] / "datasets"
PACKED = [card.key for card in datasets.list(kind="packed")]


@pytest.fixture(scope="module")
def load():
    """Load a sample once in this file."""
    found: dict[str, object] = {}
    return lambda key: found.setdefault(key, datasets.load(key))


def parts(loaded: object, name: str) -> dict[str, object]:
    """Return the containers of a sample by the names the card uses."""
    if isinstance(loaded, (Session, dict)):
        inner = {child: parts(item, child) for child, item in loaded.items()}
        return {
            (path if path == child else f"{child}/{path}"): item
            for child, items in inner.items()
            for path, item in items.items()
        }
    return {name: loaded}


def shape_of(part: object) -> list[int]:
    if isinstance(part, Recording):
        return list(part.shape)
    return list(part.weights.shape) if isinstance(part, Graph) else [len(part)]


def units_of(part: object) -> str:
    if isinstance(part, Recording):
        return part.units
    return part.quantity if isinstance(part, Graph) else "s"


@pytest.mark.parametrize("key", PACKED)
def test_contents_are_those_of_the_card(key, load):
    card, found = datasets.info(key), parts(load(key), key)
    assert {c["name"]: (c["type"], c["shape"]) for c in card.contents} == {
        name: (type(part).__name__, shape_of(part)) for name, part in found.items()
    }
    for stated in card.contents:
        part = found[stated["name"]]
        assert units_of(part) == stated["units"]
        assert stated["units"] in UNITS
        if "rate" in stated:
            assert part.rate == pytest.approx(stated["rate"], rel=1e-12)


@pytest.mark.parametrize("key", PACKED)
def test_every_part_says_where_it_comes_from(key, load):
    card = datasets.info(key)
    for part in parts(load(key), key).values():
        if isinstance(part, Intervals):
            continue
        assert part.subject
        assert part.session
        assert part.meta["licence"] == card.licence
        assert part.meta["citation"] == list(card.citation)
        assert part.meta["source"]["package"] == f"{card.source['package']}=={card.source['version']}"
        known = {m["path"]: m["sha256"] for m in card.source["members"]}
        assert part.history[0]["step"] == "pack"
        assert part.history[0]["sha256"].items() <= known.items()


@pytest.mark.parametrize("key", PACKED)
def test_values_arrive_in_single_precision_and_finite(key, load):
    for part in parts(load(key), key).values():
        if isinstance(part, (Recording, Graph)):
            values = part.data if isinstance(part, Recording) else part.weights
            assert values.dtype == torch.float32
            assert bool(values.isfinite().all())


def test_samples_load_onto_another_device(load):
    with simulated_accelerator() as device:
        calcium = datasets.load("songbird_hvc", device=str(device))["calcium"].data
        assert calcium.device == device
        assert torch.equal(calcium.cpu(), load("songbird_hvc")["calcium"].data)


def test_songbird(load):
    calcium, song = load("songbird_hvc")["calcium"], load("songbird_hvc")["song"]
    assert calcium.dims == ("time", "unit")
    assert float((calcium.data == 0).double().mean()) == pytest.approx(0.9332, abs=5e-5)
    assert float(calcium.data.max()) == pytest.approx(0.9498, abs=5e-5)
    assert float(calcium.data.min()) == 0
    assert calcium.duration == song.duration == pytest.approx(22.2)
    assert (float(song.data.min()), float(song.data.max())) == (0, 1)


def test_head_direction(load):
    session = load("head_direction")
    spikes, heading = session["spikes"], session["heading"]
    area = spikes.units["area"]
    assert ((area == "ADN").sum(), (area == "CA1").sum()) == (7, 8)
    assert spikes.counts().tolist()[:2] == [8764, 6879]
    assert spikes.span.pairs() == [(0.0, 1200.0)]
    assert heading.t0 == pytest.approx(670.6407, abs=1e-4)
    assert heading.t0 + heading.duration == pytest.approx(1200.0, abs=0.01)
    assert 0 <= float(heading.data.min()) < float(heading.data.max()) < 2 * np.pi
    assert session["epochs"].pairs() == [(0.0, 600.0), (600.0, 1200.0)]
    assert session["epochs"].columns["name"].tolist() == ["sleep", "wake"]
    assert len(session["ripples"].within(session["epochs"][0])) == 594


def test_thalamic_units_are_tuned_to_the_heading_on_the_same_clock(load):
    """Mean resultant length of the occupancy-corrected tuning curve; a shift of the clock would flatten it."""
    session = load("head_direction")
    spikes, heading = session["spikes"], session["heading"]
    centres = (torch.arange(60) + 0.5) * 2 * np.pi / 60
    direction = torch.polar(torch.ones(60), centres)
    occupied = torch.histc(heading.data, 60, 0, 2 * np.pi)

    def length(unit: int, delay: float = 0.0) -> float:
        index = torch.floor((spikes.train(unit) - delay - heading.t0) * heading.rate).long()
        seen = heading.data[index[(index >= 0) & (index < len(heading.data))]]
        rate = torch.histc(seen, 60, 0, 2 * np.pi) / occupied
        return float((rate * direction).sum().abs() / rate.sum())

    tuned = [length(unit) for unit in range(7)]
    assert np.median(tuned) > 0.8
    assert min(tuned) > 0.4
    assert np.median([length(unit) for unit in range(7, 15)]) < 0.5
    assert np.median([length(unit, delay=20.0) for unit in range(7)]) < 0.5


def test_two_photon(load):
    session = load("two_photon")
    fluorescence, neuropil, activity = (session[name] for name in ("F", "Fneu", "spks"))
    table = fluorescence.coords["unit"]
    assert table["iscell"].sum() == 20
    assert len(set(table["id"])) == 40
    assert table["id"].max() < 219
    assert bool((table["probability"][table["iscell"]] > 0.5).all())
    assert session["mean_image"].shape == (608, 608)
    assert bool(((table["y"] >= 0) & (table["y"] < 608) & (table["x"] >= 0) & (table["x"] < 608)).all())
    assert float(activity.data.min()) == 0
    assert fluorescence.duration == neuropil.duration == 200.0
    wanted = {"fs": 10.0, "tau": 1.0, "neucoeff": 0.7, "win_baseline": 60.0, "sig_baseline": 10.0}
    assert wanted.items() <= fluorescence.meta["suite2p"].items()
    centred = [x.data - x.data.mean(0) for x in (fluorescence, neuropil)]
    correlation = (centred[0] * centred[1]).sum(0) / (centred[0].norm(dim=0) * centred[1].norm(dim=0))
    assert float(correlation.nanmedian()) > 0.3  # a region shares the signal of its surround


def test_grasshopper(load):
    runs = load("grasshopper")
    assert [len(run["spikes"]) for run in runs.values()] == [929, 868]
    for run in runs.values():
        stimulus = run["stimulus"]
        assert (stimulus.rate, stimulus.duration) == (20_000.0, 10.0)
        assert float(stimulus.data.max()) == 1.0
        assert float(run["spikes"].train(0)[0]) >= 0
    assert float(runs["cutoff_200hz"]["spikes"].times[0]) == 0.0067
    assert runs["cutoff_200hz"].meta["header"]["intensity (dB)"] == "76.4286"


def test_the_receptor_fires_some_milliseconds_after_loud_moments(load):
    run = load("grasshopper")["cutoff_200hz"]
    amplitude, sample = run["stimulus"].data, (run["spikes"].times * 20_000).long()
    average = torch.stack([amplitude[sample[sample > 400] - lag].mean() for lag in range(400)])
    assert 80 <= int(average.argmax()) <= 160  # 4 to 8 ms
    assert float(average.max()) > 1.5 * float(amplitude.mean())


def test_resting_fmri(load):
    rest = load("resting_fmri")
    assert rest.rate == pytest.approx(1 / 1.89)
    names, kinds = rest.labels("unit"), rest.labels("unit", "type")
    assert names[kinds == "nuisance"].tolist() == ["WM", "Vent", "Brain"]
    assert (kinds == "region").sum() == 28
    assert rest.data[0, :4].tolist() == pytest.approx([10125.9, 10112.8, 9219.5, -7.39443])
    regions = rest.sel(unit={"type": "region"}).data
    assert float(regions.mean(0).abs().max()) < 0.1
    r = np.corrcoef(rest.sel(unit=["LCau", "RCau", "LPut"]).data.T.numpy())
    assert r[0, 1] == pytest.approx(0.488, abs=1e-3)
    assert r[0, 2] == pytest.approx(0.608, abs=1e-3)


def test_ecog_with_a_unit_that_is_not_claimed(load):
    grip = load("ecog_grip")
    names = [f"LFP_RIGHT_{i}" for i in range(3)] + [f"ECOG_RIGHT_{i}" for i in range(6)] + ["MOV_RIGHT"]
    assert grip.labels("channel").tolist() == names
    assert grip.labels("channel", "type").tolist() == ["dbs"] * 3 + ["ecog"] * 6 + ["misc"]
    assert grip.duration == pytest.approx(19.001)
    spread = grip.data[:, :9].std(0)
    assert 1.8e7 < float(spread.min()) < float(spread.max()) < 5e7
    assert grip.units == "a.u."
    assert "uV" in grip.meta["unit"]
    with pytest.raises(ValueError, match="expected a unit of arbitrary, got 'uV'"):
        grip.to_units("uV")
    places = np.stack([grip.labels("channel", axis) for axis in "xyz"])
    assert np.isnan(places[:, 9]).all()
    assert (np.linalg.norm(places[:, :9], axis=0) < 0.1).all()  # m from the origin of MNI space


#: Neurons; chemical edges, their sum, self-edges; gap pairs, their sum, self-pairs.
CONNECTOMES = {
    "white_1986_whole": (300, 2266, 6509, 0, 569, 965, 6),
    "cook_2019_hermaphrodite": (300, 3707, 20905, 38, 1101, 4777, 14),
    "witvliet_2021_1": (161, 675, 1152, 0, 83, 104, 2),
    "witvliet_2021_2": (162, 865, 1687, 0, 121, 130, 2),
    "witvliet_2021_3": (162, 887, 1884, 0, 94, 109, 2),
    "witvliet_2021_4": (168, 1011, 2521, 0, 205, 239, 3),
    "witvliet_2021_5": (174, 1324, 3644, 0, 289, 415, 6),
    "witvliet_2021_6": (174, 1314, 3893, 0, 212, 265, 2),
    "witvliet_2021_7": (180, 1944, 6587, 11, 267, 369, 6),
    "witvliet_2021_8": (180, 1933, 7099, 0, 304, 424, 8),
}


def test_connectomes_have_the_published_numbers_of_edges(load):
    graphs = load("celegans_connectomes")
    assert list(graphs) == list(CONNECTOMES)
    axis = graphs["white_1986_whole"].units["name"].tolist()
    assert axis == sorted(set(axis))
    assert (axis[0], axis[-1]) == ("ADAL", "VD9")
    assert {"AS1", "VD10", "AVAL"} <= set(axis)
    assert not {"AS01", "CANL", "CANR", "GLRL", "BWM"} & set(axis)
    for name, graph in graphs.items():
        chemical, gap = graph.layer("chemical"), graph.layer("gap")
        pairs = gap.triu()
        numbers = (graph.n_units, (chemical != 0).sum(), chemical.sum(), (chemical.diag() != 0).sum())
        numbers += ((pairs != 0).sum(), pairs.sum(), (gap.diag() != 0).sum())
        assert tuple(int(n) for n in numbers) == CONNECTOMES[name]
        assert torch.equal(gap, gap.T)
        assert graph.directed == (True, False)
        assert [n for n in axis if n in set(graph.units["name"])] == graph.units["name"].tolist()
        assert graph.quantity == ("1" if name.startswith("cook") else "synapses")


def test_a_known_connection_points_the_right_way(load):
    """ASH excites the command interneuron AVA; the way back hardly exists."""
    chemical = load("celegans_connectomes")["cook_2019_hermaphrodite"].select(["ASHL", "AVAL"]).layer("chemical")
    assert float(chemical[0, 1]) > 5 * float(chemical[1, 0])


# Rebuilding


@pytest.fixture(scope="module")
def packages():
    """The code that reads archives, shared by builders and tools."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("_packages")
    finally:
        sys.path.remove(str(FOLDER))


def builder(key: str):
    spec = importlib.util.spec_from_file_location(f"build_{key}", FOLDER / key / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.realdata
@pytest.mark.parametrize("key", PACKED)
def test_the_builder_makes_the_same_bytes(key, packages, tmp_path):
    source = packages.Source(FOLDER / key, packages.default_cache(), download=False)
    if not (source.cache / source.archive.file).is_file():
        pytest.skip(f"{source.archive.file} is not in the cache: run tools/fetch_realdata.py")
    rebuilt, packed = packages.write(source, builder(key).build(source), tmp_path), FOLDER / key / f"{key}.safetensors"
    if serialize.peek(packed)["tectum"] == serialize.peek(rebuilt)["tectum"]:
        assert rebuilt.read_bytes() == packed.read_bytes()
    assert serialize.peek(packed)["object"] == serialize.peek(rebuilt)["object"]
    assert_same(serialize.read(packed), serialize.read(rebuilt))


def assert_same(one: object, other: object) -> None:
    """Compare every array of two samples bit for bit."""
    for a, b in zip(parts(one, "").values(), parts(other, "").values(), strict=True):
        for name in ("data", "weights", "times", "unit", "start", "stop"):
            if isinstance(getattr(a, name, None), torch.Tensor):
                assert torch.equal(getattr(a, name), getattr(b, name))


def test_an_archive_that_differs_is_set_aside(packages, tmp_path):
    archive = packages.Archive("demo", "1.0", "wheel", "demo-1.0-py3-none-any.whl", "0" * 64)
    with pytest.raises(FileNotFoundError, match="run tools/fetch_realdata.py"):
        packages.obtain(archive, tmp_path, download=False)
    (tmp_path / archive.file).write_bytes(b"other")
    with pytest.raises(packages.PackageError, match=f"expected sha256 {'0' * 64}, got .*; the file was kept as .*bad"):
        packages.obtain(archive, tmp_path, download=False)
    assert (tmp_path / f"{archive.file}.bad").read_bytes() == b"other"


def test_members_are_read_from_both_kinds_of_archive_and_checked(packages, tmp_path):
    import tarfile
    import zipfile

    (tmp_path / "a.txt").write_bytes(b"abc")
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.write(tmp_path / "a.txt", "x/a.txt")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as sdist:
        sdist.add(tmp_path / "a.txt", "x/a.txt")
    for file in ("x.whl", "x.tar.gz"):
        wanted = {"x/a.txt": packages.digest(b"abc")}
        assert packages.read_members(tmp_path / file, wanted) == {"x/a.txt": b"abc"}
        with pytest.raises(packages.PackageError, match="x/a.txt: expected sha256 0{64}, got ba7816bf"):
            packages.read_members(tmp_path / file, {"x/a.txt": "0" * 64})
        with pytest.raises(packages.PackageError, match="expected a member x/b.txt, got none"):
            packages.read_members(tmp_path / file, {"x/b.txt": "0" * 64})


def test_pickles_of_the_two_photon_source_run_nothing(packages):
    import pickle

    module = builder("two_photon")

    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    stream = module.io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
    stream.write(pickle.dumps(Evil()))
    with pytest.raises(pickle.UnpicklingError, match="refused: builtins.print"):
        module.objects(stream.getvalue())


def test_the_table_of_real_data_is_whole(packages):
    spec = importlib.util.spec_from_file_location("fetch_realdata", FOLDER.parent / "tools" / "fetch_realdata.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    entries = {entry.archive.package: entry for entry in module.table()}
    assert {datasets.info(key).source["package"] for key in PACKED} <= set(entries)
    for entry in entries.values():
        assert entry.terms
        assert entry.members
        assert all(len(digest) == 64 for digest in (entry.archive.sha256, *entry.members.values()))
    assert "GPL" in entries["wormneuroatlas"].terms
    assert entries["nitime"].members.keys() >= {"nitime/data/fmri1.nii.gz", "nitime/data/fmri_timeseries.csv"}
