"""What is said of a fit: codes, decisions, channels, weights; and networks made again from a result."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.device import highest_precision
from ...core.random import generator, isolated, spawn
from ...core.recording import Recording
from ...nn import trials
from ...nn.masking import random_mask
from . import baselines, stages
from .modules import VQVAE, Classifier, MaskedModel, Sizes, state_of_subject
from .result import DuINResult
from .running import Prepared
from .stages import Plan

if TYPE_CHECKING:
    from .fitting import Course, Labelled, Stages, Windows

KINDS: dict[str, type[nn.Module]] = {"codes": VQVAE, "masked": MaskedModel, "classifier": Classifier}


def describe(course: Course, found: Labelled | None, windows: Windows | None, trained: Stages) -> DuINResult:
    """Gather what was learnt."""
    sizes, names = course.sizes(), course.cohort.names
    stage = "classifier" if trained.classifier else "masked" if trained.masked else "codes"
    body = trained.classifier or trained.masked or trained.codes
    contract = course.cohort.contracts[0]
    labels = () if found is None else found.labels.names
    fields: dict[str, Any] = {
        **_channels(course, body), **_curves(trained, found, course.run.device),
        **_of_codes(course, found, windows, trained), **_decisions(course, found, trained),
    }  # fmt: skip
    coords = {**fields.pop("coords"), **fields.pop("unit_coords", {}), **fields.pop("trial_coords", {}),
              "label": {"name": np.asarray(labels)}}  # fmt: skip
    by_name = dict(zip(names, course.fittings, strict=True))
    return DuINResult(
        coords=coords, labels=labels, stage=stage, sizes_of=_plain(sizes), subjects=names,
        contract=contract if found is None else replace(contract, n_times=found.n_times),
        contracts=dict(zip(names, course.cohort.contracts, strict=True)),
        keeps={k: f.keep for k, f in by_name.items()}, centres={k: f.centre for k, f in by_name.items()},
        scales={k: f.scale for k, f in by_name.items()}, target="" if found is None else found.labels.column,
        weights=_state(trained.classifier), codebook_weights=_state(trained.codes),
        masked_weights=_state(trained.masked), **fields,
    )  # fmt: skip


def _plain(sizes: Sizes) -> dict[str, Any]:
    return dict(sizes._asdict())


def _state(module: nn.Module | None) -> dict[str, Tensor]:
    return {} if module is None else {k: v.detach().clone() for k, v in module.state_dict().items()}


def _channels(course: Course, body: Any) -> dict[str, Any]:
    """Weight of every input channel of every subject, and which are used."""
    scores, used, table = [], [], []
    layer = body.encoder.scores()
    recs = (*course.cohort.trials, *course.cohort.extra)
    member = (*course.cohort.trials_of, *course.cohort.extra_of)
    for k, (contract, fitting) in enumerate(zip(course.cohort.contracts, course.fittings, strict=True)):
        rec = recs[member.index(k)]
        mine = layer.new_zeros(contract.size).index_copy(0, fitting.keep, layer[k, : len(fitting.keep)])
        chosen = course.scores[k]
        scores.append(mine if chosen is None else chosen)
        used.append(torch.zeros(contract.size, dtype=torch.bool, device=layer.device).index_fill(0, fitting.keep, True))
        known = rec.coords.get("channel", {})
        row: dict[str, Any] = {c: np.asarray(known[c], dtype=float) for c in "xyz" if c in known}
        row["name"] = np.asarray(contract.names or np.arange(contract.size)).astype(str)
        row["subject"] = np.full(contract.size, course.cohort.names[k])
        table.append(row)
    common = [c for c in ("name", "subject", "x", "y", "z") if all(c in row for row in table)]
    coords = {"channel": {c: np.concatenate([row[c] for row in table]) for c in common}}
    return {"channel_score": torch.cat(scores), "channel_used": torch.cat(used), "coords": coords}


def _curves(trained: Stages, found: Labelled | None, device: torch.device) -> dict[str, Any]:
    """Histories of the stages."""
    wide = highest_precision(device)
    history: dict[str, Tensor] = {}
    for name, curves in trained.curves.items():
        terms = {k: v for k, v in curves.history.items() if k != "val"}
        history |= {f"{name}.{k}": v.to(device, wide) for k, v in terms.items()}
        history[f"{name}.per_epoch"] = torch.tensor(curves.per_epoch, device=device)
        if "val" in curves.history:
            value = curves.history["val"].to(device, wide)
            history[f"{name}.held"] = stages.unpacked(value)[1] if name == "classifier" else value
    made: dict[str, Any] = {"history": history, "loss": torch.zeros(0, device=device)}
    if found is not None:
        own, dtype = trained.curves["classifier"], found.bank.x.dtype
        made["loss"] = stages.averaged(own).to(device, dtype)
        made["best_epoch"] = own.best_epoch
        if "val" in own.history:
            errors, loss = stages.unpacked(own.history["val"].to(device, wide))
            n = len(made["loss"])
            made |= {"val_loss": loss[:n].to(dtype), "val_errors": (errors[:n] / len(found.held)).to(dtype)}
    return made


@torch.no_grad()
def _of_codes(course: Course, found: Labelled | None, windows: Windows | None, trained: Stages) -> dict[str, Any]:
    """Codes of the windows held out, and how well the first two stages do on them."""
    module = trained.codes
    if module is None:
        return {}
    n_codes = len(module.quantiser.codebook)
    made: dict[str, Any] = {"codebook": module.quantiser.codebook.clone()}
    bank, rows, n_times = _looked_at(found, windows)
    codes = stages.codes_of(module, bank, rows, n_times)
    usage = stages.check_codes(codes, n_codes)
    x, subject = stages.crops(bank, rows[:1], n_times, None)
    n = len(course.fittings[0 if subject is None else int(subject)].keep)
    names = course.cohort.contracts[0 if subject is None else int(subject)].names or range(10**6)
    keep = course.fittings[0 if subject is None else int(subject)].keep.tolist()
    made |= {
        "code_usage": usage, "codes": codes, "example": x[0, :n].clone(),
        "reconstruction": module(x, subject).signal[0, :n].clone(),
        "reconstruction_error": float(stages.code_error(module, bank, rows, n_times)),
        "unit_coords": {"unit": {"name": np.asarray([str(names[i]) for i in keep])}},
        "window": n_times // module.encoder.tokenizer.patch,
    }  # fmt: skip
    if found is not None:
        every = torch.arange(len(found.bank.x), device=bank.x.device)
        own = codes if bank is found.bank and len(rows) == len(every) else stages.codes_of(
            module, found.bank, every, found.bank.x.shape[2])  # fmt: skip
        flat = (found.classes[:, None] * n_codes + own).flatten()
        counts = torch.zeros(len(found.labels.names) * n_codes, dtype=torch.int64, device=flat.device)
        made["code_by_label"] = counts.scatter_add(0, flat, torch.ones_like(flat)).reshape(-1, n_codes)
        if bank is found.bank:
            label = np.asarray(found.labels.names)[found.labels.codes[rows.cpu().numpy()]].astype(str)
            made["trial_coords"] = {"trial": {"label": label}}
    if trained.masked is not None:
        made |= _masked(course, trained.masked, module, bank, rows, n_times, usage)
    return made


def _looked_at(found: Labelled | None, windows: Windows | None) -> tuple[Any, Tensor, int]:
    """Return the bank and the rows that codes are described on: trials held out, else windows held out, else all."""
    if found is not None:
        rows = found.held if len(found.held) else found.train
        return found.bank, rows, found.bank.x.shape[2]
    assert windows is not None  # noqa: S101  for the type checker
    return windows.bank, windows.held if len(windows.held) else windows.train, windows.n_times


def _masked(
    course: Course, masked: MaskedModel, teacher: VQVAE, bank: Any, rows: Tensor, n_times: int, usage: Tensor
) -> dict[str, float]:
    """How many hidden tokens are told, and chance."""
    n_tokens = n_times // teacher.encoder.tokenizer.patch
    draw = generator(spawn(course.run.seed, "masked", "described"))
    hidden = random_mask(len(rows), n_tokens, course.settings.mask_ratio, generator=draw).to(bank.x.device)
    _, right = stages.masked_scores(masked, teacher, bank, rows, n_times, hidden)
    return {"masked_accuracy": float(right), "masked_majority": float(usage.max() / usage.sum())}


def _decisions(course: Course, found: Labelled | None, trained: Stages) -> dict[str, Any]:
    """Decisions on the trials set aside, beside those of the baselines."""
    device = course.run.device
    if found is None:
        return {"counts": torch.zeros(0, dtype=torch.int64, device=device)}
    n = len(found.labels.names)
    counts = np.bincount(found.labels.codes, minlength=n)
    made: dict[str, Any] = {"counts": torch.from_numpy(counts).to(device)}
    if not len(found.held):
        return {**made, **_baselines(course, found)}
    decided = stages.logits_of(trained.classifier, found.bank, found.held).argmax(1)  # type: ignore[arg-type]
    made["confusion"] = trials.confusion_counts(found.classes[found.held], decided, n)
    others = _baselines(course, found)
    if others:
        own = float(trials.mean_recall(made["confusion"]))
        others["baselines"] = {"DuIN": own, **others["baselines"]}
    return {**made, **others}


def _baselines(course: Course, found: Labelled) -> dict[str, Any]:
    """Train the baselines asked for on the same trials."""
    scores: dict[str, float] = {}
    weights: dict[str, Tensor] = {}
    n, s = len(found.labels.names), course.settings
    for name in s.baselines:
        module = course.make(_baseline, name, found.bank.x, n, course.rate, name=name)
        plan = Plan(name, 1, s.batch_size, s.lr, 0.0, 0.0, 0.0, course.run.seed,
                    checkpoint=course.checkpoint(f"baseline-{name}"))  # fmt: skip
        baselines.train_baseline(name, module, found.bank, found.classes, found.train, found.held, plan)
        if len(found.held):
            decided = stages.logits_of(module, found.bank, found.held).argmax(1)
            scores[name] = float(trials.mean_recall(trials.confusion_counts(found.classes[found.held], decided, n)))
        weights |= {f"{name}.{k}": v for k, v in _state(module).items()}
    return {"baselines": scores, "baseline_weights": weights} if s.baselines else {}


def _baseline(name: str, x: Tensor, n_classes: int, rate: float) -> nn.Module:
    """Make a baseline where its first weights are drawn."""
    return baselines.make_baseline(name, x.cpu(), n_classes, rate)


# Networks from a result


def rebuilt(result: DuINResult, kind: str, subject: int) -> Any:
    """Make the network of a stage for one subject again, in evaluation mode, where the result is."""
    state = dict({"codes": result.codebook_weights, "masked": result.masked_weights,
                  "classifier": result.weights}[kind])  # fmt: skip
    n = len(result.keeps[result.subjects[subject]])
    sizes = Sizes(**{**result.sizes_of, "n_subjects": 1, "n_channels": n})
    state = state_of_subject(state, subject, n)
    options: dict[str, Any] = {}
    if kind == "classifier":
        options = {"n_tokens": int(result.contract.n_times or 0) // sizes.patch, "n_classes": len(result.labels),
                   "quantised": any(k.startswith("quantiser.") for k in state)}  # fmt: skip
    with isolated(0), torch.device("meta"):
        made = KINDS[kind](sizes, **options)
    made.load_state_dict(state, assign=True)
    return made.eval().requires_grad_(False)


def prepared(result: DuINResult, kind: str, subject: int, *, clamp: float | None, sigmoid: bool = False) -> Prepared:
    """Return a network for one subject that takes raw channels: selection and normalisation inside."""
    body = rebuilt(result, kind, subject)
    name = result.subjects[subject]
    dtype = next(body.parameters()).dtype
    centre, scale = result.centres[name].to(dtype), result.scales[name].to(dtype)
    used = (result.contract.n_times or 0) // int(result.sizes_of["patch"]) * int(result.sizes_of["patch"])
    return Prepared(body, result.keeps[name], centre, scale, n_times=used if kind == "classifier" else None,
                    clamp=clamp, sigmoid=sigmoid).eval()  # fmt: skip


def baseline_of(result: DuINResult, name: str, rate: float) -> nn.Module:
    """Make a baseline again."""
    n = len(result.keeps[result.subjects[0]])
    patch = int(result.sizes_of["patch"])
    x = torch.zeros(1, n, int(result.contract.n_times or 0) // patch * patch)
    with isolated(0):
        made = baselines.make_baseline(name, x, len(result.labels), rate)
    state = {k.removeprefix(f"{name}."): v for k, v in result.baseline_weights.items() if k.startswith(f"{name}.")}
    made.load_state_dict(state, assign=True)
    return made.eval().requires_grad_(False)


def signal_of(rec: Recording, values: Tensor, names: list[str]) -> Recording:
    """Wrap reconstructed channels (trial, channel, time) as a recording like the one they came from."""
    kept = {"trial": rec.coords["trial"]} if "trial" in rec.coords else {}
    return Recording(data=values, dims=("trial", "channel", "time"), rate=rec.rate, t0=rec.t0, units=rec.units,
                     modality=rec.modality, subject=rec.subject, session=rec.session,
                     coords={**kept, "channel": {"name": np.asarray(names)}})  # fmt: skip
