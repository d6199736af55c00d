"""Studies: many recordings through the same models, one job a recording and model.

A study is a TOML file or a mapping::

    name = "song"
    output = "results"
    recordings = ["data/sub-*.safetensors", "dataset:songbird_hvc/calcium"]

    [[preprocess]]
    step = "crop"
    start = 0.0
    stop = 20.0

    [[models]]
    model = "DynamicConnectome"
    name = "rank5"
    parameters = { rank = 5 }

    [evaluation]
    folds = 2
    gap = 1.0

Every finished job leaves ``<output>/<recording>/<model>-<key>.safetensors`` (the fitted model), a page and a record
beside it. The key is a hash of configuration and input, so a second run does only what is missing or damaged. The
version of tectum is in the record and not in the key: an update alone repeats nothing.
"""

from __future__ import annotations

import glob
import hashlib
import inspect
import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .core.errors import InputError, explain, nearest
from .core.params import check_params

_PREFIX = "dataset:"
_NAME = re.compile(r"\w[\w .+=-]*")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One recording through one model; plain data that travels to a worker.

    Parameters
    ----------
    recording : str
        Absolute path, or "dataset:KEY" or "dataset:KEY/PART".
    label : str
        Name of the recording in the output folder.
    model, name : str
        Class of the estimator and name of this configuration.
    parameters : mapping
        Its hyper-parameters.
    preprocess : tuple of mapping
        Steps in order, each with "step" and its parameters.
    evaluation : mapping
        "folds" and "gap" (s) of the held-out score; empty for none.
    folder : str
        Output folder.
    key : str
        Hash of model, parameters, preprocessing, evaluation and of the bytes of the input.
    """

    recording: str
    label: str
    model: str
    name: str
    parameters: Mapping[str, Any]
    preprocess: tuple[Mapping[str, Any], ...]
    evaluation: Mapping[str, Any]
    folder: str
    key: str

    def path(self, suffix: str) -> Path:
        """Return the path of an output: ".safetensors", ".html", ".json", ".error.txt" or ".checkpoint"."""
        return Path(self.folder) / self.label / f"{self.name}-{self.key}{suffix}"

    def finished(self) -> dict[str, Any] | None:
        """Return the record of the finished job, None if there is none or a result is missing or damaged."""
        try:
            record: dict[str, Any] = json.loads(self.path(".json").read_text(encoding="utf-8"))
            whole = record["sha256"] == checksum(str(self.path(".safetensors"))) and self.path(".html").exists()
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if whole else None


@dataclass(frozen=True, kw_only=True)
class Study:
    """What to run on what.

    Parameters
    ----------
    recordings : sequence of str
        Paths, glob patterns, or names of packed data sets as "dataset:KEY" or "dataset:KEY/PART".
    models : sequence of mapping
        Each with "model" (class name), and optionally "name" and "parameters".
    preprocess : sequence of mapping
        Each with "step" (a key of ``tectum.preprocess.STEPS``) and its parameters.
    evaluation : mapping
        "folds" and "gap" for a held-out score on contiguous blocks of time.
    output : str, default "results"
        Folder for results; files in it are never taken for recordings.
    name : str, default "study"
        Heading of the progress bar.
    base : str, default "."
        Folder that relative paths start from.

    Raises
    ------
    InputError
        If an entry is of the wrong type, or names an unknown model, step or parameter.
    """

    recordings: Sequence[str]
    models: Sequence[Mapping[str, Any]]
    preprocess: Sequence[Mapping[str, Any]] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    output: str = "results"
    name: str = "study"
    base: str = "."

    def __post_init__(self) -> None:
        for key, kind in (("recordings", str), ("models", Mapping), ("preprocess", Mapping)):
            _check_list(getattr(self, key), kind, key, empty=key == "preprocess")
        for key in ("output", "name", "base"):
            _check_type(getattr(self, key), str, key)
        object.__setattr__(self, "base", str(Path(self.base).absolute()))
        object.__setattr__(self, "models", tuple(_model(entry) for entry in self.models))
        _check_distinct([entry["name"] for entry in self.models])
        _check_evaluation(self.evaluation, self.models)
        for entry in self.preprocess:
            _step(entry)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Study:
        """Read a study from a TOML file; relative paths start from the folder of the file."""
        path = Path(path)
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
            return cls.from_mapping({**content, "base": str(path.parent / content.get("base", ""))})
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as cause:
            raise InputError(explain(str(path), expected="a readable TOML file", got=str(cause))) from cause
        except (InputError, TypeError) as cause:
            raise InputError(f"{path}: {cause}") from cause

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> Study:
        """Build from a mapping, refusing unknown keys."""
        _check_keys(content, list(cls.__dataclass_fields__), ("recordings", "models"), "Study")
        return cls(**content)

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.base) / self.output

    def jobs(self) -> list[Job]:
        """Return one job for each recording and model, with the key of its result."""
        labels = _labels(self._sources())
        digests = {source: checksum(source) for source in labels}
        return [self._job(source, labels[source], digests[source], model) for source in labels for model in self.models]

    def _job(self, source: str, label: str, digest: str, model: Mapping[str, Any]) -> Job:
        what = {"model": model["model"], "parameters": model["parameters"], "preprocess": list(self.preprocess),
                "evaluation": dict(self.evaluation), "input": digest}  # fmt: skip
        key = hashlib.sha256(json.dumps(what, sort_keys=True, default=as_json).encode()).hexdigest()[:12]
        return Job(recording=source, label=label, key=key, folder=str(self.folder),
                   preprocess=tuple(self.preprocess), evaluation=self.evaluation, **model)  # fmt: skip

    def _sources(self) -> list[str]:
        """Return every recording once, in the order of the patterns."""
        found: list[str] = []
        for pattern in self.recordings:
            matches = [pattern] if pattern.startswith(_PREFIX) else self._files(pattern)
            if not matches:
                got = f"{pattern!r} in {self.base}"
                raise InputError(explain("Study.recordings", expected="a pattern that matches files", got=got))
            found += matches
        return list(dict.fromkeys(found))

    def _files(self, pattern: str) -> list[str]:
        """Return the absolute paths of a pattern (or of a file whose name looks like one) outside the output folder."""
        exact = (Path(self.base) / pattern).exists()
        matches = [pattern] if exact else sorted(glob.glob(pattern, root_dir=self.base, recursive=True))
        paths = [os.path.normpath(Path(self.base) / match) for match in matches]
        own = os.path.normpath(self.folder)
        return [path for path in paths if path != own and not path.startswith(own + os.sep)]


# Checking


def _check_type(value: Any, kind: type | tuple[type, ...], where: str) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = " or ".join(_TYPES[k] for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise InputError(explain(f"Study.{where}", expected=names, got=repr(value)))


def _check_list(value: Any, kind: type, where: str, *, empty: bool) -> None:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
        raise InputError(explain(f"Study.{where}", expected=f"a list, each {_TYPES[kind]}", got=repr(value)))
    if not (value or empty):
        raise InputError(explain(f"Study.{where}", expected="at least one entry", got="none"))
    for i, item in enumerate(value):
        _check_type(item, kind, f"{where}[{i}]")


def _check_keys(content: Mapping[str, Any], known: Sequence[str], required: Sequence[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise InputError(explain(where, expected="known keys", got=repr(key), fix=nearest(str(key), known)))
    for key in required:
        if key not in content:
            raise InputError(explain(where, expected=f"an entry {key!r}", got=f"only {sorted(content)}"))


def _model(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Check one entry of ``models`` and fill in its defaults."""
    _check_keys(entry, ("model", "name", "parameters"), ("model",), "Study.models")
    made = {"name": entry["model"], "parameters": {}, **entry}
    _check_type(made["model"], str, "models.model")
    _check_type(made["name"], str, "models.name")
    _check_type(made["parameters"], Mapping, "models.parameters")
    if not _NAME.fullmatch(made["name"]):
        expected = "a name of letters, digits, spaces and any of _ . + = - that begins with a letter or digit"
        raise InputError(explain("Study.models.name", expected=expected, got=repr(made["name"])))
    check_params(estimator_class(made["model"])().set_params(**made["parameters"]))
    return made


