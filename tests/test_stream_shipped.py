"""Every decoder that ships: live, exported and loaded it gives the probabilities it gives offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tectum
from contract.table import TABLE
from tectum import Decoder, Stream
from tectum.core.errors import ContractError
from tectum.deploy import load

ROWS = [row for row in TABLE if issubclass(row.estimator, Decoder)]


def test_there_are_decoders() -> None:
    assert {"LightCNN", "DuIN", "TorchDecoder"} <= {row.name for row in ROWS}


@pytest.fixture(params=ROWS, ids=lambda row: row.name, scope="module")
def fitted(request: pytest.FixtureRequest) -> tuple[Any, Any, np.ndarray]:
    """Return a decoder, trials and their probabilities (trial, class)."""
    row = request.param
    trials = row.data(1, row.n)[0]
    model = row.tiny
    return model, trials, torch.as_tensor(model.predict_proba(trials)).numpy()


def live(decoder: Any, trials: Any, k: int, chunk: int) -> tuple[float, ...]:
    """Push one trial and return the probabilities of the only decision."""
    names = [str(n) for n in trials.labels("channel")]
    stream = Stream(decoder, rate=trials.rate, channels=names, units=trials.units, hop=10.0)
    rows = trials.tensor("trial", "time", "channel")[k]
    (made,) = [d for part in rows.split(chunk) for d in stream.push(part)]
    return made.proba


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_it_decides_live_as_offline(fitted: tuple[Any, Any, np.ndarray], chunk: int) -> None:
    model, trials, proba = fitted
    for k in range(3):
        np.testing.assert_allclose(live(model, trials, k, chunk), proba[k], atol=1e-5)


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_it_leaves_and_comes_back(fitted: tuple[Any, Any, np.ndarray], format: str, tmp_path: Path) -> None:
    model, trials, proba = fitted
    exported = load(tectum.export(model, tmp_path / "d", format=format))
    x = trials.tensor("trial", "channel", "time")
    np.testing.assert_allclose(exported.predict_proba(x).numpy(), proba, atol=1e-4)
    assert torch.equal(exported.predict_proba(trials), exported.predict_proba(x))
    for other in (trials.isel(channel=slice(None, None, -1)), trials.with_(rate=2 * trials.rate)):
        with pytest.raises(ContractError, match=r"Exported\.predict_proba: expected input like the training data"):
            exported.predict_proba(other)
    np.testing.assert_allclose(live(exported, trials, 0, 7), proba[0], atol=1e-4)
    assert exported.card.origin["data_hash"] == model.result_.provenance.data_hash
    assert exported.card.contract == model.contract_
