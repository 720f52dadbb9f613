"""Tests of the page of a run, also in a browser where there is one."""

import dataclasses
import html.parser
import json
import re
import shutil
import sys

import numpy as np
import pytest

from multimix_jax.commands import report
from multimix_jax.errors import UsageError
from multimix_jax.reporting import page
from multimix_jax.runs import record
from multimix_jax.runs.picture_files import Gallery, write_gallery
from tests.finished_runs import write_run

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
DRIVER = shutil.which("chromedriver") or ""


class Elements(html.parser.HTMLParser):
    """Collects what a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def write_page(run):
    path = run / "report.html"
    page.write(record.read_run(run), path)
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_page(write_run(tmp_path_factory.mktemp("runs"), "multimix", 3))


def test_it_needs_nothing_but_itself(written):
    elements = Elements(written.read_text(encoding="utf-8"))
    policy = next(a["content"] for a in elements.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    sources = [
        value for _, a in elements.tags for key, value in a.items() if key in ("src", "srcset")
    ]
    assert all(source.startswith("data:image/") for source in sources)
    pictures = [source for source in sources if source.startswith("data:image/webp;base64,")]
    assert len(pictures) == 2 * 3 + 3 * 2  # image, truth, prediction; image, saliency
    assert all(a["href"].startswith("#") for a in elements.all("a"))
    assert not elements.all("link")
    assert not [a for a in elements.all("img") if not a["alt"]]


def test_what_it_tells(written):
    elements = Elements(written.read_text(encoding="utf-8"))
    text = " ".join(elements.text)
    assert "multimix, 100 class labels and 10 masks, seed 3: 40 steps" in text
    results = record.read_run(written.parent).results
    assert f"{results['best']['jsrt']['dice']['mean']:.3f} " in elements.text
    for name in ("optimizer.name", "accepted, of all", "chex: ROC", "training: loss"):
        assert name in text, name
    assert "jsrt: a word of caution" in text
    anchors = [a["href"][1:] for a in elements.all("a")]
    assert set(anchors) <= {a["id"] for _, a in elements.tags if "id" in a}


def test_warnings_and_figures_of_each_class(tmp_path):
    run = write_run(tmp_path, "enc", 0)
    results = json.loads((run / "results.json").read_text())
    entry = results["best"]["chex"]["auroc"]
    for name in ("f1_well", "f1_ill", "average_precision_well", "average_precision_ill"):
        results["best"]["chex"][name] = entry | {"mean": 0.123 if name.endswith("ill") else 0.5}
    (run / "results.json").write_text(json.dumps(results))
    elements = Elements(write_page(run).read_text(encoding="utf-8"))
    assert "jsrt: a word of caution" in elements.text
    assert {"chex (internal test set), classes, each", "best, well", "average precision"} < set(
        elements.text
    )
    assert elements.text.count("0.123 ") == 2 and "f1 ill" not in elements.text


@pytest.mark.parametrize(("system", "missing"), [("unet", "ROC"), ("enc", "Dice")])
def test_one_task_alone(tmp_path, system, missing):
    text = " ".join(Elements(write_page(write_run(tmp_path, system, 0)).read_text()).text)
    assert missing not in text.partition("(() =>")[0]


def test_names_do_not_become_markup(tmp_path):
    """Ids, names of classes, values of the config: in texts, attributes and charts."""
    run = write_run(tmp_path, "multimix", 0)
    evil = """x"'><img src=x onerror=alert(1)>&amp;</script></svg>{{ 7 * 7 }}"""
    table = (run / "per_image.csv").read_text()
    table = table.replace("l0,", f"{evil},").replace("probability_ill", f"probability_{evil}")
    (run / "per_image.csv").write_text(table)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"dtype": evil, "system": evil}))
    gallery = record.read_run(run).gallery
    lungs = [dataclasses.replace(gallery.sets["jsrt"][0], id=evil), gallery.sets["jsrt"][1]]
    write_gallery(run, Gallery(gallery.checkpoint, {**gallery.sets, "jsrt": lungs}))
    elements = Elements(write_page(run).read_text())
    assert elements.text.count(evil) >= 2  # the title of a card, and a field of the config
    assert {f"best, {evil}", f"probability of {evil}"} <= set(elements.text)
    assert f"image of {evil}" in [a["alt"] for a in elements.all("img")]
    assert any(f"best, {evil} from" in a["alt"] for a in charts_of(elements))
    assert len(elements.all("img")) == 2 * 3 + 3 * 2 + 5 and len(elements.all("script")) == 1
    assert not [a for _, a in elements.tags if "onerror" in a]


