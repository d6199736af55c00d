"""From a PyTorch module to the bytes of a file, and the name of the module that stands in the way."""

from __future__ import annotations

import importlib.util
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tectum.core.errors import MissingExtraError, explain

from . import archive
from .card import NotExportable

_NOISY = ("torch.onnx", "torch.fx.experimental.symbolic_shapes", "torch.export", "torch._export", "onnxscript")


class _Trace:
    """Which submodule a forward pass is in: hooks that note names as they are entered and left."""

    def __init__(self, module: nn.Module) -> None:
        self.inside: list[str] = []
        self._hooks = []
        for name, part in module.named_modules():
            label = f"{name or 'the network'} ({type(part).__name__})"
            self._hooks += [
                part.register_forward_pre_hook(lambda _m, _x, label=label: self.inside.append(label)),
                part.register_forward_hook(lambda _m, _x, _y: self.inside.pop() and None),
            ]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the exporters say of themselves."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def capture(module: nn.Module, example: Tensor) -> Any:
    """Return the ``ExportedProgram`` of a module with a free batch size.

    Raises
    ------
    NotExportable
        Names the innermost submodule that cannot be captured.
    """
    trace = _Trace(module)
    batch = torch.export.Dim("batch", min=1)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module, (example,), dynamic_shapes=({0: batch},), strict=False)
    except Exception as cause:
        where = trace.inside[-1] if trace.inside else "the network"
        got, fix = f"{where}: {_first_line(cause)}", "no Python branch on values, no item(), no fixed batch size"
        raise NotExportable(explain("export", expected="a graph of tensor operators", got=got, fix=fix)) from cause
    finally:
        trace.close()


def to_torch(program: Any) -> dict[str, bytes]:
    """Return the files of a torch.export archive; operators that change their input become those that do not.

    Raises
    ------
    NotExportable
        Names the module whose operator our reader would refuse.
    """
    made = io.BytesIO()
    with quiet():
        pure = program if next(_impure(program), None) is None else program.run_decompositions({})
        for node in _impure(pure):
            got, fix = f"{_place(node)}: {node.target}", 'format="onnx" may hold it'
            raise NotExportable(explain("export", expected="operators that only compute", got=got, fix=fix))
        torch.export.save(pure, made)
    return archive.bare(made.getvalue())


def _impure(program: Any) -> Iterator[Any]:
    """Return the nodes of a graph that do more than compute."""
    for node in program.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and not archive.is_pure(f"torch.ops.{node.target}"):
            yield node


def to_onnx(
    program: Any, *, inputs: Sequence[str] = ("x",), outputs: Sequence[str] = ("logits",), batch: bool = True
) -> bytes:
    """Return an ONNX model with named inputs and outputs; with ``batch`` the first axis of all is called so.

    Raises
    ------
    NotExportable
        Names the module whose operator ONNX does not have.
    MissingExtraError
        If onnx or onnxscript are not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript")):
        raise MissingExtraError('exporting to ONNX needs onnx and onnxscript: pip install "tectum[bci]"')
    try:
        with quiet():
            made = torch.onnx.export(
                program, (), dynamo=True, input_names=inputs, output_names=outputs, verbose=False, external_data=False
            )
    except Exception as cause:
        got = f"{_blamed(program, cause)}: {_operator(cause)}"
        fix = 'format="torch" may hold it'
        raise NotExportable(explain("export", expected="operators that ONNX has", got=got, fix=fix)) from cause
    return _bare(made.model_proto, batch=batch) if made is not None else b""


def _bare(model: Any, *, batch: bool) -> bytes:
    """Return the bytes of a model without stack traces."""
    for part in (model, model.graph, *model.functions):
        part.doc_string = ""
        del part.metadata_props[:]
    for graph in (model.graph, *model.functions):
        for item in (*graph.node, *graph.value_info, *getattr(graph, "initializer", ())):
            item.doc_string = ""
            del item.metadata_props[:]
    for item in (*model.graph.input, *model.graph.output):
        item.doc_string = ""
        del item.metadata_props[:]
        if batch:
            item.type.tensor_type.shape.dim[0].dim_param = "batch"
    found: bytes = model.SerializeToString(deterministic=True)
    return found


def metadata(key: str, text: str) -> bytes:
    """Return a text as the metadata field that ONNX files may have at their end."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while True:
            size, low = size >> 7, size & 127
            length += bytes([low | (128 if size else 0)])
            if not size:
                return bytes([number << 3 | 2]) + length + content

    return field(14, field(1, key.encode()) + field(2, text.encode()))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _operator(error: BaseException) -> str:
    """Return the operator an exporter stumbled over."""
    for cause in _chain(error):
        found = re.search(r"No ONNX function found for .*?op='([\w.]+)'", str(cause))
        if found:
            return f"no ONNX operator for {found.group(1)}"
    return _first_line(list(_chain(error))[-1])


def _blamed(program: Any, error: BaseException) -> str:
    """Return the module that holds the node an exporter stumbled over."""
    names = [found.group(1) for c in _chain(error) if (found := re.search(r"translating node %(\w+)", str(c)))]
    with quiet():
        nodes = [*program.graph.nodes, *program.run_decompositions().graph.nodes]
    for node in nodes:
        if node.name in names and node.meta.get("nn_module_stack"):
            return _place(node)
    return "the network"


def _place(node: Any) -> str:
    """Return name and class of the module that a node of a graph belongs to."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if not stack:
        return "the network"
    path, kind = stack[-1]
    name = kind if isinstance(kind, str) else kind.__name__
    return f"{path or 'the network'} ({name.rpartition('.')[2]})"


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return re.sub(r"\x1b\[\d+m", "", text.splitlines()[0])[:200]
