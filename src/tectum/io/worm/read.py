"""Activity of *C. elegans* from twelve laboratories on one axis of neurons, and that axis itself."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tectum.core.errors import InputError, LoadError, explain
from tectum.core.log import logger
from tectum.core.session import Session

from ..files import UnsafePickleError, reading
from ..signature import HDF5, is_hdf5, magic, natural
from .animal import Animal, FixTime, Options, to_session
from .canonical import from_canonical, to_canonical
from .files import leifer_animals, read_leifer, read_nejatbakhsh, read_venkatachalam
from .flavell import read_dag, read_flavell
from .matlab import Shaped, read_lin, read_yemini, read_zimmer
from .names import Ambiguous, axis, identify, neuron_table
from .parquet import read_homogenised

__all__ = ["DATASETS", "axis", "from_canonical", "identify", "neuron_table", "read_worm", "to_canonical"]

Reader = Callable[..., list[Animal]]
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Dataset:
    """A published set of recordings.

    Parameters
    ----------
    citation : str
        What to cite.
    suffixes : tuple of str
        Of its files.
    files : tuple of str
        Names of its files without suffix, where they tell the set.
    read : callable
        Reader of one file.
    """

    citation: str
    suffixes: tuple[str, ...]
    read: Reader
    files: tuple[str, ...] = ()


_KAPLAN = tuple(f"Neuron2019_Data_{c}" for c in ("MNhisCl_RIShisCl", "RIShisCl", "SMDhisCl_RIShisCl"))
_YEMINI = ("Head_Activity_OH15500", "Head_Activity_OH16230", "Tail_Activity_OH16230")
#: Name of a set -> what to cite and how to read it.
DATASETS: dict[str, Dataset] = {
    "Kato2015": Dataset(
        "Kato S. et al. (2015). Cell 163, 656-669. https://doi.org/10.1016/j.cell.2015.09.034",
        (".mat",), read_zimmer, ("WT_Stim", "WT_NoStim"),
    ),
    "Nichols2017": Dataset(
        "Nichols A. L. A. et al. (2017). Science 356, eaam6851. https://doi.org/10.1126/science.aam6851",
        (".mat",), read_zimmer, ("n2_let", "n2_prelet", "npr1_let", "npr1_prelet"),
    ),
    "Skora2018": Dataset(
        "Skora S., Mende F., Zimmer M. (2018). Cell Reports 22, 953-966. https://doi.org/10.1016/j.celrep.2017.12.091",
        (".mat",), read_zimmer, ("WT_fasted", "WT_starved"),
    ),
    "Kaplan2020": Dataset(
        "Kaplan H. S. et al. (2020). Neuron 105, 562-576. https://doi.org/10.1016/j.neuron.2019.10.037",
        (".mat",), read_zimmer, _KAPLAN,
    ),
    "Nejatbakhsh2020": Dataset(
        "Nejatbakhsh A. et al. (2020). bioRxiv 2020.07.07.192120. https://doi.org/10.1101/2020.07.07.192120",
        (".nwb",), read_nejatbakhsh,
    ),
    "Yemini2021": Dataset(
        "Yemini E. et al. (2021). Cell 184, 272-288. https://doi.org/10.1016/j.cell.2020.12.012",
        (".mat",), read_yemini, _YEMINI,
    ),
    "Uzel2022": Dataset(
        "Uzel K., Kato S., Zimmer M. (2022). Current Biology 32, 3443-3459. https://doi.org/10.1016/j.cub.2022.06.039",
        (".mat",), read_zimmer, ("Uzel_WT",),
    ),
    "Dag2023": Dataset(
        "Dag U. et al. (2023). Cell 186, 2574-2592. https://doi.org/10.1016/j.cell.2023.04.023",
        (".h5",), read_dag,
    ),
    "Leifer2023": Dataset(
        "Randi F. et al. (2023). Nature 623, 406-414. https://doi.org/10.1038/s41586-023-06683-4",
        ("_gcamp.txt",), read_leifer,
    ),
    "Lin2023": Dataset(
        "Lin A. et al. (2023). Science Advances 9, eade1249. https://doi.org/10.1126/sciadv.ade1249",
        (".mat",), read_lin,
    ),
    "Flavell2023": Dataset(
        "Atanas A. A. et al. (2023). Cell 186, 4134-4151. https://doi.org/10.1016/j.cell.2023.07.035",
        (".h5", ".json"), read_flavell,
    ),
    "Venkatachalam2024": Dataset(
        "Seyedolmohadesin M. (2024), unpublished. https://chemosensory-data.worm.world",
        (".zip",), read_venkatachalam,
    ),
}  # fmt: skip
HOMOGENISED = "Simeon Q. et al. (2024). arXiv 2411.12091. https://doi.org/10.48550/arXiv.2411.12091"


def read_worm(
    path: str | Path,
    *,
    dataset: str | None = None,
    ambiguous: Ambiguous = "unidentified",
    awc_on: Any = None,
    strict: bool = False,
    fix_time: FixTime = None,
    include_can: bool = False,
    units: str | None = None,
    labels: str | Path | None = None,
    min_frames: int = 0,
    min_named: int = 0,
    **options: Any,
) -> list[Session]:
    """Read animals of one of the published sets, or of the homogenised Parquet file.

    Traces are returned as they are stored: nothing is filled in, smoothed or scaled. What to cite is logged and stands
    in ``meta["citation"]``.

    Parameters
    ----------
    path : path
        A file, or a folder of files of one set.
    dataset : str, optional
        One of :data:`DATASETS`, where names and contents of the files do not tell; "homogenised" for Parquet.
    ambiguous : {"unidentified", "class", "guess"}
        What to do with labels that name several neurons; see :func:`tectum.io.worm.names.identify`. "guess" does what
        the homogenised data did: nearest name in Dag2023 and Flavell2023, left before right in Leifer2023.
    awc_on : {"L", "R"} or mapping of animal to it, optional
        Side of AWCON, random in every animal.
    strict : bool, default False
        Labels that name no neuron raise :class:`tectum.io.worm.names.UnknownNeuronError`.
    fix_time : {None, "regularise"}
        A clock that steps back, or jitters by more than half a step, is refused or made regular by interpolation.
    include_can : bool, default False
        Count CANL and CANR as neurons.
    units : str, optional
        Unit of the traces, where the file does not tell (then "a.u.").
    labels : path, optional
        Table of labels of Dag2023; default one that lies near the file.
    min_frames, min_named : int, default 0
        Animals with fewer frames or named neurons are left out; the homogenised data used 600 and 1.
    **options
        ``signal`` (Dag2023, homogenised), ``datasets`` and ``worms`` (homogenised).

    Returns
    -------
    list of Session
        One an animal: "activity" (time, unit) with columns name ("" is unidentified), class, type, transmitter, label
        and confidence; "behaviour" where it was recorded. ``subject`` is "<set>/<animal>".

    Raises
    ------
    LoadError
        If a file is damaged, or (also an :class:`InputError`) contradicts itself.
    InputError
        If the options are wrong, or no animal is left.
    """
    path = Path(path)
    if not path.exists():
        raise LoadError(explain(str(path), expected="an existing file or folder", got="none there"))
    if path.suffix.lower() in (".pt", ".pth", ".pickle", ".pkl"):
        fix = "read the raw files or the Parquet table: a pickle runs whatever is in it"
        raise UnsafePickleError(explain(str(path), expected="arrays or text", got=f"a {path.suffix} file", fix=fix))
    chosen = Options(ambiguous, awc_on, strict, fix_time, include_can, units, labels)
    name = dataset or dataset_of(path)
    if name != "homogenised" and name not in DATASETS:
        raise InputError(explain("dataset", expected=f"one of {', '.join(DATASETS)} or homogenised", got=repr(dataset)))
    found: list[Session] = []
    dropped = {"min_frames": 0, "min_named": 0}
    for file in _files(path, name):
        for session in _sessions(file, name, chosen, options):
            activity: Any = session["activity"]
            if activity.sizes["time"] < min_frames:
                dropped["min_frames"] += 1
            elif int((activity.coords["unit"]["name"] != "").sum()) < min_named:
                dropped["min_named"] += 1
            else:
                found.append(session)
    if not found:
        got = f"none: {dropped['min_frames']} below min_frames={min_frames}, "
        got += f"{dropped['min_named']} below min_named={min_named}"
        raise InputError(explain(str(path), expected="at least one animal", got=got))
    logger.info("%s: cite %s", name, found[0].meta["citation"])
    return found


def read_animals(path: str | Path, **options: Any) -> Session | list[Session]:
    """Read as :func:`tectum.read` does: one animal is a Session, several are a list; see :func:`read_worm`."""
    found = read_worm(path, **options)
    return found[0] if len(found) == 1 else found


def _sessions(file: Path, name: str, options: Options, more: dict[str, Any]) -> list[Session]:
    """Read one file; labels are judged last, so that a strict reading keeps its own error."""
    made = []
    with reading(file, f"a recording of {name}"):
        if name == "homogenised":
            animals = read_homogenised(file, options, **more)
        else:
            animals = [(name, animal) for animal in DATASETS[name].read(file, options, **more)]
        for source, animal in animals:
            citation = DATASETS[source].citation if source in DATASETS else ""
            cite = "; ".join(x for x in (citation, HOMOGENISED if name == "homogenised" else "") if x)
            made.append(to_session(animal, dataset=source, citation=cite, file=file.name, options=options))
    for session, identities in made:
        identities.check(f"{file}: {session.subject}", strict=options.strict)
    return [session for session, _ in made]


def _files(path: Path, name: str) -> list[Path]:
    """Return the files of a set at a path, in their natural order."""
    if path.is_file():
        return [path]
    if name == "Leifer2023":
        found = leifer_animals(path)
    else:
        suffixes = (".parquet",) if name == "homogenised" else DATASETS[name].suffixes
        inside = [p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")]
        found = sorted((p for p in inside if p.name.endswith(suffixes)), key=lambda p: natural(str(p)))
        found = [p for p in found if not p.name.startswith("NeuroPAL_labels_dict")]
    if not found:
        raise LoadError(explain(str(path), expected=f"files of {name}", got="none there"))
    return found


def is_worm(path: Path) -> bool:
    """Tell whether a path holds a recording of one of the sets, NWB left aside."""
    try:
        return dataset_of(path, certain=True) not in ("", "Nejatbakhsh2020")
    except (LoadError, OSError):
        return False


def dataset_of(path: Path, *, certain: bool = False) -> str:
    """Return the set that a file, or the first file of a folder, belongs to.

    Parameters
    ----------
    path : Path
        A file or folder.
    certain : bool, default False
        Return "" instead of raising if nothing tells.

    Raises
    ------
    LoadError
        If nothing tells.
    """
    if path.is_dir():
        if leifer_animals(path):
            return "Leifer2023"
        suffixes = (".mat", ".h5", ".json", ".zip", ".nwb", ".parquet")
        below = path.iterdir() if certain else path.rglob("*")  # a look at a folder must not take long
        inside = sorted(p for p in below if p.is_file() and p.suffix.lower() in suffixes)
        found = {_by_content(p) for p in inside if not p.name.startswith(("NeuroPAL_labels_dict", "."))} - {""}
        name = found.pop() if len(found) == 1 else ""
    else:
        name = _by_content(path)
    if not name and not certain:
        fix = f"pass dataset= one of {', '.join(DATASETS)}"
        raise LoadError(explain(str(path), expected="a recording of a known set", got=path.name, fix=fix))
    return name


def _by_content(path: Path) -> str:
    """Tell a set from the name of a file, else from what is in it."""
    named = next((k for k, v in DATASETS.items() if path.stem in v.files and path.suffix.lower() in v.suffixes), "")
    if named:
        return named
    tests = {".parquet": _is_homogenised, ".json": _is_flavell, ".zip": _is_venkatachalam, ".mat": _mat, ".nwb": _nwb}
    if path.name.endswith("_gcamp.txt"):
        return "Leifer2023"
    kind = ".h5" if path.suffix.lower() in (".h5", ".hdf5") else path.suffix.lower()
    return _hdf5(path) if kind == ".h5" else tests.get(kind, lambda p: "")(path)


def _hdf5(path: Path) -> str:
    """Tell Dag2023 from Flavell2023."""
    if magic(path) != HDF5:
        return ""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if "gcamp" in file and "timing" in file:
                return "Dag2023"
            return "Flavell2023" if {"timestamp_confocal", "trace_array", "labeled"} <= set(file) else ""
    except (OSError, RuntimeError, KeyError):
        return ""


def _nwb(path: Path) -> str:
    if magic(path) != HDF5:
        return ""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "Nejatbakhsh2020" if "processing/CalciumActivity" in file else ""
    except (OSError, RuntimeError, KeyError):
        return ""


def _mat(path: Path) -> str:
    """Tell Yemini2021 and Lin2023 by their variables; structures of v7.3 files are told by the names of files only."""
    if is_hdf5(path):
        return ""
    try:
        names = {name for name, _, _ in Shaped(path, iter(())).names()}
    except (ValueError, OSError, zlib.error):
        return ""
    if {"norm_traces", "is_L", "neurons"} <= names:
        return "Yemini2021"
    return "Lin2023" if {"proofread_neurons", "use_flag", "corrected_F"} <= names else ""


def _is_homogenised(path: Path) -> str:
    return "homogenised" if magic(path, 4) == b"PAR1" else ""


def _is_flavell(path: Path) -> str:
    with open(path, "rb") as stream:
        head = stream.read(_CHUNK)
        stream.seek(max(0, path.stat().st_size - _CHUNK))
        text = head + stream.read(_CHUNK)
    keys = (b'"timestamp_confocal"', b'"trace_array"', b'"labeled"')
    return "Flavell2023" if sum(key in text for key in keys) >= 1 and text.lstrip()[:1] == b"{" else ""


def _is_venkatachalam(path: Path) -> str:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.lower().endswith(".csv") and not n.startswith("__")]
            if len(names) != 1:
                return ""
            with archive.open(names[0]) as stream:
                return "Venkatachalam2024" if b"neuron" in stream.readline(_CHUNK) else ""
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError):
        return ""
