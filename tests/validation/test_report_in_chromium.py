"""The page in a real browser, opened from disk."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_sample import NASTY, measure, whole
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from linzoo.validation.report.page import write_report

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
PAIRS = 6

# For each element with text of its own: what it says, and the contrast of its colour with what lies behind it
# (WCAG 2.2, relative luminance and contrast ratio).
CONTRASTS = """
const pen = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
const read = colour => {
  pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
  return [...pen.getImageData(0, 0, 1, 1).data].map(part => part / 255);
};
const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
const behind = element => {
  if (!element) return [1, 1, 1, 1];
  const own = read(getComputedStyle(element).backgroundColor);
  return own[3] === 1 ? own : over(own, behind(element.parentElement));
};
const luminance = colour => colour.slice(0, 3)
  .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
for (const details of document.querySelectorAll("details")) details.open = true;
return [...document.body.querySelectorAll("*")]
  .filter(element => !element.closest("script, style")
    && [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim()))
  .map(element => {
    const style = getComputedStyle(element), ground = behind(element);
    const ink = over(read(element instanceof SVGElement ? style.fill : style.color), ground);
    const [dark, light] = [luminance(ink), luminance(ground)].sort((a, b) => a - b);
    return [element.textContent.trim().slice(0, 40), (light + 0.05) / (dark + 0.05)];
  });
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        missing = "Chromium is missing: apt-get install chromium chromium-driver (Debian's packages)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")  # selenium must not fetch a driver
        opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a report #1 with a space")
    sample = whole(folder, PAIRS)
    sample["measures"].append(
        measure("nasty", "failed", title=NASTY, detail=NASTY, culprits=[NASTY, "x" * 200, "a." * 90])
    )
    sample["measures"][1]["pictures"][0]["title"] = NASTY
    sample["lock"] = {"teacher": {"spec": "mini", "digest": "0123456789abcdef" * 12}}
    return write_report(sample, folder)


def show(browser: webdriver.Chrome, page: Path, *, width: int = 1280, scheme: str = "light") -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())


def first_stage(browser: webdriver.Chrome) -> tuple[Any, Any]:
    stage = browser.find_element(By.CSS_SELECTOR, ".stage")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", stage)
    return stage, stage.find_element(By.CSS_SELECTOR, "input[type=range]")


def student_share(stage: Any) -> float:
    """The share of a stage's pixels that show the student's blue picture, not the teacher's red one."""
    pixels = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(stage.screenshot_as_base64))).convert("RGB")
    ).astype(int)
    blue = (pixels[..., 2] > 180) & (pixels[..., 0] < 80)
    red = (pixels[..., 0] > 180) & (pixels[..., 2] < 80)
    assert (blue | red).mean() > 0.85  # the rest are labels and the line
    return blue.sum() / (blue | red).sum()


def test_it_opens_without_complaint_and_asks_nothing_of_any_network(
    browser: webdriver.Chrome, page: Path
) -> None:
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    show(browser, page)
    widths = browser.execute_async_script(
        "const done = arguments[0], images = [...document.images];"
        "Promise.all(images.map(each => each.decode())).then(() => done(images.map(each => each.naturalWidth)), done)"
    )
    assert widths == [64] * 2 * PAIRS
    assert browser.get_log("browser") == []
    events = [json.loads(each["message"])["message"] for each in browser.get_log("performance")]
    asked = [
        each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"
    ]
    assert page.as_uri() in asked
    assert {url.split(":")[0] for url in asked} == {"file", "data"}
    assert [url for url in asked if url.startswith("file:")] == [page.as_uri()]
    assert [each for each in events if each["method"] == "Network.loadingFailed"] == []


def test_the_browser_itself_would_refuse_the_network(browser: webdriver.Chrome, page: Path) -> None:
    show(browser, page)
    refused = browser.execute_async_script(
        "const done = arguments[0]; const image = new Image();"
        "document.addEventListener('securitypolicyviolation', event => done(event.effectiveDirective));"
        "image.onload = () => done('loaded'); image.src = 'http://127.0.0.1:9/picture.png';"
    )
    assert refused == "img-src"
    browser.get_log("browser")  # that was said on purpose


