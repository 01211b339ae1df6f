"""The page: verdict, tables, charts, escaping, self-containment, a real browser; runs compared and refused."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from synthaug import cli
from synthaug.errors import DataError
from synthaug.evaluation.curves import curves
from synthaug.evaluation.privacy import MEMBERSHIP, NAMES
from synthaug.evaluation.results import Metric, Results, missing
from synthaug.evaluation.subgroups import GAP
from synthaug.images import encode, read
from synthaug.report.comparing import REFUSED, compare
from synthaug.report.figures import interval_chart
from synthaug.report.page import page, write_page
from synthaug.report.sections import number, sections
from synthaug.report.verdict import verdicts

EVIL = '<script>alert("$x^2$")</script>'
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def label(value: float, low: float, high: float, **more: Any) -> Metric:
    facts = {
        "finding": "pleural_effusion",
        "arm": "synthetic",
        "extractor": "embedded",
        "n": 400,
        "protocol": "p1",
    }
    return Metric(name="label accuracy", value=value, low=low, high=high, **(facts | more))


def results(*metrics: Metric, kind: str = "evaluate", **settings: Any) -> Results:
    return Results(kind=kind, protocol="evaluate-1", settings=settings, metrics=list(metrics))  # type: ignore[arg-type]


def whole() -> Results:
    facts: dict[str, Any] = {"arm": "synthetic", "extractor": "imagenet", "resize": "224 crop"}
    return results(
        label(0.91, 0.88, 0.94),
        label(0.83, 0.78, 0.88, arm="real"),
        label(0.5, 0.45, 0.55).model_copy(update={"name": "shuffled label accuracy"}),
        Metric(name="KID", value=0.2, low=0.15, high=0.25, floor=0.01, n=200, **facts),
        Metric(name="coverage", value=0.4, low=0.3, high=0.5, floor=0.93, n=200, **facts),
        missing("FID", "12 synthetic and 30 real films; 50 synthetic and 100 real ones are needed", **facts),
        Metric(name="power 8-32", subgroup="PA", value=0.9, floor=1.02, n=64, arm="synthetic"),
        Metric(
            name="MS-SSIM within a prompt", subgroup=f"a prompt {EVIL}", value=0.4, low=0.3, high=0.5, n=20
        ),
        Metric(name=NAMES[0], value=0.03, low=0.015, high=0.06, floor=0.01, n=400, **facts),
        Metric(
            name=MEMBERSHIP,
            value=0.52,
            low=0.49,
            high=0.55,
            n=700,
            note="no verdict: 700 real films",
            **facts,
        ),
        Metric(name=GAP, subgroup="sex=F", value=0.2, low=0.05, high=0.35, n=90, arm="real"),
        Metric(name=GAP, subgroup="sex=M", value=-0.2, low=-0.35, high=0.05, n=90, arm="real"),
        command=f"synthaug evaluate --synthetic {EVIL}",
        audit={"listed": [f"drawn/{EVIL}"]},
        real_part="validation",
    )


class Page(HTMLParser):
    """What a page asks for, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_every_text_is_escaped_and_nothing_lies_outside(tmp_path: Path) -> None:
    whole().write(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "synthetic.png").write_bytes(encode(np.zeros((8, 8), np.uint8)))
    text = write_page(tmp_path).read_text()
    found = Page(text)
    assert "script" not in found.tags and "onerror" not in text
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in found.links), found.links
    said = " ".join(found.words)
    assert said.count(EVIL) >= 3, "the user's text stands on the page as it was written"
    assert "https:" not in text and "http:" not in re.sub(r"http://www\.w3\.org/\S+", "", text)
    first = (tmp_path / "report.html").read_bytes()
    assert write_page(tmp_path).read_bytes() == first


def test_every_figure_and_setting_is_on_the_page() -> None:
    held = whole()
    said = " ".join(Page(page(held)).words)
    for metric in held.metrics:
        assert metric.name in said and (metric.reason or "") in said and (metric.note or "") in said
        if metric.value is not None:
            assert number(metric.value) in said
    assert "validation" in said and "synthaug evaluate --synthetic" in said and "evaluate-1" in said
    order = [s.title for s in sections(held.metrics)]
    assert order == ["Labels", "Resemblance", "Sharpness", "Diversity and text", "Privacy", "Subgroups"]
    assert sum(len(s.metrics) for s in sections(held.metrics)) == len(held.metrics)


