"""The course of a fit: from recordings through the three stages to a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...core.errors import InputError, explain
from ...core.estimator import Run, numbers
from ...core.loops import Checkpoint
from ...core.random import isolated, spawn
from ...core.recording import Recording
from ...core.result import hash_tensors
from ...nn import trials
from . import data, stages
from .modules import OF_SUBJECTS, VQVAE, Classifier, MaskedModel, Sizes, put_subject, state_of_subject
from .result import DuINResult
from .stages import Plan

if TYPE_CHECKING:
    from .estimator import DuIN

WHERE = "DuIN.fit"


class Given(NamedTuple):
    """What a fit is given besides trials."""

    unlabelled: tuple[Recording, ...] = ()
    result: DuINResult | None = None  #: to start from
    part: str = "all"  #: what of it to train


class Labelled(NamedTuple):
    """Trials, their classes, and which are held out."""

    bank: data.Bank
    labels: trials.Labels
    classes: Tensor  #: (trial,) int64
    train: Tensor
    held: Tensor
    n_times: int  #: of the recordings, before they are cut to whole patches


class Windows(NamedTuple):
    """Windows without labels."""

    bank: data.Bank
    train: Tensor
    held: Tensor
    n_times: int  #: of a crop


class Stages(NamedTuple):
    """Trained networks and their curves."""

    codes: VQVAE | None = None
    masked: MaskedModel | None = None
    classifier: Classifier | None = None
    curves: dict[str, stages.Curves] = {}  # noqa: RUF012  never changed


class Course:
    """One fit: settings, where it runs, and what is known so far."""

    def __init__(self, settings: DuIN, run: Run, given: Given, recordings: Sequence[Recording]) -> None:
        self.settings, self.run, self.given = settings, run, given
        labelled = tuple(recordings) if settings.until == "classifier" else ()
        free = (*given.unlabelled, *(recordings if settings.until != "classifier" else ()))
        self.rate = float(recordings[0].rate or 0.0)
        self.patch = data.patch_samples(settings.patch, self.rate, settings.steps, WHERE.removesuffix(".fit"))
        self.length = self._common_length(labelled, free)
        cohort = data.gather(labelled, free, WHERE, on_bad=settings.on_bad, length=self.length / self.rate)
        self.cohort = data.check_regions(cohort, settings.regions, WHERE)
        self.identity = hash_tensors(numbers((*recordings, *given.unlabelled)))
        self.fittings: list[data.Fitting] = []
        self.scores: list[Tensor | None] = [None] * len(self.cohort.names)

    # Lengths and sizes

    def _common_length(self, labelled: Sequence[Recording], free: Sequence[Recording]) -> int:
        """Samples of the longest windows that all sources of pretraining have, at most twice a crop."""
        crop = max(1, round(self.settings.window / self.settings.patch)) * self.patch
        sizes = [2 * crop] + [rec.sizes["time"] for rec in free]
        if self.settings.use_trials or not free:
            sizes += [rec.sizes["time"] for rec in labelled]
        longest = min(sizes) // self.patch * self.patch
        if longest < self.patch:
            data.check_length(min(sizes), self.patch, WHERE, crop=False)
        return longest

    def sizes(self) -> Sizes:
        """Sizes of the networks."""
        s = self.settings
        return Sizes(
            n_channels=max(len(f.keep) for f in self.fittings), n_subjects=len(self.fittings), patch=self.patch,
            stride=self.patch // s.steps, sources=s.sources, filters=s.filters, features=s.features, depth=s.depth,
            decoder_depth=s.decoder_depth, heads=s.heads, head_width=s.head_width, hidden=s.hidden, dropout=s.dropout,
            activation=s.activation, n_codes=s.n_codes, code_width=s.code_width, decay=s.decay,
            own_tokenizers=s.tokenizer == "own",
        )  # fmt: skip

    def make(self, kind: Callable[..., nn.Module], *args: Any, name: str, **options: Any) -> Any:
        """Make a network; its first weights are drawn on the CPU."""
        with isolated(spawn(self.run.seed, "network", name)), torch.device("cpu"):
            made = kind(*args, **options)
        return made.to(device=self.run.device, dtype=self.run.dtype)

    def plan(self, name: str, epochs: int, batch: int, lr: float, floor: float, decay: float) -> Plan:
        """Return how a stage is trained."""
        s = self.settings
        return Plan(name, epochs, batch, lr, floor, decay, s.warmup, self.run.seed, s.schedule, s.clip, s.precision,
                    s.accumulate, s.patience, self.checkpoint(name))  # fmt: skip

    def checkpoint(self, stage: str) -> Checkpoint | None:
        """One file a stage beside the path given, with the identity of the run."""
        path = self.run.checkpoint
        if path is None:
            return None
        settings = {k: repr(v) for k, v in self.settings.get_params().items() if k not in ("device", "random_state")}
        config = {"estimator": "DuIN", "data": self.identity, "seed": self.run.seed, "stage": stage, **settings}
        name = f"{path.name.removesuffix('.safetensors')}-{stage}.safetensors"
        return Checkpoint(path=path.with_name(name), config=config)

    # Labels

    def read(self, target: Any) -> tuple[trials.Labels, trials.Holdout]:
        """Read the labels and set trials aside."""
        s, start = self.settings, self.given.result
        column = "" if start is None else start.target
        values, column = trials.read_labels(self.cohort.trials, target, "DuIN", column=column)
        labels = trials.encode(values, "DuIN")._replace(column=column)
        data.check_classes(labels.codes, labels.names, "DuIN")
        held = data.hold_out(self._groups(), labels.codes, share=s.validation, seed=self.run.seed, where="DuIN")
        member = np.repeat(self.cohort.trials_of, [r.sizes["trial"] for r in self.cohort.trials])
        missing = set(member.tolist()) - set(member[held.train].tolist())
        if missing:
            names = [self.cohort.names[k] for k in missing]
            fix = "name other groups (group), or set validation=0"
            raise InputError(explain("DuIN(validation)", expected="every subject in training", got=str(names), fix=fix))
        self.identity = hash_tensors([torch.from_numpy(labels.codes)]) + self.identity
        return labels, held

    def _groups(self) -> np.ndarray:
        """Return the group of every trial: the one asked for, else session, block, or run of neighbouring trials."""
        recs, group = self.cohort.trials, self.settings.group
        if group is None:
            sessions = {rec.session for rec in recs}
            if len(self.cohort.names) == 1 and len(sessions) >= trials.AUTOMATIC:
                group = "session"
            elif all("block" in rec.coords.get("trial", {}) for rec in recs):
                group = "block"
            else:
                bundle = trials.trial_groups(recs, "trial")
                _, first, member = np.unique(bundle, return_index=True, return_inverse=True)
                found: np.ndarray = data.runs_of_trials(recs)[first][member]
                return found
        return trials.trial_groups(recs, group)

    def labelled(self, labels: trials.Labels, held: trials.Holdout) -> Labelled:
        """Standardise the trials."""
        recs, device = self.cohort.trials, self.run.device
        n_times = recs[0].sizes["time"]
        lengths = sorted({rec.sizes["time"] for rec in recs})
        if len(lengths) > 1:
            raise InputError(explain(WHERE, expected="trials of one length", got=f"{lengths} samples"))
        bank = self._bank([(rec.values, k) for rec, k in zip(recs, self.cohort.trials_of, strict=True)],
                          data.check_length(n_times, self.patch, WHERE, crop=self.settings.crop))  # fmt: skip
        train, aside = (torch.from_numpy(part).to(device) for part in held)
        return Labelled(bank, labels, torch.from_numpy(labels.codes).to(device), train, aside, n_times)

    def _bank(self, parts: Sequence[tuple[Tensor, int]], n_times: int) -> data.Bank:
        made = []
        for x, k in parts:
            fitting = self.fittings[k]
            cut = x[:, :, :n_times].to(self.run.device)
            made.append(data.standardised(cut, fitting, self.run.dtype, self.settings.clamp))
        return data.bank_of(made, [k for _, k in parts], [len(f.keep) for f in self.fittings])

    # Windows without labels

    def extra_split(self, held: trials.Holdout | None) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows of every unlabelled recording to train on and to validate on."""
        found = []
        for rec, k in zip(self.cohort.extra, self.cohort.extra_of, strict=True):
            hidden, first = [], 0
            for other, m in zip(self.cohort.trials, self.cohort.trials_of, strict=True):
                place, n = data.spans(other), other.sizes["trial"]
                if held is not None and m == k and other.session == rec.session and place is not None:
                    inside = held.validation[(held.validation >= first) & (held.validation < first + n)] - first
                    hidden.append(place[inside])
                first += n
            forbidden = np.concatenate(hidden) if hidden else None
            found.append(data.split_extra(rec, self.settings.validation, forbidden))
        return found

    def windows(self, split: Sequence[tuple[np.ndarray, np.ndarray]], held: trials.Holdout | None) -> Windows:
        """Join unlabelled windows and, if asked for, trials; held-out trials are there to validate on only."""
        parts: list[tuple[Tensor, int]] = []
        train: list[np.ndarray] = []
        aside: list[np.ndarray] = []
        first = 0
        sources = [
            (rec, k, a, b) for rec, k, (a, b) in zip(self.cohort.extra, self.cohort.extra_of, split, strict=True)
        ]
        if held is not None and (self.settings.use_trials or not sources):
            begin = 0
            for rec, k in zip(self.cohort.trials, self.cohort.trials_of, strict=True):
                n = rec.sizes["trial"]
                own = [part[(part >= begin) & (part < begin + n)] - begin for part in held]
                sources.append((rec, k, own[0], own[1]))
                begin += n
        for rec, k, mine, theirs in sources:
            pieces = rec.sizes["time"] // self.length
            x = rec.values[:, :, : pieces * self.length].unflatten(2, (pieces, self.length)).movedim(2, 1).flatten(0, 1)
            parts.append((x, k))
            for rows, kept in ((mine, train), (theirs, aside)):
                kept.append(first + (rows[:, None] * pieces + np.arange(pieces)).ravel())
            first += len(x)
        learn, held_rows = (torch.from_numpy(np.concatenate(p)).to(self.run.device) for p in (train, aside))
        n_times = min(max(1, round(self.settings.window / self.settings.patch)) * self.patch, self.length)
        return Windows(self._bank(parts, self.length), learn, held_rows, n_times)

    # Channels

    def fit_channels(self, held: trials.Holdout | None, split: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        """Take or learn the channels and the normaliser of every subject, on training windows only."""
        start = self.given.result
        for k, name in enumerate(self.cohort.names):
            if start is not None and self._is_known(start, k):
                known = start.subjects[start.subject_index(name)]
                kept = (start.keeps[known], start.centres[known], start.scales[known])
                self.fittings.append(data.Fitting(*(v.to(self.run.device) for v in kept)))
                continue
            own, begin = [], 0
            for rec, m in zip(self.cohort.trials, self.cohort.trials_of, strict=True):
                n = rec.sizes["trial"]
                if held is not None and m == k:
                    rows = held.train[(held.train >= begin) & (held.train < begin + n)] - begin
                    own.append(rec.values[torch.from_numpy(rows).to(rec.device)].to(self.run.device))
                begin += n
            if not own:
                for rec, m, (rows, _) in zip(self.cohort.extra, self.cohort.extra_of, split, strict=True):
                    if m == k:
                        picked = rec.values[torch.from_numpy(rows).to(rec.device), :, : self.length]
                        own.append(picked.to(self.run.device))
            self.fittings.append(data.learn_fitting(own, self.cohort.usable[k], self.settings.normalise))

    def _is_known(self, start: DuINResult, k: int) -> bool:
        """Whether a subject of this fit is one of a result, with the same channels."""
        name, contract = self.cohort.names[k], self.cohort.contracts[k]
        if name not in start.subjects and (len(start.subjects) > 1 or (name and start.subjects[0])):
            return False
        theirs = start.contracts[start.subjects[start.subject_index(name)]]
        return (theirs.names, theirs.size) == (contract.names, contract.size)

    def select(self, found: Labelled) -> None:
        """Rank the channels by a classifier trained from scratch on the training trials, and keep the best."""
        n, s = self.settings.select, self.settings
        if n is None or self.given.result is not None:
            return
        module = self.make(Classifier, self.sizes(), found.bank.x.shape[2] // self.patch, len(found.labels.names),
                           name="select")  # fmt: skip
        plan = self.plan("select", s.select_epochs, s.batch_size, s.lr, s.lr / 40, s.weight_decay)
        stages.train_classes(module, found.bank, found.classes, found.train, found.held, plan, shift=s.shift)
        scores = module.encoder.scores()
        for k, fitting in enumerate(self.fittings):
            own = scores[k, : len(fitting.keep)]
            best = stages.chosen_channels(own, torch.ones_like(own, dtype=torch.bool), n)
            self.scores[k] = own.new_zeros(self.cohort.contracts[k].size).index_copy(0, fitting.keep, own)
            self.fittings[k] = data.Fitting(*(v[best] for v in fitting))

    # Stages

    def train(self, found: Labelled | None, windows: Windows | None) -> Stages:
        """Run the stages that are due."""
        s, start, sizes = self.settings, self.given.result, self.sizes()
        curves: dict[str, stages.Curves] = {}
        teacher, masked = self._codes(sizes, windows, curves)
        if windows is not None and s.pretrain == "mae" and s.until != "codes" and _lacks(start, "masked"):
            assert teacher is not None  # noqa: S101  for the type checker
            masked = self.make(MaskedModel, sizes, name="masked")
            plan = self.plan("masked", s.masked_epochs, s.pretrain_batch, s.pretrain_lr, s.pretrain_lr / 6,
                             s.weight_decay)  # fmt: skip
            curves["masked"] = stages.train_masked(
                masked, teacher, windows.bank, windows.train, windows.held, plan, n_times=windows.n_times,
                ratio=s.mask_ratio,
            )  # fmt: skip
        if found is None:
            return Stages(teacher, masked, None, curves)
        return Stages(teacher, masked, self._classifier(sizes, found, teacher, masked, curves), curves)

    def _codes(
        self, sizes: Sizes, windows: Windows | None, curves: dict[str, stages.Curves]
    ) -> tuple[VQVAE | None, MaskedModel | None]:
        """Train the first stage, or take the first two from a result of the same subjects and channels."""
        s, start = self.settings, self.given.result
        if start is not None:
            return self._taken(sizes, start, windows)
        if s.pretrain == "none" or windows is None:
            return None, None
        module = self.make(VQVAE, sizes, name="codes")
        plan = self.plan("codes", s.codes_epochs, s.pretrain_batch, s.pretrain_lr, s.pretrain_lr / 6, 0.01)
        reference = s.compat == "reference"
        curves["codes"] = stages.train_codes(
            module, windows.bank, windows.train, windows.held, plan, n_times=windows.n_times, beta=s.beta,
            warmup=0.0 if reference else s.quantiser_warmup, revive=s.revive and not reference,
            checkpoint=self.checkpoint,
        )  # fmt: skip
        return module, None

    def _taken(
        self, sizes: Sizes, start: DuINResult, windows: Windows | None
    ) -> tuple[VQVAE | None, MaskedModel | None]:
        """Rebuild the stages of a result, if its subjects and channels are those of this fit."""
        same = start.subjects == self.cohort.names and _same_sizes(start, sizes, whole=True)
        if windows is not None and start.stage == "codes" and self.settings.pretrain == "mae":
            mine = (self.cohort.names, sizes.n_channels, windows.n_times // self.patch)
            theirs = (start.subjects, start.sizes_of["n_channels"], start.window)
            if not same or mine != theirs:
                fix = "train the codes anew, or use the same recordings and window"
                expected = f"codes of the same subjects, channels and tokens as the masked model, {mine}"
                raise InputError(explain(f"{WHERE}(init)", expected=expected, got=str(theirs), fix=fix))
        if not same:
            return None, None
        made: list[Any] = []
        for kind, state in ((VQVAE, start.codebook_weights), (MaskedModel, start.masked_weights)):
            module = self.make(kind, sizes, name="taken") if state else None
            if module is not None:
                module.load_state_dict(_moved(state, module))
                module.eval()
            made.append(module)
        return made[0], made[1]

    def _classifier(
        self, sizes: Sizes, found: Labelled, teacher: VQVAE | None, masked: MaskedModel | None,
        curves: dict[str, stages.Curves],
    ) -> Classifier:  # fmt: skip
        """Train the third stage from the weights of the second (or of the first)."""
        s, start = self.settings, self.given.result
        module: Classifier = self.make(Classifier, sizes, found.bank.x.shape[2] // self.patch, len(found.labels.names),
                                       name="classifier", quantised=s.pretrain == "quantised")  # fmt: skip
        source: nn.Module | None = masked if s.pretrain == "mae" else teacher if s.pretrain != "none" else None
        frozen: tuple[nn.Module, ...] = ()
        if start is not None:
            frozen = self._started(module, start, found.labels.names)
        elif source is not None:
            module.encoder.load_state_dict(source.encoder.state_dict())  # type: ignore[union-attr]
        if module.quantiser is not None and teacher is not None and start is None:
            module.quantiser.load_state_dict(teacher.quantiser.state_dict())
        weight = s._class_weight(found.classes[found.train], module)  # type: ignore[arg-type]
        plan = self.plan("classifier", s.epochs, s.batch_size, s.lr, s.lr / 40, s.weight_decay)
        curves["classifier"] = stages.train_classes(
            module, found.bank, found.classes, found.train, found.held, plan, shift=s.shift, weight=weight,
            sigmoid=s.compat == "reference", frozen=frozen,
        )  # fmt: skip
        return module

    def _started(self, module: Classifier, start: DuINResult, labels: tuple[Any, ...]) -> tuple[nn.Module, ...]:
        """Load what fits of a result into the classifier; return the parts that shall not train."""
        if not _same_sizes(start, self.sizes(), whole=False):
            got = {k: v for k, v in start.sizes_of.items() if getattr(self.sizes(), k) != v}
            raise InputError(explain(f"{WHERE}(init)", expected="a result of networks of these sizes", got=str(got)))
        state = start.weights or start.masked_weights or start.codebook_weights
        parts = (
            "encoder.",
            "quantiser.",
            *(("head.",) if start.stage == "classifier" and start.labels == labels else ()),
        )
        mine, names = module.state_dict(), range(len(self.cohort.names))
        shared = {k: v for k, v in state.items() if k.startswith(parts) and not k.startswith(OF_SUBJECTS)}
        mine |= {k: v.to(mine[k]) for k, v in shared.items() if k in mine and mine[k].shape == v.shape}
        known = [k for k in names if self._is_known(start, k)]
        for k in known:
            place = start.subject_index(self.cohort.names[k])
            put_subject(mine, state_of_subject(state, place, len(self.fittings[k].keep)), k)
        module.load_state_dict(mine)
        if self.given.part == "all":
            return ()
        encoder = module.encoder
        encoder.requires_grad_(False)
        for k in set(names) - set(known):
            encoder.of_subject(k).requires_grad_(True)
        still = [encoder.of_subject(k) for k in known] if encoder.subject is None else [encoder.tokenizer]
        return (*still, encoder.blocks)


def _lacks(start: DuINResult | None, stage: str) -> bool:
    """Whether a stage has not been trained in the result to start from."""
    return start is None or (stage == "masked" and start.stage == "codes")


def _moved(state: Any, module: nn.Module) -> dict[str, Tensor]:
    fresh = module.state_dict()
    return {k: v.to(fresh[k]) for k, v in state.items()}


def _same_sizes(start: DuINResult, sizes: Sizes, *, whole: bool) -> bool:
    """Whether the networks of a result have these sizes; unless ``whole`` channels and subjects may differ."""
    free = {"dropout", "decay"} | (set() if whole else {"n_channels", "n_subjects", "decoder_depth"})
    return all(getattr(sizes, k) == v for k, v in start.sizes_of.items() if k not in free)
