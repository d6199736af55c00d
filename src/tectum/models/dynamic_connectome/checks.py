"""What the dynamic connectome refuses, and the sentences it says then."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from ...core.errors import InputError, TectumWarning, TooLargeError, explain

_WHERE = "DynamicConnectome"
Blocks = Sequence[tuple[int, int]]


def _name(names: Sequence[str] | None, w: int) -> str:
    """How an animal is called in messages."""
    return f"animal {w}" if names is None else f"animal {names[w]!r}"


def check_traces(
    traces: Sequence[Tensor], *, dt: float, sigma: float = 0.5, min_units: int = 3, names: Sequence[str] | None = None
) -> None:
    """Refuse traces that are not (time, unit), too short for the filter, or of too few units (E1).

    Examples
    --------
    >>> check_traces([torch.zeros(100, 5)], dt=0.25)
    """
    if not traces:
        raise InputError(explain(_WHERE, expected="at least one animal", got="none"))
    shortest = math.ceil(8 * max(sigma / dt, 1.0) - 1e-6)
    for w, x in enumerate(traces):
        shape = tuple(x.shape)
        if x.ndim != 2:
            raise InputError(
                explain(f"{_WHERE}, {_name(names, w)}", expected="traces (time, unit)", got=f"shape {shape}")
            )
        if shape[0] < shortest:
            raise InputError(
                explain(
                    f"{_WHERE}, {_name(names, w)}",
                    expected=f"at least {shortest} samples (8 sigma)",
                    got=f"shape {shape}",
                    fix="lower the derivative filter's sigma or use a longer recording",
                )
            )
        if shape[1] < min_units:
            raise InputError(
                explain(f"{_WHERE}, {_name(names, w)}", expected=f"at least {min_units} units", got=f"shape {shape}")
            )


def check_times(
    times: Sequence[Tensor],
    *,
    lengths: Sequence[int],
    resample: bool = False,
    names: Sequence[str] | None = None,
    max_jitter: float = 0.1,
    max_difference: float = 0.01,
) -> float:
    """Refuse clocks that go back, do not match the traces, jitter or differ (E2); give the common interval.

    Parameters
    ----------
    times : sequence of Tensor, each shape (T_w,), float64
        Sample times, s.
    lengths : sequence of int
        Samples of each animal.
    resample : bool, default False
        Jitter and different intervals are allowed because the caller resamples.
    names : sequence of str, optional
        Animals in messages.
    max_jitter : float, default 0.1
        Largest deviation of an interval from the median, as a fraction.
    max_difference : float, default 0.01
        Largest difference of median intervals between animals, as a fraction.

    Returns
    -------
    float
        Median sampling interval, s.

    Examples
    --------
    >>> check_times([torch.arange(5.0) / 4], lengths=[5])
    0.25
    """
    medians = [_check_clock(t, lengths[w], resample, _name(names, w), max_jitter) for w, t in enumerate(times)]
    common = sorted(medians)[len(medians) // 2]
    worst = max(range(len(medians)), key=lambda w: abs(medians[w] - common))
    if abs(medians[worst] - common) > max_difference * common and not resample:
        raise InputError(
            explain(
                f"{_WHERE}, {_name(names, worst)}",
                expected=f"a sampling interval of {common:.6g} s (within 1 %)",
                got=f"{medians[worst]:.6g} s",
                fix="pass resample=True",
            )
        )
    return common


def _check_clock(t: Tensor, length: int, resample: bool, animal: str, max_jitter: float) -> float:
    """Check one clock and give its median interval."""
    where = f"{_WHERE}, {animal}"
    if t.ndim != 1 or t.shape[0] != length:
        raise InputError(explain(where, expected=f"{length} sample times", got=f"shape {tuple(t.shape)}"))
    steps = t.diff().double() if t.device.type != "mps" else t.diff()
    if not bool((steps > 0).all()):
        at = int((~(steps > 0)).nonzero()[0, 0]) + 1
        raise InputError(
            explain(where, expected="strictly increasing times", got=f"no increase at sample {at} of {length}")
        )
    median = float(steps.median())
    jitter = float(((steps - median).abs() / median).max())
    if jitter > max_jitter and not resample:
        raise InputError(
            explain(
                where,
                expected=f"regular sampling (jitter <= {max_jitter:.0%})",
                got=f"jitter {jitter:.0%} of {length} samples",
                fix="pass resample=True",
            )
        )
    return median


def identified(label: object) -> bool:
    """Whether a label is an identity: not None, empty, NaN or a number.

    Examples
    --------
    >>> [identified(label) for label in ("AVAL", None, "12", 7, " ")]
    [True, False, False, False, False]
    """
    if not isinstance(label, str) or not label.strip():
        return False
    try:
        float(label)
    except ValueError:
        return True
    return False


def check_labels(
    labels: Sequence[Sequence[object]], *, n_units: Sequence[int], names: Sequence[str] | None = None
) -> None:
    """Refuse label lists of the wrong length or with an identity twice in one animal (E3).

    Examples
    --------
    >>> check_labels([["AVAL", "AVAR", None, None]], n_units=[4])
    """
    for w, found in enumerate(labels):
        if len(found) != n_units[w]:
            raise InputError(
                explain(f"{_WHERE}, {_name(names, w)}", expected=f"{n_units[w]} labels", got=str(len(found)))
            )
        twice = sorted(label for label, n in Counter(str(x) for x in found if identified(x)).items() if n > 1)
        if twice:
            raise InputError(
                explain(
                    f"{_WHERE}, {_name(names, w)}",
                    expected="each identity once",
                    got=f"duplicates {', '.join(twice)}",
                    fix="merge or relabel them",
                )
            )


def shared_labels(labels: Sequence[Sequence[object]], *, min_animals: int | None = None) -> list[str]:
    """Identities found in enough animals, sorted; refuse when there are none (E4).

    Parameters
    ----------
    labels : sequence of sequences of str or None
        Labels of every animal.
    min_animals : int, optional
        Animals that must share an identity; half of them, rounded up, by default.

    Returns
    -------
    list of str

    Examples
    --------
    >>> shared_labels([["a", "b"], ["b", "c"], ["b", "a"]])
    ['a', 'b']
    """
    need = -(-len(labels) // 2) if min_animals is None else min_animals
    counts = Counter(label for found in labels for label in {str(x) for x in found if identified(x)})
    kept = sorted(label for label, n in counts.items() if n >= need)
    if not kept:
        histogram = Counter(counts.values())
        shown = ", ".join(f"{histogram[n]} in {n} of {len(labels)} animals" for n in sorted(histogram, reverse=True))
        raise InputError(
            explain(
                _WHERE,
                expected=f"identities shared by at least {need} animals",
                got=f"labels: {shown or 'none'}",
                fix="lower min_animals, or fit the animals one by one",
            )
        )
    return kept


def check_finite(
    traces: Sequence[Tensor],
    *,
    labels: Sequence[Sequence[object]] | None = None,
    on_bad: str = "raise",
    names: Sequence[str] | None = None,
    max_missing: float = 0.5,
) -> list[Tensor]:
    """Find units with infinities or too many missing samples (E5).

    Parameters
    ----------
    traces : sequence of Tensor, each shape (T_w, N_w)
        Traces; a column that is NaN throughout is an absent unit and fine.
    labels : sequence of sequences, optional
        Names of the units in messages.
    on_bad : {"raise", "drop"}
        Refuse, or warn and mark.
    names : sequence of str, optional
        Animals in messages.
    max_missing : float, default 0.5
        Largest fraction of NaN.

    Returns
    -------
    list of Tensor, each shape (N_w,), bool
        True for the units that are fine.

    Examples
    --------
    >>> [good.tolist() for good in check_finite([torch.zeros(9, 2)])]
    [[True, True]]
    """
    if on_bad not in ("raise", "drop"):
        raise InputError(explain(_WHERE, expected="on_bad='raise' or 'drop'", got=repr(on_bad)))
    good = [_usable(x, max_missing) for x in traces]
    found = [
        f"{_name(names, w)} ({_listed(~ok, None if labels is None else labels[w])})"
        for w, ok in enumerate(good)
        if not bool(ok.all())
    ]
    if found:
        text = explain(
            _WHERE,
            expected=f"finite traces with at most {max_missing:.0%} NaN",
            got=f"bad units in {'; '.join(found)}",
            fix="dropped" if on_bad == "drop" else "clean them or pass on_bad='drop'",
        )
        if on_bad == "raise":
            raise InputError(text)
        warnings.warn(text, TectumWarning, stacklevel=2)
    return good


def _usable(x: Tensor, max_missing: float) -> Tensor:
    """Units without infinities whose samples are mostly there, or that are absent."""
    missing = torch.isnan(x).to(torch.float32).mean(0)
    return ~torch.isinf(x).any(0) & ((missing <= max_missing) | torch.isnan(x).all(0))


def _listed(bad: Tensor, labels: Sequence[object] | None) -> str:
    """Names of marked units."""
    units = [i for i, flag in enumerate(bad.tolist()) if flag]
    return ", ".join(str(i) if labels is None or labels[i] is None else str(labels[i]) for i in units)


def warn_constant(
    scales: Sequence[Tensor], *, labels: Sequence[object] | None = None, names: Sequence[str] | None = None
) -> None:
    """Warn of units whose derivative has a zero 95th percentile: their affinity is zero.

    Parameters
    ----------
    scales : sequence of Tensor, each shape (N,)
        ``scale`` of `signed_derivative`.
    labels : sequence of str, optional
        Units.
    names : sequence of str, optional
        Animals.

    Examples
    --------
    >>> warn_constant([torch.ones(3)])
    """
    found = [f"{_name(names, w)} ({_listed(q == 0, labels)})" for w, q in enumerate(scales) if bool((q == 0).any())]
    if found:
        warnings.warn(f"{_WHERE}: constant traces have no affinity: {'; '.join(found)}", TectumWarning, stacklevel=2)


def check_alignment(
    align: str,
    *,
    lengths: Sequence[int],
    n_events: Sequence[int] | None = None,
    assume_aligned: bool = False,
    names: Sequence[str] | None = None,
) -> None:
    """Refuse animals that share no time axis (E7).

    Parameters
    ----------
    align : {"absolute", "stimulus", "event"}
        How the animals are brought to one time axis.
    lengths : sequence of int
        Samples of each animal.
    n_events : sequence of int, optional
        Stimuli or events of each animal; None when spontaneous.
    assume_aligned : bool, default False
        The caller vouches that sample t means the same in every animal.
    names : sequence of str, optional
        Animals in messages.

    Examples
    --------
    >>> check_alignment("absolute", lengths=[480, 480], assume_aligned=True)
    """
    if align not in ("absolute", "stimulus", "event"):
        raise InputError(explain(_WHERE, expected="align='absolute' | 'stimulus' | 'event'", got=repr(align)))
    counts = [0] * len(lengths) if n_events is None else list(n_events)
    if align != "absolute":
        empty = [_name(names, w) for w, n in enumerate(counts) if n == 0]
        if empty:
            raise InputError(
                explain(
                    _WHERE, expected=f"events in every animal for align={align!r}", got=f"none in {', '.join(empty)}"
                )
            )
        return
    if len(lengths) < 2 or any(counts):
        return
    why = "else every component describes one animal: fit them one by one, use align='event' with repeated events"
    if len(set(lengths)) > 1:
        raise InputError(
            explain(
                _WHERE,
                expected="one time axis for all animals (align='absolute')",
                got=f"no events and lengths {list(lengths)}",
                fix=f"{why}, or cut them to one protocol",
            )
        )
    if not assume_aligned:
        raise InputError(
            explain(
                _WHERE,
                expected="one time axis for all animals (align='absolute')",
                got=f"{len(lengths)} spontaneous recordings",
                fix=f"{why}, or pass assume_aligned=True",
            )
        )


def check_lags(lags: Sequence[int], blocks: Sequence[Blocks], *, names: Sequence[str] | None = None) -> None:
    """Refuse lags of the null that do not fit into a block (E11).

    Parameters
    ----------
    lags : sequence of int
        Lags, samples.
    blocks : sequence of sequences of (start, stop)
        Blocks of each animal.
    names : sequence of str, optional
        Animals in messages.

    Examples
    --------
    >>> check_lags((8, 20), [[(0, 480)]])
    """
    longest = max(lags)
    for w, spans in enumerate(blocks):
        short = [stop - start for start, stop in spans if stop - start <= longest]
        if short:
            raise InputError(
                explain(
                    f"{_WHERE}, {_name(names, w)}",
                    expected=f"blocks longer than the longest lag ({longest} samples)",
                    got=f"a block of {min(short)} samples",
                    fix="use longer windows or shorter lags",
                )
            )


def check_bytes(shape: Sequence[int], *, itemsize: int = 4, max_bytes: float = 8 * 2**30) -> None:
    """Refuse a tensor that is too large, before it is allocated (E12).

    Examples
    --------
    >>> check_bytes((480, 8, 780))
    """
    need = math.prod(shape) * itemsize
    if need > max_bytes:
        raise TooLargeError(
            explain(
                _WHERE,
                expected=f"an affinity tensor of at most {max_bytes / 2**30:.3g} GiB",
                got=f"shape {tuple(shape)} = {need / 2**30:.3g} GiB",
                fix="use a longer bin, fewer units, or streaming over pairs (PairSource.chunks)",
            )
        )