def _check_distinct(names: Sequence[str]) -> None:
    """Refuse names that are one file on some disks."""
    twice = [name for name, n in Counter(name.lower() for name in names).items() if n > 1]
    if twice:
        raise InputError(explain("Study.models.name", expected="different names", got=f"{twice[0]!r} twice"))


def _check_evaluation(evaluation: Any, models: Sequence[Mapping[str, Any]]) -> None:
    _check_type(evaluation, Mapping, "evaluation")
    if not evaluation:
        return
    _check_keys(evaluation, ("folds", "gap"), ("folds",), "Study.evaluation")
    _check_type(evaluation["folds"], int, "evaluation.folds")
    _check_type(evaluation.get("gap", 0.0), (int, float), "evaluation.gap")
    for entry in models:
        if not hasattr(estimator_class(entry["model"]), "score"):
            raise InputError(explain("Study.evaluation", expected="models with a score", got=entry["model"]))


def _step(entry: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the function of a preprocessing step and its parameters, checked against its signature."""
    from .preprocess import STEPS

    _check_keys(entry, list(entry), ("step",), "Study.preprocess")
    parameters = {key: value for key, value in entry.items() if key != "step"}
    name = str(entry["step"])
    if name not in STEPS:
        raise InputError(explain("Study.preprocess", expected="a known step", got=repr(name), fix=nearest(name, STEPS)))
    data, *known = inspect.signature(STEPS[name]).parameters.values()
    required = [p.name for p in known if p.default is p.empty]
    _check_keys(parameters, [p.name for p in known], required, f"Study.preprocess, step {name!r}")
    return STEPS[name], parameters


def as_json(value: Any) -> Any:
    """Turn NumPy's numbers and arrays into JSON's; refuse what has no value that a hash can see."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise InputError(explain("Study", expected="numbers, text, lists and tables", got=repr(value)))


_TYPES: dict[type, str] = {str: "text", Mapping: "a table", int: "an integer", float: "a number", Sequence: "a list"}


# Recordings


def _labels(sources: Sequence[str]) -> dict[str, str]:
    """Name each source after its file; sources of one name get as many folders in front as tell them apart."""
    stems = Counter(os.path.splitext(s)[0].lower() for s in sources)
    parts = {s: _parts(s, whole=stems[os.path.splitext(s)[0].lower()] > 1) for s in sources}
    depth = dict.fromkeys(sources, 1)
    while True:
        labels = {s: "_".join(parts[s][-depth[s] :]) for s in sources}
        count = Counter(label.lower() for label in labels.values())
        alike = [s for s in sources if count[labels[s].lower()] > 1]
        longer = [s for s in alike if depth[s] < len(parts[s])]
        if not longer:  # what is still alike is like "a/b_c" and "a_b/c"
            return labels | {s: f"{labels[s]}_{hashlib.sha256(s.encode()).hexdigest()[:6]}" for s in alike}
        for s in longer:
            depth[s] += 1


def _parts(source: str, *, whole: bool) -> tuple[str, ...]:
    """Return the words of a source, the most telling last: folders, then the file (whole: with its suffix)."""
    if source.startswith(_PREFIX):
        return (_clean(source.removeprefix(_PREFIX).replace("/", "_")),)
    path = Path(source)
    return tuple(_clean(word) for word in (*path.parts[1:-1], path.name if whole else path.stem))


def _clean(word: str) -> str:
    """Return a word that is safe as the name of a folder."""
    return re.sub(r"[^\w .+=-]", "_", word).strip(" .") or "_"


def checksum(source: str) -> str:
    """Return the SHA-256 of a file, of every file of a folder, or of a packed data set.

    Raises
    ------
    InputError
        If a data set is not known or not packed, or has no such part.
    """
    if source.startswith(_PREFIX):
        return _packed(source)
    root = Path(source)
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(root)).encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _packed(source: str) -> str:
    """Return the digest of a packed data set and its part."""
    from .datasets import info

    key, _, part = source.removeprefix(_PREFIX).partition("/")
    card = info(key)
    if card.kind != "packed":
        fix = f"download it: tectum datasets {key}"
        raise InputError(explain("Study.recordings", expected="a packed data set", got=repr(key), fix=fix))
    known = [str(content["name"]) for content in card.contents]
    if part and not any(name == part or name.startswith(f"{part}/") for name in known):
        fix = nearest(part, known)
        raise InputError(explain("Study.recordings", expected=f"a part of {key}", got=repr(part), fix=fix))
    return f"{card.sha256}/{part}"


def load_source(source: str) -> Any:
    """Read a path, or "dataset:KEY" or "dataset:KEY/PART"."""
    if not source.startswith(_PREFIX):
        from .io import read

        return read(source)
    from .datasets import load

    key, *parts = source.removeprefix(_PREFIX).split("/")
    loaded = load(key)
    for name in parts:
        loaded = loaded[name]
    return loaded


def estimator_class(name: str) -> Any:
    """Return the public estimator called ``name``."""
    import tectum

    from .core.estimator import Estimator

    cls = getattr(tectum, name, None) if name in tectum.__all__ else None
    if not (isinstance(cls, type) and issubclass(cls, Estimator)):
        fix = nearest(name, tectum.__all__)
        raise InputError(explain("Study.models", expected="the name of an estimator", got=repr(name), fix=fix))
    return cls


def prepare(data: Any, steps: Sequence[Mapping[str, Any]]) -> Any:
    """Apply preprocessing steps in order."""
    for entry in steps:
        function, parameters = _step(entry)
        data = function(data, **parameters)
    return data
