"""Write a decoder as ONNX or torch.export, read it back, and use it as if it were the decoder."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tectum.core.contract import Contract
from tectum.core.device import default_dtype
from tectum.core.errors import ContractError, InputError, LoadError, MissingExtraError, explain, nearest
from tectum.core.estimator import as_tuple
from tectum.core.serialize import load as load_saved
from tectum.core.serialize import replacing
from tectum.nn.check import agrees, check_input, check_steps, verify
from tectum.nn.trials import as_trials, stacked
from tectum.preprocess.causal import Causal

from . import archive
from .card import Card, NotExportable, describe
from .causality import check_causal
from .convert import capture, metadata, quiet, to_onnx, to_torch

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
_KEY = "tectum"


def export(
    decoder: Any, path: str | Path, *, format: str | None = None, metrics: Mapping[str, float | str] | None = None
) -> Path:
    """Write a fitted decoder as a file that runs without tectum.

    The graph maps windows (batch, channel, time), float32 in the trained unit, to logits (batch, class); the
    normaliser is inside, the batch size is free. The file also holds a card: input contract, classes, the causal steps
    in front (as settings and as numbers), hash of the training data, metrics, and a test of the numbers.

    Parameters
    ----------
    decoder : estimator
        Fitted, with ``contract_``, ``result_.labels`` and ``forward_module``.
    path : path
        File to write; a suffix is added if there is none.
    format : {"onnx", "torch"}, optional
        By default told by the suffix, ``.onnx`` or ``.pt2``; else ONNX.
    metrics : mapping, optional
        Numbers to put on the card, such as a balanced accuracy on held-out data.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    NotExportable
        If an operator has no counterpart, named with its module; if the output of a window depends on its batch; or if
        the exported numbers differ from PyTorch's by more than 1e-4.
    NotCausalError
        If the output changes with later samples or with earlier calls, or the training data went through steps that a
        stream cannot repeat.
    """
    path, format = _target(path, format)
    module = _module(decoder)
    with torch.inference_mode(False), default_dtype(torch.float32):
        card = describe(decoder, module, metrics)
        x = check_input(card.contract, card.test["scale"])
        batch = torch.cat([x, x.flip(2), 0.5 * x])
        _check_batch(module, batch)
        check_steps(module, card.contract, card.test["scale"], "export")
        check_causal(module, card.contract, card.causal, scale=card.test["scale"])
        program = capture(module, batch[:2])
        if format == "onnx":
            body = to_onnx(program)
            data = body + metadata(_KEY, replace(card, digest=sha256(body).hexdigest(), size=len(body)).to_text())
        else:
            files = to_torch(program)
            text = replace(card, digest=archive.digest(files)).to_text()
            data = archive.packed({**files, archive.CARD: text.encode()})
    _check_numbers(module, _runner(data, format, str(path))[0], batch)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path


def _target(path: str | Path, format: str | None) -> tuple[Path, str]:
    """Return the path with its suffix, and the format."""
    path = Path(path)
    told = next((name for name, suffix in FORMATS.items() if path.suffix == suffix), None)
    format = format or told or "onnx"
    if format not in FORMATS:
        got, fix = repr(format), nearest(format, FORMATS)
        raise InputError(explain("export(format)", expected=f"one of {sorted(FORMATS)}", got=got, fix=fix))
    if told is not None and told != format:
        raise InputError(explain("export", expected=f"a file {FORMATS[format]}", got=path.name))
    return (path if path.suffix else path.with_suffix(FORMATS[format])), format


def _module(decoder: Any) -> nn.Module:
    """Return the decoder's module on the CPU, in evaluation mode."""
    found = decoder.forward_module
    module: nn.Module = (found if isinstance(found, nn.Module) else found()).cpu()
    training = [name or "the network" for name, m in module.named_modules() if m.training and not list(m.children())]
    if training:
        got = f"{training[0]} in training mode"
        raise NotExportable(explain("export", expected="a module in evaluation mode", got=got, fix="call eval()"))
    return module


def _check_batch(module: nn.Module, batch: Tensor) -> None:
    """Refuse a network that mixes the windows of a batch."""
    with torch.no_grad():
        together, alone = module(batch), torch.cat([module(x[None]) for x in batch])
    if not agrees(together.numpy(), alone.numpy()):
        got = "one whose output depends on the batch"
        raise NotExportable(explain("export", expected="a network of single windows", got=got))


def _check_numbers(module: nn.Module, exported: nn.Module, batch: Tensor) -> None:
    """Compare what was exported with PyTorch, for one window and for several."""
    for x in (batch[:1], batch):
        with torch.no_grad():
            found, wanted = exported(x).numpy(), module(x).numpy()
        if not agrees(found, wanted):
            got = f"a difference of {np.abs(found - wanted).max():.2g}"
            raise NotExportable(explain("export", expected="the logits of PyTorch to 1e-4", got=got))


class _Session(nn.Module):
    """A network that ONNX Runtime computes, on one thread."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as cause:
            raise MissingExtraError('running ONNX needs onnxruntime: pip install "tectum[bci]"') from cause
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channel, time) to logits (batch, class)."""
        (logits,) = self.session.run(None, {"x": np.ascontiguousarray(x.detach().cpu().numpy())})
        return torch.from_numpy(logits).to(x.device)