@pytest.mark.parametrize("width", [1280, 360])
def test_the_slider_follows_keys_and_pointer(browser: webdriver.Chrome, page: Path, width: int) -> None:
    show(browser, page, width=width)
    stage, slider = first_stage(browser)
    student = stage.find_element(By.CSS_SELECTOR, ".student")
    assert NASTY[:20] in str(slider.get_attribute("aria-label"))
    assert student_share(stage) == pytest.approx(0.5, abs=0.03)

    browser.execute_script("arguments[0].focus()", slider)
    slider.send_keys(Keys.ARROW_RIGHT * 10)
    assert student.value_of_css_property("clip-path") == "inset(0px 0px 0px 60%)"
    assert slider.get_attribute("aria-valuetext") == "60 % teacher, 40 % student"
    assert student_share(stage) == pytest.approx(0.4, abs=0.03)
    slider.send_keys(Keys.HOME)
    assert student_share(stage) > 0.97
    slider.send_keys(Keys.END)
    assert student_share(stage) < 0.03

    reach = stage.size["width"] * 0.4
    ActionChains(browser).move_to_element(slider).click_and_hold().move_by_offset(
        -int(reach), 0
    ).release().perform()
    assert int(str(slider.get_attribute("value"))) == pytest.approx(10, abs=2)
    assert student_share(stage) == pytest.approx(0.9, abs=0.04)
    others = browser.execute_script(
        "return [...document.querySelectorAll('.stage input')].slice(1).map(each => each.value)"
    )
    assert others == ["50"] * (PAIRS - 1)


def test_the_slider_follows_a_finger(browser: webdriver.Chrome, page: Path) -> None:
    show(browser, page, width=360)
    stage, slider = first_stage(browser)
    box = browser.execute_script("return arguments[0].getBoundingClientRect().toJSON()", slider)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        middle = box["y"] + box["height"] / 2
        for kind, share in (("touchStart", 0.5), ("touchMove", 0.6), ("touchMove", 0.8), ("touchEnd", None)):
            points = [] if share is None else [{"x": box["x"] + share * box["width"], "y": middle}]
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    finally:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    assert int(str(slider.get_attribute("value"))) == pytest.approx(80, abs=2)
    assert student_share(stage) == pytest.approx(0.2, abs=0.04)


@pytest.mark.parametrize("width", [360, 700, 1280])
def test_nothing_is_wider_than_the_screen(browser: webdriver.Chrome, page: Path, width: int) -> None:
    show(browser, page, width=width)
    seen, inner = browser.execute_script(
        "for (const each of document.querySelectorAll('details')) each.open = true;"
        "return [document.documentElement.scrollWidth, window.innerWidth]"
    )
    assert inner == width
    assert seen <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(browser: webdriver.Chrome, page: Path, scheme: str) -> None:
    show(browser, page, scheme=scheme)
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) > 600) == (scheme == "light")
    found = browser.execute_script(CONTRASTS)
    assert len(found) > 150
    assert {"Failed", "teacher", "down_blocks.0.0"} <= {text for text, _ in found}
    assert [(text, round(ratio, 2)) for text, ratio in found if ratio < 4.5] == []


def test_details_open_by_keyboard(browser: webdriver.Chrome, page: Path) -> None:
    show(browser, page)
    summary = browser.find_element(By.XPATH, "//summary[text()='linzoo.lock.json']")
    lock = browser.find_element(By.XPATH, "//details[summary[text()='linzoo.lock.json']]//pre")
    assert not lock.is_displayed()
    browser.execute_script("arguments[0].focus()", summary)
    summary.send_keys(Keys.ENTER)
    assert lock.is_displayed()
    assert '"spec": "mini"' in lock.text


def test_without_scripts_all_but_the_slider_is_there(browser: webdriver.Chrome, page: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, page)
        stage = browser.find_element(By.CSS_SELECTOR, ".stage")
        teacher, student = stage.find_elements(By.TAG_NAME, "img")
        assert teacher.is_displayed()
        assert student.is_displayed()
        assert student.rect["x"] >= teacher.rect["x"] + teacher.rect["width"]
        assert student_share(stage) == pytest.approx(0.5, abs=0.02)
        assert not stage.find_element(By.TAG_NAME, "input").is_displayed()
        assert "Drag over a picture" not in browser.find_element(By.TAG_NAME, "body").text
        assert browser.find_element(By.CSS_SELECTOR, ".chart svg").size["height"] > 100
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