def charts_of(elements):
    return [a for a in elements.all("img") if a["src"].startswith("data:image/svg+xml;base64,")]


def test_charts_are_read_out(written):
    charts = charts_of(Elements(written.read_text(encoding="utf-8")))
    assert len(charts) == 2 + 2 + 1
    assert any(a["alt"].startswith("training: loss: loss from 1 to ") for a in charts)
    assert len({a["alt"] for a in charts}) == len(charts)


def test_a_long_history_is_shown_to_its_end(tmp_path):
    run = write_run(tmp_path, "unet", 0)
    lines = [{"split": "train", "step": n, "loss": n / 2} for n in range(2 * page.POINTS + 1)]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    elements = Elements(write_page(run).read_text(encoding="utf-8"))
    (text,) = [a["alt"] for a in charts_of(elements) if a["alt"].startswith("training: loss")]
    assert text == "training: loss: loss from 0.5 to 150"


def test_nothing_has_the_name_of_another(written):
    elements = Elements(written.read_text(encoding="utf-8"))
    ids = [a["id"] for _, a in elements.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_the_page_is_the_same_every_time(written):
    first = written.read_bytes()
    assert write_page(written.parent).read_bytes() == first


def test_a_run_without_pictures_says_how_to_get_them(tmp_path):
    run = write_run(tmp_path, "unet", 0)
    (run / "gallery.npz").unlink()
    with pytest.raises(UsageError, match="gallery.npz is missing; evaluate .* with --mode=eval"):
        write_page(run)


def test_pictures_of_which_nothing_is_known(tmp_path):
    """Stand beside those with a mask, and say so."""
    run = write_run(tmp_path, "unet", 0)
    table = (run / "per_image.csv").read_text()
    (run / "per_image.csv").write_text(re.sub(r"(best,jsrt,l5),[\d.]+", r"\1,", table))
    gallery = record.read_run(run).gallery
    known, unknown = gallery.sets["jsrt"]
    unknown = dataclasses.replace(unknown, truth=None)
    write_gallery(run, Gallery(gallery.checkpoint, {"jsrt": [known, unknown]}))
    elements = Elements(write_page(run).read_text(encoding="utf-8"))
    assert elements.text.count("truth") == 1 + 1  # that of the first, and that there is none
    assert elements.text.count("unknown") == 1
    cards = [a for a in elements.all("li") if "data-set" in a]
    assert ["data-dice" in a for a in cards] == [True, False]


def test_pictures_that_are_damaged_or_of_another_run(tmp_path):
    run = write_run(tmp_path, "unet", 0)
    whole = (run / "gallery.npz").read_bytes()
    (run / "gallery.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="gallery.npz is damaged"):
        write_page(run)
    (run / "gallery.npz").write_bytes(whole)
    (run / "per_image.csv").write_text((run / "per_image.csv").read_text().replace("l5,", "other,"))
    with pytest.raises(UsageError, match="does not belong to per_image.csv"):
        write_page(run)
    assert not (run / "report.html").exists()


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments), "--html"])
    report.main()