def _runner(data: bytes, format: str, path: str) -> tuple[nn.Module, Card]:
    """Return the network and the card in the bytes of a file, both checked for damage."""
    if format == "onnx":
        try:
            module = _Session(data)
            text = module.session.get_modelmeta().custom_metadata_map.get(_KEY)
        except MissingExtraError:
            raise
        except Exception as cause:
            raise LoadError(explain(path, expected="an ONNX file", got="one that cannot be read")) from cause
        card = Card.from_text(text, path)
        own = data[card.size :] == metadata(_KEY, str(text))
        _check_digest(card, sha256(data[: card.size]).hexdigest() if own else "", path)
        return module, card
    try:
        files = archive.entries(data)
        archive.check(files, path)
    except LoadError:
        raise
    except Exception as cause:
        raise LoadError(explain(path, expected="a torch.export archive", got="one that cannot be read")) from cause
    card = Card.from_text(files.get(archive.CARD, b"").decode("utf-8", "replace"), path)
    _check_digest(card, archive.digest(files), path)
    clean = {name: content for name, content in files.items() if name != archive.CARD}
    try:
        with quiet():
            return _Frozen(torch.export.load(io.BytesIO(archive.packed(clean))).module()), card
    except Exception as cause:
        raise LoadError(explain(path, expected="a torch.export archive", got="one that cannot be read")) from cause


def _check_digest(card: Card, found: str, path: str) -> None:
    if found != card.digest:
        raise LoadError(explain(path, expected="the network that was exported", got="a changed one"))


class _Frozen(nn.Module):
    """A captured graph, which is in evaluation mode for good."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph.requires_grad_(False)
        for part in self.modules():
            part.training = False

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channel, time) to logits (batch, class)."""
        found: Tensor = self.graph(x)
        return found


@dataclass(frozen=True)
class Outcome:
    """The part of a result that a stream reads."""

    labels: tuple[str | int, ...]


class Exported:
    """An exported decoder: takes the place of the fitted one in :class:`tectum.Stream`.

    Attributes
    ----------
    card : Card
        Everything the file says of itself.
    contract_, result_, causal_, evidence_
        As of the decoder that was exported.
    """

    def __init__(self, module: nn.Module, card: Card) -> None:
        self.card, self._network = card, module
        self.contract_: Contract = card.contract
        self.causal_: Causal | None = card.causal
        self.evidence_ = card.evidence
        self.result_ = Outcome(card.labels)

    def forward_module(self) -> nn.Module:
        """The network, (batch, channel, time) -> logits (batch, class), in evaluation mode."""
        return self._network.eval() if isinstance(self._network, _Session) else self._network

    def predict_proba(self, windows: Any) -> Tensor:
        """Return probabilities (trial, class) of windows.

        Parameters
        ----------
        windows : Recording (trial, channel, time), a list of them, or Tensor, shape (trial, channel, time)
            Of recordings channels, rate, unit and window are checked; a tensor must have them.

        Raises
        ------
        ContractError
            If they are not those of the training data.
        InputError
            If there are NaN or infinite values.
        """
        where = "Exported.predict_proba"
        if isinstance(windows, Tensor):
            shape = (self.contract_.size, self.contract_.n_times)
            if windows.ndim != 3 or tuple(windows.shape[1:]) != shape:
                expected = f"windows of shape (trial, {shape[0]}, {shape[1]})"
                raise ContractError(explain(where, expected=expected, got=str(tuple(windows.shape))))
            if not bool(windows.isfinite().all()):
                raise InputError(explain(where, expected="finite values", got="NaN or infinity"))
            x = windows.float()
        else:
            found = as_trials(as_tuple(windows, where), where, contract=self.contract_)
            x = stacked(found, torch.device("cpu"), torch.float32)
        with torch.no_grad():
            proba: Tensor = self.forward_module()(x).softmax(1)
        return proba


def load(path: str | Path) -> Exported:
    """Read a decoder that :func:`export` wrote; nothing in the file is executed as code.

    Parameters
    ----------
    path : path
        A file ``.onnx`` or ``.pt2``.

    Raises
    ------
    LoadError
        If the file is missing, damaged, changed, not ours, or holds more than known operators, numbers and names.
    MismatchError
        If it does not give the stored output for the stored test input.
    """
    path = Path(path)
    format = next((name for name, suffix in FORMATS.items() if path.suffix == suffix), None)
    if format is None or not path.is_file():
        expected, got = f"an existing file {' or '.join(FORMATS.values())}", path.name
        raise LoadError(explain(str(path), expected=expected, got=got))
    with torch.inference_mode(False), default_dtype(torch.float32):
        module, card = _runner(path.read_bytes(), format, str(path))
        try:
            verify(module, card.contract, card.test, str(path))
        except LoadError:
            raise
        except Exception as cause:
            got = f"one that fails: {type(cause).__name__}"
            raise LoadError(explain(str(path), expected="a network that runs", got=got)) from cause
    return Exported(module, card)


def read_decoder(path: str | Path) -> Any:
    """Read a decoder, saved or exported; other content is refused.

    Parameters
    ----------
    path : path
        A file ``.safetensors``, ``.onnx`` or ``.pt2``.

    Raises
    ------
    LoadError
        If the file cannot be read.
    InputError
        If it holds something else.
    """
    path = Path(path)
    model = load(path) if path.suffix in FORMATS.values() else load_saved(path, device="cpu")
    if not hasattr(model, "forward_module"):
        raise InputError(f"{path}: expected a decoder, got {type(model).__name__}")
    return model