def test_the_verdict_says_what_the_intervals_say() -> None:
    found = verdicts(whole())
    assert [v.level for v in found] == ["open", "bad", "bad", "open", "open", "open"]
    assert "0.910 (0.880 to 0.940); on real films 0.830" in found[0].text and "exceed 0.95" in found[0].text
    assert "told apart" in found[1].text and "coverage 0.400, of real films 0.930" in found[1].text
    assert "more than innocent films would" in found[2].text
    assert "no verdict: 700 real films" in found[3].text
    assert "1 of 2 gaps leave 0 out, the widest sex=F" in found[4].text
    assert "not measured here" in found[-1].text
    share = Metric(name=NAMES[0], arm="synthetic", value=0.0, low=0.0, high=0.107, floor=0.01, n=32)
    few, many = (verdicts(results(m))[0] for m in (share, share.model_copy(update={"high": 0.02})))
    assert few.level == "open" and "up to 0.107 is not ruled out" in few.text and many.level == "good"
    thin = [missing("KID", "too few", extractor=e, finding="edema") for e in ("imagenet", "embedded")]
    assert verdicts(results(*thin))[0].text == "Resemblance could not be measured: edema, too few."
    assert verdicts(results(label(0.97, 0.96, 0.99)))[0].level == "good"
    chance = verdicts(results(label(0.5, 0.45, 0.55), gated=["drawn"]))[0]
    assert (
        chance.level == "bad"
        and "after a quality gate" in chance.text
        and "ceiling is unknown" in chance.text
    )
    odd = label(0.7, 0.6, 0.8).model_copy(update={"name": "shuffled label accuracy"})
    assert "not chance" in verdicts(results(label(0.9, 0.8, 0.95), odd))[1].text
    gain = Metric(name="AUROC difference", arm="mixed - real", value=0.06, low=0.01, high=0.11, n=100)
    study = verdicts(results(gain, kind="benchmark"))
    assert [v.level for v in study] == ["good"] and "+0.060 (+0.010 to +0.110): a gain" in study[0].text


def test_a_chart_is_escaped_svg_in_the_pages_ink() -> None:
    metrics = [label(0.9, 0.8, 0.95), label(0.7, 0.6, 0.8, subgroup=EVIL)]
    chart = interval_chart(metrics, 0.5)
    root = ElementTree.fromstring(chart)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any("<script>" in (text or "") for text in texts) and "currentColor" in chart
    assert "#010203" not in chart and not [e for e in root.iter() if e.tag.endswith("script")]
    assert interval_chart(metrics, 0.5) == chart
    assert interval_chart([missing("FID", "none")]) == ""


