"""Hyper-parameters declared as data: rules and messages."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest

from tectum.core.errors import InputError
from tectum.core.params import check_params, param


@dataclass
class ParamToy:
    rank: int = param(3, int, low=1)
    rate: float = param(0.5, low=0, high=1, open_low=True)
    kind: str = param("nmf", options=("nmf", "pca"))
    order: int = param(1, options=(1, 2))
    name: str | None = param(None, str)
    flag: bool = param(False, bool)
    size: int | str = param("auto", (int, str), low=2)


GOOD = [
    {"rank": np.int64(4)}, {"rate": np.float32(0.5)}, {"rate": 1}, {"rate": np.int64(1)}, {"kind": np.str_("pca")},
    {"name": "x"}, {"name": None}, {"flag": True}, {"flag": np.bool_(True)}, {"size": 5}, {"size": "all"}, {"order": 2},
]  # fmt: skip
BAD = [
    ({"rank": 0}, "ParamToy.rank: expected a number in [1, inf], got 0"),
    ({"rank": 2.5}, "ParamToy.rank: expected int, got 2.5"),
    ({"rank": True}, "ParamToy.rank: expected int, got True"),
    ({"rank": None}, "ParamToy.rank: expected int, got None"),
    ({"rate": 0.0}, "ParamToy.rate: expected a number in (0, 1], got 0.0"),
    ({"rate": 1.1}, "ParamToy.rate: expected a number in (0, 1], got 1.1"),
    ({"rate": float("nan")}, "ParamToy.rate: expected a number in (0, 1], got nan"),
    ({"rate": "0.5"}, "ParamToy.rate: expected float, got '0.5'"),
    ({"kind": "nmff"}, "ParamToy.kind: expected one of ['nmf', 'pca'], got 'nmff'; did you mean 'nmf'?"),
    ({"kind": None}, "ParamToy.kind: expected one of ['nmf', 'pca'], got None"),
    ({"kind": np.array(["nmf", "pca"])}, "ParamToy.kind: expected one of"),
    ({"order": True}, "ParamToy.order: expected one of [1, 2], got True"),
    ({"name": 3}, "ParamToy.name: expected str, got 3"),
    ({"flag": 1}, "ParamToy.flag: expected bool, got 1"),
    ({"size": 1}, "ParamToy.size: expected a number in [2, inf], got 1"),
]


@pytest.mark.parametrize("values", [{}, *GOOD])
def test_good_values(values):
    check_params(ParamToy(**values))


@pytest.mark.parametrize(("values", "message"), BAD)
def test_bad_values(values, message):
    with pytest.raises(InputError, match="^" + re.escape(message)):
        check_params(ParamToy(**values))


def test_the_first_bad_value_in_order_is_named():
    with pytest.raises(InputError, match="ParamToy.rank"):
        check_params(ParamToy(kind="x", rank=-1))
