"""The causal steps as an ONNX graph with its state as input and output, for programs that do not run tectum."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tectum.core.errors import InputError, MissingExtraError, explain
from tectum.core.serialize import replacing
from tectum.preprocess.causal import Causal, CausalState, Chain

from .card import NotExportable
from .convert import metadata, to_onnx

STATE = ("filters", "mean", "variance", "entered")


class _Steps(nn.Module):
    """One chunk through the steps: (x, fresh, state) -> (y, state)."""

    def __init__(self, steps: Causal) -> None:
        super().__init__()
        self.chain = Chain(steps, torch.device("cpu"))

    def forward(self, x: Tensor, fresh: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        start = self.chain.start(x[:, 0])
        begun = [torch.where(fresh, getattr(start, name), old) for name, old in zip(STATE, given, strict=True)]
        y, state = self.chain.step(x, CausalState(begun[0], 0, *begun[1:]))
        return y.to(torch.float32), *(getattr(state, name) for name in STATE)


def export_steps(source: Any, path: str | Path, *, chunk: int) -> Path:
    """Write the causal steps in front of a decoder as ONNX, for chunks of a fixed number of samples.

    Inputs are ``x`` (channel in, chunk), float64; ``fresh`` (1,), true for the first chunk and after a gap; and the
    state ``filters``, ``mean``, ``variance``, ``entered``, float64, of any values when ``fresh``. Outputs are ``y``
    (channel out, chunk / decimate), float32, and the state for the next chunk with ``_out`` behind each name. The
    metadata "tectum_steps" holds the settings with channel names, rate and unit.

    Parameters
    ----------
    source : estimator, Exported or Causal
        What has the steps, bound to an input.
    path : path
        File to write; ``.onnx`` is added if there is no suffix.
    chunk : int
        Samples of a chunk, a multiple of ``decimate``.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If there are no steps, or decimation does not divide the chunk.
    NotExportable
        If ONNX Runtime differs from PyTorch by more than 1e-5 of the standard deviation.
    """
    steps = source if isinstance(source, Causal) else Causal.of(source)
    if steps is None or not steps.names:
        got = "none, or some that are bound to no input"
        raise InputError(explain("export_steps", expected="causal steps", got=got, fix="set decoder.causal_"))
    if chunk < 1 or chunk % steps.decimate:
        expected = f"a multiple of decimate={steps.decimate}"
        raise InputError(explain("export_steps(chunk)", expected=expected, got=repr(chunk)))
    module = _Steps(steps).eval()
    inputs = _inputs(module.chain, chunk)
    with torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(module, inputs, strict=False)
    body = to_onnx(
        program, inputs=("x", "fresh", *STATE), outputs=("y", *(f"{n}_out" for n in STATE)), batch=False
    ) + metadata("tectum_steps", json.dumps(asdict(steps)))
    _compare(body, module.chain, inputs)
    path = Path(path) if Path(path).suffix else Path(path).with_suffix(".onnx")
    with replacing(path) as temporary:
        temporary.write_bytes(body)
    return path


def _inputs(chain: Chain, chunk: int) -> tuple[Tensor, ...]:
    """Return example inputs."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(len(chain.steps.names), chunk, generator=draw, dtype=chain.dtype).cumsum(1)
    state = chain.start(x[:, 0])
    return (x, torch.tensor([True]), *(getattr(state, name) for name in STATE))


def _compare(body: bytes, chain: Chain, inputs: tuple[Tensor, ...]) -> None:
    """Run three chunks through both, the state carried."""
    try:
        import onnxruntime
    except ImportError as cause:
        raise MissingExtraError('checking ONNX needs onnxruntime: pip install "tectum[bci]"') from cause
    session = onnxruntime.InferenceSession(body, providers=["CPUExecutionProvider"])
    taken = {i.name for i in session.get_inputs()}
    state, known = None, [np.full(t.shape, 7.0) for t in inputs[2:]]
    for k in range(3):
        x = inputs[0] * (1 + k) + 5 * k
        wanted, state = chain.step(x, state)
        feed = dict(zip(("x", "fresh", *STATE), (x.numpy(), np.array([k == 0]), *known), strict=True))
        found, *known = session.run(None, {name: value for name, value in feed.items() if name in taken})
        apart = float(np.abs(found - wanted.numpy()).max())
        if not apart <= 1e-5 * max(1.0, float(wanted.std())):
            expected, got = "the samples of PyTorch to 1e-5", f"a difference of {apart:.2g}"
            raise NotExportable(explain("export_steps", expected=expected, got=got))