def test_runs_of_one_protocol_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value, scale, protocol in (("a", 0.6, 1.0, "p1"), ("b", 0.8, 4.0, "p1")):
        cover = Metric(name="coverage", arm="synthetic", value=0.9 - value / 2, n=50, protocol="c")
        fid = Metric(name="FID", arm="synthetic", value=30 + scale, n=50, protocol=f"n{name}")
        held = results(
            label(value, value - 0.1, value + 0.1, protocol=protocol), cover, fid, guidance_scale=[scale]
        )
        held.write(tmp_path / name)
    assert cli.main(["report", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")]) == 0
    assert "report.html: written" in capsys.readouterr().out
    text = (tmp_path / "c" / "report.html").read_text()
    said = " ".join(Page(text).words)
    assert "0.600 (0.500 to 0.700)" in said and "0.800 (0.700 to 0.900)" in said
    assert "31.0" in said or "31.00" in said
    assert REFUSED in said, "FID of other reference films must not stand beside the first"
    assert "34.00" not in said and "svg" in Page(text).tags and "guidance scale" in said


def test_runs_of_other_protocols_or_kinds_are_refused(tmp_path: Path) -> None:
    results(label(0.6, 0.5, 0.7)).write(tmp_path / "a")
    other = results(label(0.6, 0.5, 0.7)).model_copy(update={"protocol": "evaluate-2"})
    other.write(tmp_path / "b")
    results(label(0.6, 0.5, 0.7), kind="benchmark").write(tmp_path / "c")
    with pytest.raises(DataError, match=r"b: protocol 'evaluate-2', a: 'evaluate-1'"):
        compare([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    with pytest.raises(DataError, match="kind 'benchmark'"):
        compare([tmp_path / "a", tmp_path / "c"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert cli.main(["report", str(tmp_path / "nothing")]) == 2
    assert cli.main(["report", str(tmp_path / "a"), "--out", str(tmp_path / "x")]) == 2


def test_evaluate_writes_the_page_from_the_command_line(
    tiny_shards: Path, tiny_nih: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    flags = [
        "--extractor",
        "pixels",
        "--cache",
        tmp_path / "cache",
        "--split",
        "all",
        "--device",
        "cpu",
        "--min-age",
        18,
    ]
    given = ["evaluate", "--synthetic", tiny_shards, "--real", tiny_nih, "--out", out, *flags]
    assert cli.main([str(word) for word in given]) == 0
    spoken = capsys.readouterr()
    assert "report.html: written" in spoken.out and "resemblance, pixels" in spoken.err
    held = Results.read(out)
    command = held.settings["command"]
    assert (
        command.startswith("synthaug evaluate --synthetic tiny-shards --real tiny-nih")
        and "--min-age 18" in command
    )
    assert str(tmp_path) not in (out / "results.json").read_text() + (out / "report.html").read_text()
    assert held.settings["real_films"] == 22 and "script" not in Page((out / "report.html").read_text()).tags


def shot(url: str, path: Path, width: int, *more: str) -> np.ndarray:
    """A screenshot of a page in a headless browser, grey (H, W)."""
    command = [BROWSER or "", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--disable-background-networking"]
    command += [
        f"--window-size={width},1400",
        f"--screenshot={path}",
        f"--user-data-dir={path.parent / 'profile'}",
        *more,
    ]
    subprocess.run([*command, url], check=True, capture_output=True, timeout=120)
    return read(path)


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
def test_a_browser_shows_the_page_light_dark_and_narrow(tmp_path: Path) -> None:
    labels = np.arange(200) % 2
    scores = (labels + np.linspace(0, 2, 200)) / 3
    drawn = [curves(scores, labels, finding="pleural_effusion", arm="real", extractor="embedded")]
    guided = [label(0.5 + g / 20, 0.4, 0.9, arm=f"guidance {g}") for g in (1, 4)]
    held = whole()
    settings = held.settings | {"curves": drawn}
    held.model_copy(update={"settings": settings, "metrics": [*held.metrics, *guided]}).write(tmp_path)
    url = write_page(tmp_path).as_uri()
    assert "Ranking" in (tmp_path / "report.html").read_text()
    light = shot(url, tmp_path / "light.png", 1000)
    dark = shot(url, tmp_path / "dark.png", 1000, "--blink-settings=preferredColorScheme=0")
    assert light[-1].mean() > 200 > 60 > dark[-1].mean(), "the page follows the reader's colours"
    assert (light < 90).mean() > 0.01, "there is ink on it"
    command = [BROWSER or "", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,1400"]
    command += ["--disable-background-networking"]
    measured = (
        (tmp_path / "report.html").read_text().replace("default-src 'none'", "default-src 'unsafe-inline'")
    )
    script = (
        "<script>document.title = JSON.stringify([innerWidth, document.documentElement.scrollWidth])</script>"
    )
    (tmp_path / "narrow.html").write_text(measured.replace("</body>", f"{script}</body>"))
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "narrow.html").as_uri()]
    dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    title = re.search(r"<title>(\[.*?\])</title>", dom)
    assert title is not None
    inner, needed = json.loads(title.group(1))
    assert needed <= inner, "a narrow window needs no sideways scrolling of the whole page"