def test_command(tmp_path, monkeypatch, capsys):
    runs = [write_run(tmp_path, "unet", seed) for seed in (0, 1)]
    command(monkeypatch, *runs)
    assert capsys.readouterr().out.split() == [str(run / "report.html") for run in runs]
    command(monkeypatch, tmp_path, "--out", tmp_path / "pages")
    assert sorted(p.name for p in (tmp_path / "pages").iterdir()) == ["unet_0.html", "unet_1.html"]
    with pytest.raises(SystemExit, match="several runs would be one file"):
        command(monkeypatch, tmp_path, "--out", tmp_path / "one.html")
    assert not (tmp_path / "one.html").exists()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not BROWSER or not DRIVER:
        pytest.skip("needs Chromium and its driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        *("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-dev-shm-usage"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def show(browser, path, width=1280, scheme="light"):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(path.as_uri())


def shown_cards(browser):
    cards = browser.find_elements("css selector", "#cards > li")
    return [card.text.splitlines()[0] for card in cards if card.is_displayed()]


def choose(browser, name, text):
    select = pytest.importorskip("selenium.webdriver.support.select").Select
    select(browser.find_element("id", name)).select_by_visible_text(text)


def test_sorting_and_choosing(browser, written):
    show(browser, written)
    assert shown_cards(browser) == ["l0", "l5", "c0", "c1", "c2"]
    images = record.read_run(written.parent).images
    column = dict(zip(images["best", "jsrt"].ids, images["best", "jsrt"].columns["dice"]))
    lungs = sorted(["l0", "l5"], key=column.__getitem__)
    choose(browser, "sort", "Dice, lowest first")
    assert shown_cards(browser) == [*lungs, "c0", "c1", "c2"]
    choose(browser, "sort", "Dice, highest first")
    assert shown_cards(browser)[:2] == lungs[::-1]
    choose(browser, "set", "chex")
    choose(browser, "sort", "class error, highest first")
    chests = images["best", "chex"]
    wrong = {
        id_: 1 - chests.columns[f"probability_{chests.class_names[label]}"][row]
        for row, (id_, label) in enumerate(zip(chests.ids, chests.labels))
    }
    assert shown_cards(browser) == sorted(["c0", "c1", "c2"], key=lambda id_: -wrong[id_])
    assert browser.find_element("id", "count").text == "3 of 5 pictures"


def test_by_keyboard(browser, written):
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    show(browser, written)
    first = browser.find_element("css selector", "#cards button")
    for _ in range(100):  # it can be reached by the tabulator alone
        browser.switch_to.active_element.send_keys(keys.TAB)
        if browser.switch_to.active_element == first:
            break
    assert browser.switch_to.active_element == first
    first.send_keys(keys.ENTER)
    lightbox = browser.find_element("id", "lightbox")
    assert lightbox.is_displayed()
    title = lambda: lightbox.find_element("tag name", "h3").text
    assert title() == "l0"
    browser.switch_to.active_element.send_keys(keys.ARROW_RIGHT)
    assert title() == "l5"
    browser.switch_to.active_element.send_keys(keys.ARROW_LEFT, keys.ARROW_LEFT)
    assert title() == "l0"  # there is none before the first
    browser.switch_to.active_element.send_keys(keys.ESCAPE)
    assert not lightbox.is_displayed()
    assert browser.switch_to.active_element == first


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_sticks_out(browser, written, width):
    show(browser, written, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def luminance(color):
    """Relative, of 'rgb(r, g, b)', as WCAG 2 defines it."""
    levels = np.array([float(v) for v in color[color.index("(") + 1 : -1].split(",")[:3]]) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_legible_in_light_and_dark(browser, written, scheme):
    show(browser, written, scheme=scheme)
    css = lambda name, what: browser.find_element("css selector", name).value_of_css_property(what)
    page_color = luminance(css("body", "background-color"))
    assert (page_color > 0.5) == (scheme == "light")
    for name in ("body", "a[href='#results']", "caption", "td small", ".truth", ".predicted", "dt"):
        light, dark = sorted([luminance(css(name, "color")), page_color], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, name


def test_nothing_is_asked_for_and_nothing_fails(browser, written):
    show(browser, written)
    browser.get_log("browser")
    show(browser, written)
    assert browser.get_log("browser") == []
    ask = "return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))"
    assert browser.execute_script(ask) == []
    loaded = "return [...document.images].every(image => image.complete && image.naturalWidth)"
    assert browser.execute_script(loaded)
