"""The neurons of C. elegans: the axis, what is known of each, and labels brought onto it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import worm as writer

import tectum
from tectum.core.errors import InputError, TectumWarning
from tectum.io.worm.names import UnknownNeuronError, axis, class_of, identify, neuron_table, neurons, plain


def test_the_axis_is_sorted_and_unique() -> None:
    names = axis()
    assert len(names) == len(set(names)) == 300
    assert names == sorted(names)
    assert names[:2] == ["ADAL", "ADAR"]
    assert names[-1] == "VD9"
    at = names.index("VA1")
    assert names[at : at + 5] == ["VA1", "VA10", "VA11", "VA12", "VA2"]
    assert set(axis(include_can=True)) - set(names) == {"CANL", "CANR"}
    assert axis(include_can=True) == sorted(axis(include_can=True))


def test_the_axis_is_that_of_the_packed_connectomes_and_of_the_packages() -> None:
    packed = tectum.datasets.load("celegans_connectomes")["white_1986_whole"]
    assert packed.units["name"].tolist() == axis()
    root = writer.package_root("wormneuroatlas")
    lines = (root / "wormneuroatlas" / "data" / "neuron_ids.txt").read_text().splitlines()
    theirs = {line.split()[-1] for line in lines} - {"AWCON", "AWCOFF"} | {"AWCL", "AWCR"}
    assert theirs == set(axis())


def test_types_are_those_of_the_toolbox() -> None:
    import csv

    root = writer.package_root("cect")
    with open(root / "cect" / "data" / "all_cell_info.csv", encoding="utf-8-sig") as stream:
        told = {plain(row["Cell name"]): row["Type"].lower() for row in csv.DictReader(stream)}
    words = {"pharyngeal": "pharyngeal", "inter": "layer|category|linker", "motor": "motor"}
    for name, neuron in neurons().items():
        if neuron.kind in words:
            assert re.match(rf".*({words[neuron.kind]})", told[name]), name
        else:
            assert not re.search("motor|interneuron|pharyngeal", told[name]), name


def test_the_table_of_neurons() -> None:
    table = neuron_table(["AVAL", "", "HSNL", "VC6", "DD1", "RIML"])
    assert table["class"].tolist() == ["AVA", "", "HSN", "VC", "DD", "RIM"]
    assert table["type"].tolist() == ["inter", "", "motor", "motor", "motor", "inter"]
    assert table["transmitter"].tolist() == ["ACh", "", "ACh+5-HT", "ACh", "GABA", "Glu+tyramine"]
    assert table["sex_shared"].tolist() == [True, False, False, False, True, True]
    counts = np.unique(neuron_table(axis())["type"], return_counts=True)
    assert dict(zip(*(c.tolist() for c in counts), strict=True)) == {
        "inter": 81, "motor": 116, "pharyngeal": 20, "sensory": 83,
    }  # fmt: skip
    assert (~neuron_table(axis())["sex_shared"]).sum() == 8


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("AVAL", "AVAL"), (" aval ", "AVAL"), ("AS01", "AS1"), ("AS1", "AS1"), ("AS10", "AS10"), ("VD10", "VD10"),
        ("vb02", "VB2"), ("DB1/3", "DB1"), ("DB3/1", "DB3"), ("VC05", "VC5"), ("IL1DL", "IL1DL"), ("IL01DL", "IL1DL"),
        ("AVFL/R", ""), ("RMF?", ""), ("SMBD", ""), ("SMBD?", ""), ("AWCON", ""), ("AWCOFF", ""), ("CANL", ""),
        ("", ""), (None, ""), ("17", ""), (17, ""), (np.nan, ""), ("merge", ""), ("roi_1", ""), ("AS12", ""),
        ("VD100", ""), (np.zeros(3), ""),
    ],
)  # fmt: skip
def test_every_rule_of_names(label: Any, name: str) -> None:
    assert identify([label]).names.tolist() == [name]


def test_what_is_told_of_labels_without_a_name() -> None:
    found = identify(["RMF?", "AVFL/R", "XYZ", "AWCON", "AVAL", "AVAL", "", "4"])
    assert found.ambiguous == ("RMF?", "AVFL/R")
    assert found.unmatched == ("XYZ",)
    assert found.undeclared == ("AWCON",)
    assert found.duplicates == ("AVAL",)
    assert found.classes.tolist() == ["", "", "", "", "AVA", "", "", ""]
    kept = identify(["RMF?", "SMBD?", "URAV", "AVFL/R", "IL2", "XYZ"], ambiguous="class")
    assert kept.classes.tolist() == ["RMF", "SMB", "URA", "AVF", "IL2", ""]
    assert (kept.names == "").all()
    assert class_of("") == ""


def test_the_surest_of_two_keeps_a_name() -> None:
    sure = np.array([2.0, 5.0, np.nan, 5.0])
    found = identify(["AVAL", "AVAL", "AVAL", "AVAL"], confidence=sure)
    assert found.names.tolist() == ["", "AVAL", "", ""]
    assert identify(["AVAL", "AVAL"]).names.tolist() == ["AVAL", ""]
    with pytest.warns(TectumWarning, match="worm: AVAL named more than once; the surest"):
        found.check("worm")


@pytest.mark.parametrize(("side", "on", "off"), [("L", "AWCL", "AWCR"), ("R", "AWCR", "AWCL")])
def test_awc_needs_to_be_told(side: Any, on: str, off: str) -> None:
    assert identify(["AWCON", "AWC_OFF"], awc_on=side).names.tolist() == [on, off]
    with pytest.warns(TectumWarning, match="AWCON, AWCOFF left unidentified; pass awc_on='L' or 'R'"):
        identify(["AWCON", "AWCOFF"]).check("worm")


def test_can_only_where_asked_for() -> None:
    assert identify(["CANL"], include_can=True).names.tolist() == ["CANL"]
    assert identify(["CANL"]).unmatched == ("CANL",)


def test_strict() -> None:
    with pytest.raises(
        UnknownNeuronError, match=r"worm: expected names of neurons, got AVALX; did you mean 'AVAL'"
    ) as e:
        identify(["AVALX"]).check("worm", strict=True)
    assert isinstance(e.value, KeyError)
    assert isinstance(e.value, InputError)


def test_guesses_are_those_of_the_release() -> None:
    """The most alike free name, the first of equals; or left before right."""
    free = [n for n in axis() if n != "AVAL"]
    alike = [sum(a == b for a, b in zip("RMF", n, strict=False)) for n in free]
    assert identify(["AVAL", "RMF?"], ambiguous="guess").names.tolist() == ["AVAL", free[int(np.argmax(alike))]]
    assert identify(["AVAL", "AVAL"], ambiguous="guess").names.tolist() == ["AVAL", "ADAL"]  # not AVAR
    guessed = identify(["AVA", "AVA", "AVA", "12", ""], ambiguous="guess", guess="left_first")
    assert guessed.names.tolist() == ["AVAL", "AVAR", "", "", ""]


@pytest.mark.parametrize("options", [{"ambiguous": "drop"}, {"awc_on": "left"}, {"guess": "random"}])
def test_unknown_rules(options: Any) -> None:
    with pytest.raises(InputError, match=f"{next(iter(options))}: expected one of"):
        identify(["AVAL"], **options)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.one_of(st.sampled_from(axis()), st.text(max_size=6), st.none()), max_size=30))
def test_names_are_canonical_and_occur_once(labels: list[Any]) -> None:
    names = identify(labels).names.tolist()
    assert len(names) == len(labels)
    given = [n for n in names if n]
    assert len(given) == len(set(given))
    assert set(given) <= set(axis())
    assert set(given) == {plain(x) for x in labels} & set(axis())
