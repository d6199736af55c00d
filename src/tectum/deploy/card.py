"""The card of an exported decoder: what goes in, what comes out, where it is from, and a test of its numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from typing import Any

import numpy as np
from torch import Tensor, nn

from tectum.core.contract import Contract
from tectum.core.errors import InputError, LoadError, TectumError, explain
from tectum.core.result import versions
from tectum.nn.check import make_check
from tectum.preprocess.causal import Causal, matched

FORMAT = 1
PRIVATE = ("ids", "seconds", "histories")  # of the provenance: who was recorded, and what the file says elsewhere


class NotExportable(TectumError, RuntimeError):
    """A decoder holds something that an exchange format has no word for."""


@dataclass(frozen=True)
class Card:
    """What stands in the file beside the network.

    Attributes
    ----------
    contract : Contract
        Channels, rate, unit and window of the input.
    labels : tuple of str or int
        Classes in the order of the output.
    causal : Causal or None
        Steps in front of the window.
    evidence : mapping or None
        How probabilities become decisions, if the decoder says so.
    origin : mapping
        Estimator, hyper-parameters, seed, data hash and versions of the training.
    metrics : mapping
        Numbers that the exporter gave.
    test : mapping
        ``scale`` of the formula of the test input, and its ``logits``.
    versions : mapping
        Versions that exported.
    digest : str
        SHA-256 of the network.
    size : int
        Bytes of the network, in files where the card follows it.
    """

    contract: Contract
    labels: tuple[str | int, ...]
    causal: Causal | None
    evidence: Mapping[str, Any] | None
    origin: Mapping[str, Any]
    metrics: Mapping[str, Any]
    test: Mapping[str, Any]
    versions: Mapping[str, str]
    digest: str = ""
    size: int = 0

    def to_text(self) -> str:
        """Return JSON, with the SHA-256 of itself; the filters also stand there as numbers, for other languages."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        content["contract"] = asdict(self.contract)
        content["causal"] = None if self.causal is None else asdict(self.causal)
        if self.causal is not None:
            mix = self.causal.mix
            content["filters"] = {"sos": self.causal.sos.tolist(), "mix": None if mix is None else mix.tolist()}
        body = json.dumps({"tectum_export": FORMAT, **content}, default=repr)
        return json.dumps({"card": body, "sha256": sha256(body.encode()).hexdigest()})

    @classmethod
    def from_text(cls, text: str | None, path: str) -> Card:
        """Read what :meth:`to_text` wrote; a changed card is refused."""
        try:
            outer = json.loads(text or "")
            body = outer["card"]
            whole = outer["sha256"] == sha256(body.encode()).hexdigest()
            content = json.loads(body)
            version = content.pop("tectum_export")
        except (ValueError, KeyError, TypeError) as cause:
            raise LoadError(explain(path, expected="a decoder exported by tectum", got="no card")) from cause
        if not whole:
            raise LoadError(explain(path, expected="the card that was exported", got="a changed one"))
        if version != FORMAT:
            expected = f"export format {FORMAT}"
            raise LoadError(explain(path, expected=expected, got=repr(version), fix="update tectum"))
        content.pop("filters", None)
        contract, causal = content.pop("contract"), content.pop("causal")
        content["labels"] = tuple(content["labels"])
        steps = None if causal is None else Causal(**{k: _tuples(v) for k, v in causal.items()})
        return cls(contract=Contract(**{k: _tuples(v) for k, v in contract.items()}), causal=steps, **content)


def _tuples(value: Any) -> Any:
    """Turn lists into tuples at every depth."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def describe(decoder: Any, module: nn.Module, metrics: Mapping[str, Any] | None) -> Card:
    """Write the card of a fitted decoder; the digest comes later."""
    contract, found = decoder.contract_, Causal.of(decoder)
    if contract.n_times is None or not contract.rate:
        expected = "a decoder of windows of fixed length (channel, time)"
        raise InputError(explain("export", expected=expected, got=f"one of {contract}"))
    steps = None if found is None else matched(found, contract)
    standard = getattr(module, "standard", None)
    known = getattr(standard, "scale", None) if getattr(decoder, "normalise", "none") != "none" else None
    scale = float(known.median()) if isinstance(known, Tensor) else float((steps and steps.scale) or 1.0)
    test = make_check(module, contract, scale=scale)
    if not np.isfinite(test["logits"]).all():
        raise NotExportable(explain("export", expected="finite logits for the test input", got="NaN or infinity"))
    made_by = getattr(decoder.result_, "provenance", None)
    origin = {} if made_by is None else {k: v for k, v in asdict(made_by).items() if k not in PRIVATE}
    evidence = getattr(decoder, "evidence_", None)
    return Card(
        contract=contract, labels=tuple(decoder.result_.labels), causal=steps,
        evidence=None if evidence is None else asdict(evidence), origin=origin, metrics=dict(metrics or {}),
        test=test, versions=versions(),
    )  # fmt: skip
