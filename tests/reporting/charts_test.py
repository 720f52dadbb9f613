"""Tests of multimix_jax.reporting.charts."""

from xml.etree import ElementTree

import numpy as np
import pytest

from multimix_jax.reporting import charts
from multimix_jax.reporting.charts import Curve

EVIL = "<script>alert(1)</script> $\\frac & _x"


def curves(*names):
    return [Curve(name, np.arange(4.0), np.arange(4.0) + n) for n, name in enumerate(names)]


def drawn(title, lines, **options):
    return charts.svg(charts.chart(lines, x="step", **options), charts.in_words(title, lines))


def test_a_chart_is_the_same_every_time():
    assert drawn("loss", curves("a", "b")) == drawn("loss", curves("a", "b"))


def test_a_chart_is_one_element_that_is_read_out():
    root = ElementTree.fromstring(drawn("loss", curves("a", "b")))
    assert (root.tag, root.get("role")) == ("svg", "img")
    assert root.get("aria-label") == "loss: a from 0 to 3; b from 1 to 4"
    assert "step" in "".join(root.itertext())  # text stays text
    assert not [e for e in root.iter() if e.tag in ("style", "metadata", "script")]
    links = [value for e in root.iter() for key, value in e.items() if key.endswith("href")]
    assert all(link.startswith("#") for link in links)


def test_charts_share_no_names():
    ids = [
        {e.get("id") for e in ElementTree.fromstring(drawn(title, curves("a"))).iter()} - {None}
        for title in ("loss", "score")
    ]
    assert ids[0] and not ids[0] & ids[1]


def test_names_do_not_become_markup():
    figure = charts.chart(curves(EVIL, "b"), x="$x<b>", y=EVIL)
    root = ElementTree.fromstring(charts.svg(figure, charts.in_words(EVIL, curves(EVIL))))
    assert EVIL in [e.text for e in root.iter("text")]
    assert root.get("aria-label").startswith(f"{EVIL}: {EVIL} from")
    assert not list(root.iter("script"))


@pytest.mark.parametrize("y", [[np.nan, 1.0, np.inf], [np.nan] * 3, [2.0, 2.0, 2.0]])
def test_what_is_not_finite_is_left_out(y):
    lines = [Curve("a", np.arange(3.0), np.array(y)), *curves("b")]
    assert drawn("loss", lines, marked=True, shares=True).startswith("<svg")


def test_control_characters_do_no_harm():
    assert "a\N{REPLACEMENT CHARACTER}b" in charts.svg(
        charts.chart(curves("c"), x="a\x01b"), "loss"
    )


def test_legend_and_chart_agree():
    svg = drawn("loss", curves(*"abcdefg"))
    for index in range(7):
        color = charts.css_of_line(index).partition(";")[0]
        assert color.removeprefix("stroke: ") in svg
    assert charts.css_of_line(0) == charts.css_of_line(6) != charts.css_of_line(1)
