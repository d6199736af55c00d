"""DuIN: discrete units of intracranial recordings, and words decoded from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from ...core.device import resolve_device
from ...core.errors import InputError, explain
from ...core.estimator import Run, as_tuple
from ...core.params import check_params, param
from ...core.recording import Recording
from ...nn import trials
from ...nn.decoder import Decoder, apart
from . import checkpoints
from . import data as _data
from .baselines import BASELINES, applied
from .describe import baseline_of, describe, prepared, signal_of
from .fitting import Course, Given
from .modules import Classifier, Sizes
from .result import DuINResult
from .running import Prepared, Remembering

CHUNK = 256  #: windows that pass through a network at once


class Encoded(NamedTuple):
    """Tokens of windows."""

    tokens: Tensor  #: (trial, token, width), after the last stage trained
    codes: Tensor | None  #: (trial, token) int64; None without codes


@dataclass(kw_only=True, eq=False)
class DuIN(Decoder):
    """Decode words (or other classes) from sEEG, ECoG or LFP through discrete units learnt without labels.

    All channels are fused, patches of 100 ms become tokens, and three networks with the same encoder are trained: one
    that reconstructs the signal from discrete codes, one that tells the codes of hidden tokens from the others, and one
    that tells the class of a window and starts from the weights of the second. Every subject has channels of its own.

    ``fit`` takes trials (trial, channel, time), one recording or a list of them (sessions, subjects), and labels: an
    array, one for each recording, or the name of a trial column. ``unlabelled`` recordings of the same or other
    subjects, continuous or in trials, serve the first two stages.

    Parameters
    ----------
    pretrain : {"mae", "vqvae", "quantised", "none"}, default "mae"
        What the classifier starts from: the masked model, the encoder of the autoencoder, the same with its quantiser
        kept, or random weights.
    until : {"classifier", "masked", "codes"}, default "classifier"
        Last stage to train. Without the classifier no labels are needed, and recordings need no trials.
    use_trials : bool, default True
        Whether the training trials serve the first two stages too; trials held out never do. Then windows are no longer
        than trials.
    window : float, default 4.0
        Length of the windows of the first two stages, s; cut at random places of windows twice as long where the
        recordings have them.
    patch : float, default 0.1
        Length of a token, s.
    steps : int, default 10
        Steps inside a token; divides the samples of a patch.
    sources, filters, features : int, default 16, 128, 16
        Sources that channels are fused into; filters of the convolutions; features of a step (a token has
        ``steps * features`` numbers).
    depth, decoder_depth : int, default 8, 4
        Attention blocks of the encoder, and of the decoder of the first stage.
    heads, head_width, hidden : int, default 8, 64, 320
        Attention heads, numbers in each, and width between the linear layers of a block.
    dropout : float, default 0.2
        In the attention blocks.
    activation : {None, "gelu"}, default None
        Between the convolutions of the tokeniser; the published one has none.
    tokenizer : {"shared", "own"}, default "shared"
        One tokeniser for all behind a linear layer of each subject's own, or, as in the published model of several
        subjects, a tokeniser of each subject's own straight from its channels.
    n_codes, code_width : int, default 2048, 64
        Size of the codebook.
    decay, beta : float, default 0.99, 1.0
        Of the moving average of the codes; weight of the distance to them in the loss.
    quantiser_warmup : float, default 0.1
        Share of the epochs of the first stage without quantisation (at least 40 steps, or a third of the epochs),
        before the codes start by clustering. Longer ones leave more codes in use, of which several stand for one
        pattern.
    revive : bool, default True
        Replace unused codes after an epoch in which the codebook had collapsed (perplexity below 2).
    mask_ratio : float, default 0.5
        Share of tokens hidden in one pass; a second pass hides the others.
    codes_epochs, masked_epochs : int, default 400, 400
        Epochs of the first two stages.
    pretrain_batch, pretrain_lr : int, float, default 64, 3e-4
        Windows in a step and largest learning rate of the first two stages.
    warmup : float, default 0.1
        Share of the epochs of a stage in which the learning rate rises.
    shift : float, default 0.1
        Largest random shift of a training trial, as a share of its length.
    accumulate : int, default 1
        Batches averaged into one step.
    select : int or None, default None
        Channels to keep of every subject: those that weigh most in a classifier trained from scratch on the training
        trials. None keeps all.
    select_epochs : int, default 50
        Epochs of that classifier.
    regions : sequence of str, default ()
        Channels to choose from, by the column "region" of the channels; all by default.
    baselines : sequence of str, default ()
        Among "power", "riemann", "linear", "cnn_gru": simpler decoders to train on the same trials.
    crop : bool, default False
        Cut windows to whole patches instead of refusing them.
    on_bad : {"raise", "mask"}, default "raise"
        What becomes of channels that are constant or hold NaN or infinity in training.
    compat : {"ours", "reference"}, default "ours"
        "reference" trains like the published code: no quantiser warm-up, no revival, and a sigmoid before the softmax.
    epochs, batch_size, lr, weight_decay
        Of the classifier: 200, 32, 2e-4, 0.05. Weight decay serves the masked model too.
    schedule, clip, precision, class_weight, normalise, clamp
        See :class:`~tectum.nn.decoder.Decoder`; by default the learning rate rises and falls as half a cosine.
    validation : float, default 0.2
        Share of the groups of trials, and of the end of unlabelled recordings, set aside.
    group : str or None, default None
        What is never parted between training and validation. None takes sessions where one subject has five or more,
        else the trial column "block", else runs of neighbouring trials.
    patience : int or None, default None
        Epochs without improvement before a stage stops; the best weights are kept anyway.
    device, random_state, dtype
        See :class:`Estimator`.

    References
    ----------
    Zheng et al. (2024), Du-IN: Discrete units-guided mask modeling for decoding speech from intracranial neural
    signals, NeurIPS; arXiv 2405.11459.

    Examples
    --------
    >>> from tectum.datasets import simulate
    >>> sim = simulate.seeg_words(n_words=2, n_windows=8, n_trials=8, n_tokens=2)
    >>> model = DuIN(depth=1, decoder_depth=1, n_codes=8, filters=8, heads=2, hidden=16, epochs=2, codes_epochs=9,
    ...              masked_epochs=2, batch_size=8, pretrain_batch=8, pretrain_lr=3e-3, quantiser_warmup=0.7)
    >>> model = model.fit(sim.data.words, "word", unlabelled=[sim.data.unlabelled])
    >>> model.predict_proba(sim.data.words).shape, model.encode(sim.data.words).codes.shape
    (torch.Size([16, 2]), torch.Size([16, 2]))
    """

    pretrain: str = param("mae", options=("mae", "vqvae", "quantised", "none"))
    until: str = param("classifier", options=("classifier", "masked", "codes"))
    use_trials: bool = param(True, bool)
    window: float = param(4.0, float, low=0, open_low=True)
    patch: float = param(0.1, float, low=0, open_low=True)
    steps: int = param(10, int, low=1)
    sources: int = param(16, int, low=1)
    filters: int = param(128, int, low=1)
    features: int = param(16, int, low=2)
    depth: int = param(8, int, low=1)
    decoder_depth: int = param(4, int, low=1)
    heads: int = param(8, int, low=1)
    head_width: int = param(64, int, low=1)
    hidden: int = param(320, int, low=1)
    dropout: float = param(0.2, float, low=0, high=0.99)
    activation: str | None = param(None, options=("gelu",))
    tokenizer: str = param("shared", options=("shared", "own"))
    n_codes: int = param(2048, int, low=2)
    code_width: int = param(64, int, low=2)
    decay: float = param(0.99, float, low=0, high=1)
    beta: float = param(1.0, float, low=0)
    quantiser_warmup: float = param(0.1, float, low=0, high=0.95)
    revive: bool = param(True, bool)
    mask_ratio: float = param(0.5, float, low=0.05, high=0.95)
    codes_epochs: int = param(400, int, low=1)
    masked_epochs: int = param(400, int, low=1)
    pretrain_batch: int = param(64, int, low=1)
    pretrain_lr: float = param(3e-4, float, low=0, open_low=True)
    warmup: float = param(0.1, float, low=0, high=1)
    shift: float = param(0.1, float, low=0, high=0.9)
    accumulate: int = param(1, int, low=1)
    select: int | None = param(None, int, low=1)
    select_epochs: int = param(50, int, low=1)
    regions: Sequence[str] = ()
    baselines: Sequence[str] = ()
    crop: bool = param(False, bool)
    on_bad: str = param("raise", options=("raise", "mask"))
    compat: str = param("ours", options=("ours", "reference"))
    epochs: int = param(200, int, low=1)
    lr: float = param(2e-4, float, low=0, open_low=True)
    weight_decay: float = param(0.05, float, low=0)
    schedule: str = param("cosine", options=("constant", "cosine"))
    patience: int | None = param(None, int, low=1, optional=True)

    def fit(
        self,
        data: Any,
        target: Any = None,
        *,
        unlabelled: Any = None,
        init: Any = None,
        checkpoint: str | Path | None = None,
    ) -> Self:
        """Train the stages; fills ``result_`` and returns self.

        Parameters
        ----------
        data : Recording or list of Recording, (trial, channel, time)
            Sessions and subjects; the channels of a subject must agree. With ``until`` before "classifier" trials are
            not needed.
        target : str, array or sequence of arrays
            The name of a trial column, or the labels.
        unlabelled : Recording or list of Recording, optional
            More recordings, (channel, time) or in trials, for the first two stages. Of a trial held out, whatever
            overlaps it in a recording of the same subject and session is left out; recordings of a *test* set are yours
            to leave out.
        init : DuINResult, optional
            A result to go on from: stages it has are not trained again, and the classifier starts from its weights.
        checkpoint : path, optional
            A killed run resumes from files beside this one, one a stage.
        """
        if not (init is None or isinstance(init, (DuINResult, Given))):
            got = type(init).__name__
            raise InputError(explain("DuIN.fit(init)", expected="a DuINResult", got=got))
        more = () if unlabelled is None else _data.check_recordings(as_tuple(unlabelled, "DuIN.fit"), "DuIN.fit")
        given = init if isinstance(init, Given) else Given(more, init)
        return super().fit(data, target, init=given, checkpoint=checkpoint)

    @classmethod
    def from_published(cls, folder: str | Path, like: Any, **settings: Any) -> Self:
        """Return a model with the published weights of a subject: it encodes, and ``adapt`` trains a classifier on it.

        Parameters
        ----------
        folder : path
            Below it lie ``vqvae/model/checkpoint-399.pth``, ``mae/model/checkpoint-399.pth``, or both; the last of
            several checkpoints is taken, and ``save/params`` is read for what the weights do not say.
        like : Recording or list of Recording
            Training data of the subject (of each, in the order of the weights): they give channels in their order,
            rate, unit and, unless ``normalise="none"``, the normaliser.
        **settings
            Other hyper-parameters; sizes are those of the weights.

        Raises
        ------
        LoadError
            If a file is not what was published: tensors missing, unknown or of other shapes, or anything but tensors.
            Nothing in a file is run.
        InputError
            If there are more channels or other subjects than the weights have.
        """
        made = cls(**settings)
        recs = _data.check_recordings(as_tuple(like, "DuIN.from_published"), "DuIN.from_published")
        with torch.no_grad():
            result = checkpoints.load_published(folder, recs, normalise=made.normalise)
        known = {k: v for k, v in checkpoints.read_settings(folder).items() if k in ("mask_ratio", "beta")}
        made.set_params(**{**known, **checkpoints.settings_of(result, float(recs[0].rate or 0.0)), **settings})
        check_params(made)
        made.result_ = result.to(resolve_device(made.device))
        return made

    # Steps of a fit

    def _build(self, n_channels: int, n_times: int, n_classes: int, rate: float) -> nn.Module:
        patch = _data.patch_samples(self.patch, rate, self.steps, "DuIN")
        sizes = Sizes(n_channels=n_channels, patch=patch, stride=patch // self.steps, sources=self.sources,
                      filters=self.filters, features=self.features, depth=self.depth, heads=self.heads,
                      head_width=self.head_width, hidden=self.hidden, dropout=self.dropout,
                      activation=self.activation, own_tokenizers=self.tokenizer == "own")  # fmt: skip
        return Classifier(sizes, n_times // patch, n_classes)

    def _check(self, data: tuple[Any, ...], target: Any) -> tuple[Any, ...]:
        for name, known in (("regions", None), ("baselines", BASELINES)):
            value = getattr(self, name)
            texts = isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
            if not texts or (known is not None and not set(value) <= set(known)):
                expected = "a sequence of names" + (f" among {list(known)}" if known is not None else "")
                raise InputError(explain(f"DuIN.{name}", expected=expected, got=repr(value)))
        if self.steps * self.features % 2:
            got = f"{self.steps} * {self.features}"
            raise InputError(explain("DuIN.features", expected="an even width of tokens, steps * features", got=got))
        if self.until != "classifier" and (self.pretrain == "none" or self.select is not None):
            got = f"pretrain={self.pretrain!r}, select={self.select!r}"
            expected = f"pretraining and no choice of channels by labels with until={self.until!r}"
            raise InputError(explain("DuIN.until", expected=expected, got=got))
        found = _data.check_recordings(data, "DuIN.fit")
        if self.until == "classifier":
            found = tuple(_data.arranged(rec, "DuIN.fit") for rec in found)
        return tuple(rec.load() for rec in found)

    def _fit(self, data: tuple[Recording, ...], target: Any, run: Run) -> tuple[DuINResult, bool | None]:
        given = run.init if isinstance(run.init, Given) else Given(result=run.init)
        course = Course(self, run, given, data)
        labels, held = course.read(target) if course.cohort.trials else (None, None)
        split = course.extra_split(held)
        course.fit_channels(held, split)
        found = None if labels is None or held is None else course.labelled(labels, held)
        if self.baselines and len(course.cohort.names) > 1:
            raise InputError(explain("DuIN.baselines", expected="one subject", got=f"{len(course.cohort.names)}"))
        if found is not None and self.select is not None and given.result is None:
            course.select(found)
            found = course.labelled(found.labels, held)  # type: ignore[arg-type]
        due = self.pretrain != "none" and (given.result is None or given.result.stage == "codes")
        windows = course.windows(split, held) if due else None
        trained = course.train(found, windows)
        return describe(course, found, windows, trained), None

    # The fitted model

    def _ready(self, kind: str, subject: int) -> Any:
        """Return a network for raw channels of a subject; made once for a result."""
        result: Any = self.result_
        kept: Any = self.__dict__.get("_kept")
        if kept is None or kept[0] is not result:
            kept = self.__dict__["_kept"] = (result, {})
        if (kind, subject) not in kept[1]:
            sigmoid = kind == "classifier" and self.compat == "reference"
            kept[1][kind, subject] = prepared(result, kind, subject, clamp=self.clamp, sigmoid=sigmoid)
        return kept[1][kind, subject]

    def _trials(self, data: Any, verb: str, *, window: bool = True) -> tuple[Recording, ...]:
        """Check new data against the contract of their subject."""
        where, result = f"DuIN.{verb}", self.result_
        found = _data.check_recordings(as_tuple(data, where), where)
        made = []
        for rec in found:
            contract = result.contracts[result.subjects[result.subject_index(rec.subject)]]  # type: ignore[attr-defined]
            if window:
                contract = replace(contract, n_times=result.contract.n_times)
            rec = _data.arranged(rec, where)
            if self.on_bad == "mask":
                rec = self._blanked(rec)
            (checked,) = trials.as_trials([rec], where, contract=contract)
            made.append(checked)
        return tuple(made)

    def _blanked(self, rec: Recording) -> Recording:
        """Blank the channels that the networks do not see."""
        result: Any = self.result_
        keep = result.keeps[result.subjects[result.subject_index(rec.subject)]].cpu()
        seen = torch.zeros(rec.sizes["channel"], dtype=torch.bool).index_fill(
            0, keep[keep < rec.sizes["channel"]], True
        )
        return rec.with_(data=torch.where(seen.to(rec.device)[:, None], rec.values, 0.0))

    def _through(self, rec: Recording, kind: str, call: Any) -> list[Any]:
        """Apply ``call(network, x)`` to chunks of the windows of a recording."""
        result: Any = self.result_
        network = self._ready(kind, result.subject_index(rec.subject))
        like = network.centre
        return [call(network, part.to(like)) for part in rec.values.split(CHUNK)]

    def _needs(self, *kinds: str) -> None:
        """Refuse what the stages trained cannot answer."""
        result: Any = self.result_
        held = {"codes": result.codebook_weights, "masked": result.masked_weights, "classifier": result.weights}
        if not any(held[kind] for kind in kinds):
            got, fix = f"a model trained until {result.stage!r}", "fit or adapt it with labels, or with pretraining"
            raise InputError(explain("DuIN", expected=f"a trained {' or '.join(kinds)} stage", got=got, fix=fix))

    def _predicted(self, data: tuple[Recording, ...]) -> Tensor:
        """Return the logits of new trials: Tensor (trial, class)."""
        self._needs("classifier")
        return torch.cat([out for rec in data for out in self._through(rec, "classifier", lambda net, x: net(x))])

    def _patches(self, data: tuple[Recording, ...], verb: str) -> tuple[Recording, ...]:
        """Check that windows are of whole patches."""
        size = int(self.result_.sizes_of["patch"])  # type: ignore[attr-defined]
        lengths = [_data.check_length(r.sizes["time"], size, f"DuIN.{verb}", crop=self.crop) for r in data]
        if len(set(lengths)) > 1:
            raise InputError(explain(f"DuIN.{verb}", expected="windows of one length", got=str(sorted(set(lengths)))))
        return tuple(r.isel(time=slice(0, n)) for r, n in zip(data, lengths, strict=True))

    @apart
    def encode(self, data: Any) -> Encoded:
        """Return tokens and discrete codes of windows of any number of patches.

        Parameters
        ----------
        data : as for ``fit``; windows may be of another length

        Returns
        -------
        Encoded
            ``tokens`` (trial, token, width) of the last stage trained, ``codes`` (trial, token) int64 or None; trials
            of several recordings follow each other.
        """
        self._needs("classifier", "masked", "codes")
        found, result = self._patches(self._trials(data, "encode", window=False), "encode"), self.result_
        kind: str = result.stage  # type: ignore[attr-defined]
        tokens = [
            t
            for r in found
            for t in self._through(r, kind, lambda net, x: net.body.encoder(net.standard(x, whole=True)))
        ]
        codes = None
        if result.codebook_weights:  # type: ignore[attr-defined]
            codes = torch.cat([t for r in found for t in self._through(r, "codes", lambda net, x: net.body.codes(
                net.standard(x, whole=True)))])  # fmt: skip
        return Encoded(torch.cat(tokens), codes)

    @apart
    def reconstruct(self, data: Any) -> Recording | list[Recording]:
        """Return what the codes keep of windows, (trial, channel, time) of the channels used, in their units."""
        self._needs("codes")
        found, result, made = (
            self._patches(self._trials(data, "reconstruct", window=False), "reconstruct"),
            self.result_,
            [],
        )
        for rec in found:
            signal = torch.cat(self._through(rec, "codes", lambda net, x: net.reconstruct(x)))
            known = rec.labels("channel")
            keep = result.keeps[result.subjects[result.subject_index(rec.subject)]].tolist()  # type: ignore[attr-defined]
            made.append(signal_of(rec, signal, [str(k if known is None else known[k]) for k in keep]))
        return made if isinstance(data, list) or len(made) > 1 else made[0]

    @apart
    def attention(self, data: Any) -> Tensor:
        """Return the attention of every token to every token: Tensor (trial, block, head, token, token)."""
        found, kind = self._patches(self._trials(data, "attention", window=False), "attention"), self.result_.stage  # type: ignore[attr-defined]
        return torch.cat([t for r in found for t in self._through(r, kind, lambda net, x: net.body.encoder.attention(
            net.standard(x, whole=True)))])  # fmt: skip

    @apart
    def compare(self, data: Any, target: Any = None) -> dict[str, float]:
        """Return the balanced accuracy of the model and of its baselines on trials, by name."""
        found, result = self._trials(data, "compare"), self.result_
        values, _ = trials.read_labels(found, target, "DuIN.compare", column=result.target)
        truth = torch.from_numpy(trials.encode(values, "DuIN.compare", names=result.labels).codes)
        n, scores = len(result.labels), {"DuIN": self._predicted(found)}
        for name in dict.fromkeys(k.split(".")[0] for k in result.baseline_weights):  # type: ignore[attr-defined]
            module = baseline_of(result, name, float(result.contract.rate or 0.0))  # type: ignore[arg-type]
            outs = [t for r in found for t in self._through(r, "classifier", applied(module))]
            scores[name] = torch.cat(outs)
        return {
            name: float(trials.mean_recall(trials.confusion_counts(truth.to(s.device), s.argmax(1), n)))
            for name, s in scores.items()
        }

    def adapt(
        self,
        data: Any,
        target: Any = None,
        *,
        part: str = "all",
        epochs: int | None = None,
        lr: float | None = None,
        unlabelled: Any = None,
    ) -> Self:
        """Return a copy trained on from here on: new words, a new day, a new subject with other channels.

        Subjects and classes are those of the new data. Known subjects keep their channels, normaliser and layer; new
        ones learn theirs. If the classes differ, the head starts anew. A model trained until "codes" or "masked" goes
        on to the classifier.

        Parameters
        ----------
        data, target, unlabelled
            As for ``fit``.
        part : {"all", "head"}, default "all"
            What to train; with "head" the tokeniser and the attention blocks stay as they are.
        epochs : int, optional
            Default: as in ``fit``.
        lr : float, optional
            Default: as in ``fit``.
        """
        if part not in ("all", "head"):
            raise InputError(explain("DuIN.adapt(part)", expected="'all' or 'head'", got=repr(part)))
        result: Any = self.result_
        more = () if unlabelled is None else _data.check_recordings(as_tuple(unlabelled, "DuIN.adapt"), "DuIN.adapt")
        changes: dict[str, Any] = {"epochs": epochs, "lr": lr, "until": "classifier"}
        settings = {**self.get_params(), **{k: v for k, v in changes.items() if v is not None}}
        return type(self)(**settings).fit(data, target, init=Given(more, result, part))

    @apart
    def forward_module(self, subject: str | None = None) -> nn.Module:
        """Return the trained network of one subject as a plain module, to stream or to export.

        It maps (batch, channel, time), float32 in the units of the contract, to logits (batch, class), on the CPU and
        in evaluation mode; choice of channels and normalisation are inside.

        Parameters
        ----------
        subject : str, optional
            By default the first.
        """
        self._needs("classifier")
        result: Any = self.result_
        place = 0 if subject is None else result.subject_index(subject)
        lean = replace(result, codebook_weights={}, masked_weights={}, baseline_weights={}, history={})
        moved = lean.to("cpu")
        module = prepared(moved, "classifier", place, clamp=self.clamp, sigmoid=self.compat == "reference")
        return module.float().eval()

    def stream_module(self, subject: str | None = None) -> nn.Module:
        """Return :meth:`forward_module` for windows that follow each other: known patches are not computed again."""
        found = self.forward_module(subject)
        return Remembering(found).eval() if isinstance(found, Prepared) else found
