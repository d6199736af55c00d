"""Archives of torch.export that hold numbers and names only, so that reading them runs no code of theirs.

The reader of torch unpickles, evaluates symbolic expressions and compiles names of a graph. What we write has none of
the fields that allow more than that; what we read is checked against this list and packed anew before torch sees it.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import torch

from tectum.core.errors import LoadError, explain

CARD = "extra/tectum.json"
GRAPH = "models/model.json"
SAMPLES = "data/sample_inputs/model.pt"

_ENTRY = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|extra/tectum\.json"
    r"|archive_format|archive_version|byteorder|version|\.format_version|\.storage_alignment"
    r"|\.data/(version|serialization_id)"
)
_TARGET = re.compile(r"torch\.ops\.(aten|prims)\.(\w+)\.(\w+)")
_PYTHON = re.compile(r"_operator\.(mul|add|sub|floordiv|truediv|mod|neg|getitem|eq|ne|lt|le|gt|ge)")
_UNSAFE = re.compile(r"from_file|unsafe|sparse|nested|quantized|mkldnn|cudnn|miopen|resize|storage|pin_memory")
_PRIVATE = {
    "_assert_scalar", "_assert_tensor_metadata", "_assert_async", "_softmax", "_log_softmax", "_to_copy",
    "_native_batch_norm_legit_no_training", "_weight_norm", "_scaled_dot_product_flash_attention_for_cpu",
}  # fmt: skip
_PLAIN = re.compile(r"[\w.,:>+\- ]*")  # no brackets, quotes or line breaks
_SYMBOL = re.compile(r"'[su]\d+'")
_WORDS = {
    "Symbol", "Integer", "Rational", "Add", "Mul", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CleanDiv",
    "CeilDiv", "positive", "integer", "nonnegative", "True",
}  # fmt: skip
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict"}


def entries(data: bytes) -> dict[str, bytes]:
    """Return the files of an archive by name, without its root folder."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        names = file.namelist()
        packed_ = any(info.compress_type != zipfile.ZIP_STORED for info in file.infolist())
        if packed_ or sum(info.file_size for info in file.infolist()) > len(data):
            raise ValueError("entries that unpack to more than the file holds")
        found = {name.partition("/")[2]: file.read(name) for name in names}
    if len(found) != len(names) or len({name.partition("/")[0] for name in names}) != 1:
        raise ValueError("entries of one name, or several roots")
    return found


def packed(files: Mapping[str, bytes]) -> bytes:
    """Return an archive of files, uncompressed, as torch reads them."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as file:
        for name, content in files.items():
            file.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return made.getvalue()


def digest(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of names and contents of all files but the card."""
    total = sha256()
    for name in sorted(set(files) - {CARD}):
        total.update(f"{name}:{len(files[name])}:".encode())
        total.update(files[name])
    return total.hexdigest()


def bare(data: bytes) -> dict[str, bytes]:
    """Return the files that ``torch.export.save`` wrote, without stack traces and guards."""
    files = entries(data)
    graph = _stripped(json.loads(files[GRAPH]))
    graph["guards_code"] = []
    return {**files, GRAPH: json.dumps(graph).encode()}


def _stripped(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: {} if k == "metadata" else _stripped(v) for k, v in node.items()}
    return [_stripped(v) for v in node] if isinstance(node, list) else node


def check(files: Mapping[str, bytes], path: str) -> None:
    """Raise LoadError unless an archive holds only what cannot run."""
    strange = [name for name in files if not _ENTRY.fullmatch(name)]
    if strange:
        _refuse(path, f"the entry {strange[0]!r}")
    for name, content in files.items():
        if name.endswith("_config.json"):
            _check_config(json.loads(content), path)
    _check_node(json.loads(files[GRAPH]), "", path)
    try:
        torch.load(io.BytesIO(files[SAMPLES]), weights_only=True)
    except Exception as cause:
        raise LoadError(explain(path, expected="numbers and names only", got="a pickle that runs code")) from cause


def _check_config(config: Mapping[str, Any], path: str) -> None:
    """Refuse weights and constants that are pickled."""
    for entry in config["config"].values():
        if entry["use_pickle"] is not False or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
            _refuse(path, "a pickled object")


def _check_node(node: Any, key: str, path: str) -> None:
    """Check every text of a graph by the field it stands in."""
    if isinstance(node, dict):
        if key == "metadata" and node:
            _refuse(path, "metadata of the graph")
        for name, value in node.items():
            _check_text(name, "key", path)
            _check_node(value, name, path)
    elif isinstance(node, list):
        if key == "guards_code" and node:
            _refuse(path, "guards, which are code")
        for value in node:
            _check_node(value, key, path)
    elif isinstance(node, str):
        _check_text(node, key, path)


def _check_text(text: str, key: str, path: str) -> None:
    """Refuse a text that could be more than a name."""
    if key == "expr_str":
        rest = _SYMBOL.sub("", text)
        fine = set(re.findall(r"[^\W\d]\w*", rest)) <= _WORDS and bool(re.fullmatch(r"[\w(),=+*/ -]*", rest))
        fine = fine and "**" not in rest and re.search(r"\d{13}", rest) is None  # what takes for ever to evaluate
    elif key in ("in_spec", "out_spec"):
        fine = _is_plain_tree(json.loads(text))
    else:
        fine = is_pure(text) if key in ("target", "as_operator") else bool(_PLAIN.fullmatch(text))
    if not fine:
        _refuse(path, f"{key} {text[:60]!r}")


def is_pure(target: str) -> bool:
    """Whether a name is that of an operator that only computes: known to torch, changes no input, reads no file."""
    if _PYTHON.fullmatch(target):
        return True
    found = _TARGET.fullmatch(target)
    if found is None or _UNSAFE.search(target):
        return False
    room, name, kind = found.groups()
    overload = getattr(getattr(getattr(torch.ops, room), name, None), kind, None)
    if not isinstance(overload, torch._ops.OpOverload) or overload._schema.is_mutable:
        return False
    return not name.startswith("_") or name in _PRIVATE or torch.Tag.core in overload.tags


def _is_plain_tree(node: Any) -> bool:
    """Whether a description of nested arguments names only containers of Python."""
    if isinstance(node, list):
        return all(_is_plain_tree(part) for part in node)
    if not isinstance(node, dict):
        return isinstance(node, int)
    plain = node.get("context") in (None, "null", "[]")
    return node.get("type") in _CONTAINERS and plain and _is_plain_tree(node.get("children_spec", []))


def _refuse(path: str, got: str) -> None:
    raise LoadError(explain(path, expected="a network of known operators, numbers and names only", got=got))
