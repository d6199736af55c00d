"""Online scores: against a loop over events and commands, by hand, and on bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

import tectum
from tectum import Intervals, evaluate
from tectum.core.errors import InputError

LABELS = ("left", "rest", "right")


@dataclass
class Said:
    """What a decision of a stream looks like."""

    time: float
    label: str | None
    proba: tuple[float, ...] = (0.2, 0.5, 0.3)
    latency_s: float = 0.01
    compute_s: float = 0.002
    flags: tuple[str, ...] = ()


EVENTS = Intervals.from_pairs([(2.0, 3.0), (5.0, 6.0), (8.0, 9.0)], label=["left", "right", "left"])


def said(*commands: tuple[float, str], until: float = 10.0, hop: float = 0.5) -> list[Said]:
    """Return a decision every hop, neutral but at the times given."""
    known = dict(commands)
    return [Said(t, known.get(t)) for t in np.arange(0.0, until + hop / 2, hop).round(3).tolist()]


def score(decisions: list[Said], events: Intervals = EVENTS, **options: Any) -> evaluate.OnlineScore:
    return evaluate.online_score(decisions, events, **{"labels": LABELS, "rest": ("rest",), **options})


@given(st.lists(st.integers(-1, 2), min_size=1, max_size=30))
def test_an_activation_is_where_a_command_begins(codes: list[int]) -> None:
    wanted = [c >= 0 and (k == 0 or codes[k - 1] != c) for k, c in enumerate(codes)]
    assert evaluate.activations(torch.tensor(codes)).tolist() == wanted


@settings(max_examples=100)
@given(
    fired=st.lists(st.integers(0, 60), max_size=20), bounds=st.lists(st.integers(0, 60), max_size=12, unique=True),
    tolerance=st.integers(0, 4),
)  # fmt: skip
def test_matching_equals_a_loop(fired: list[int], bounds: list[int], tolerance: int) -> None:
    fired, edges = sorted(fired), sorted(bounds)
    spans = list(zip(edges[::2], edges[1::2], strict=False))
    event = []
    for f in fired:
        begun = [k for k, (a, _) in enumerate(spans) if a <= f]
        event.append(begun[-1] if begun and f < spans[begun[-1]][1] + tolerance else -1)
    first = [next((i for i, e in enumerate(event) if e == k), -1) for k in range(len(spans))]
    as_tensor = lambda x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
    starts, stops = as_tensor([a for a, _ in spans]), as_tensor([b for _, b in spans])
    found = evaluate.match_events(as_tensor(fired), starts, stops, tolerance=float(tolerance))
    assert (found.first.tolist(), found.event.tolist()) == (first, event)


def test_scores_by_hand() -> None:
    made = said((2.5, "left"), (3.0, "left"), (5.5, "left"), (7.0, "right"), (9.5, "right"))
    found = score(made, deadline=0.001)
    assert found.given.tolist() == [0, 0, -1]  # right, wrong, missed: the command at 9.5 comes too late
    assert (found.wrong, found.missed) == (1, 1)
    assert found.true_positive_rate() == evaluate.clopper_pearson(1, 3)
    assert found.time_to_decision == 0.5
    assert found.false.tolist() == [2.0, 7.0]  # at 7.0 and 9.5; the run of 2.5 and 3.0 counts once
    assert found.false_per_minute().estimate == pytest.approx(2 / 7 * 60)
    assert found.bits_per_minute == evaluate.information_transfer_rate(1 / 3, 2, seconds=10 / 3) == 0.0
    assert (found.misses, len(found.when)) == (21, 21)
    assert found.latencies() == {"p50": 0.01, "p95": 0.01, "p99": 0.01, "max": 0.01}
    later = score(made, tolerance=0.6)
    assert later.given.tolist() == [0, 0, 2]
    assert later.false.tolist() == [1.0, pytest.approx(7.0 - 3 * 0.6)]


def test_holding_a_command_for_ever_finds_nothing() -> None:
    found = score([Said(k / 10, "left") for k in range(101)])
    assert found.given.tolist() == [-1, -1, -1]
    assert found.false[0] == 1


def test_all_right_gives_all_bits() -> None:
    found = score(said((2.5, "left"), (5.0, "right"), (8.5, "left")))
    assert found.true_positive_rate().estimate == 1.0
    assert found.bits_per_minute == pytest.approx(60 / (10 / 3))
    assert score(said((2.5, "left")), rest=("rest", "right")).bits_per_minute != found.bits_per_minute


def test_intervals_of_false_activations_are_those_of_poisson() -> None:
    found = score(said((0.5, "left"), (1.5, "right"), (4.0, "left"))).false_per_minute()
    from scipy.stats import poisson

    minutes = 7 / 60
    assert poisson.sf(2, found.low * minutes) == pytest.approx(0.025)
    assert poisson.cdf(3, found.high * minutes) == pytest.approx(0.025)
    assert score(said((2.5, "left"))).false_per_minute().low == 0.0


def test_windows_are_judged_by_the_event_around_them() -> None:
    proba = {0: (0.8, 0.1, 0.1), 1: (0.1, 0.8, 0.1), 2: (0.1, 0.1, 0.8)}
    made = [Said(t, None, proba[c]) for t, c in [(1.0, 1), (2.5, 0), (5.5, 0), (5.8, 2), (8.5, 0), (9.5, 0)]]
    found = score(made)
    assert found.truth.tolist() == [1, 0, 2, 2, 0, 1]
    assert found.window_accuracy() == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert score(made, rest=()).truth.tolist() == [-1, 0, 2, 2, 0, -1]


def test_latencies_and_flags_are_counted() -> None:
    made = said((2.5, "left"))
    for k, d in enumerate(made):
        d.latency_s, d.flags = 1e-3 * (k + 1), (("gap",) if k % 7 == 0 else ())
    found = score(made)
    assert found.latencies() == {"p50": 0.011, "p95": 0.020, "p99": 0.021, "max": 0.021}
    assert found.faults == {"gap": 3}
    assert "3 gap" in str(found)


def test_figures_report_and_file(tmp_path: Path) -> None:
    found = score(said((2.5, "left"), (5.5, "left")))
    for kind in found.plots():
        assert found.plot(kind).get_xlabel()
    tectum.Report("run").add(found).save(tmp_path / "run.html")
    found.save(tmp_path / "run")
    again = tectum.load(tmp_path / "run")
    assert str(again) == str(found)
    assert again.given.tolist() == found.given.tolist()


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: score([]), "expected decisions, and a tolerance >= 0 s, got 0 decisions"),
    "tolerance": (lambda: score(said(), tolerance=-1.0), "tolerance=-1.0"),
    "column": (lambda: score(said(), column="labels"), "did you mean 'label'"),
    "class": (lambda: score(said((2.5, "lefft"))), "got 'lefft'; did you mean 'left'"),
    "event": (lambda: score(said(), Intervals.from_pairs([(1.0, 2.0)], label=["up"])), "got 'up'"),
    "outside": (lambda: score(said(until=1.0)), "expected events while there were decisions, got none"),
    "logits": (lambda: evaluate.fit_temperature([[0.0, math.nan]], [0]), "finite logits"),
    "truth": (lambda: evaluate.fit_temperature([[0.0, 1.0]], [2]), "classes below 2, got classes up to 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs_are_refused(name: str) -> None:
    call, words = BAD[name]
    with pytest.raises(InputError) as error:
        call()
    assert words in str(error.value)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_temperature_is_where_the_loss_is_smallest(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(300, 4, generator=draw, dtype=torch.float64)
    y = torch.multinomial((z / 2.5).softmax(1), 1, generator=draw)[:, 0]

    def loss(log_t: float) -> float:
        return evaluate.log_loss(y, (z / math.exp(log_t)).softmax(1))

    wanted = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-10})
    assert evaluate.fit_temperature(z, y) == pytest.approx(math.exp(wanted.x), rel=1e-5)
    assert evaluate.fit_temperature(z.log_softmax(1), y) == pytest.approx(evaluate.fit_temperature(z, y))


def test_temperature_stays_in_its_bounds() -> None:
    z = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert evaluate.fit_temperature(z, [0, 1]) == pytest.approx(0.05, rel=0.1)
    assert evaluate.fit_temperature(z, [1, 0]) == pytest.approx(20.0)
