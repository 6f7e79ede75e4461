"""A person's way through the region editor, in a real JupyterLab page in headless
Chromium.

Not part of the ordinary suite: it needs chromium, chromedriver and selenium, and
about a minute.
    GLIOMA_BROWSER=1 python -m pytest tests/test_browser_segmentation.py
Screenshots are kept in the folder GLIOMA_SCREENSHOTS, where that is set.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    os.environ.get("GLIOMA_BROWSER") != "1",
    reason="browser test: set GLIOMA_BROWSER=1 to run it",
)

CELL = """
import io, json, numpy as np, SimpleITK as sitk
from glioma_repro.patients.phantom import phantom
from glioma_repro.images.contour import simulate_region
from glioma_repro.images.region_editor import RegionEditor
few = phantom("phantom:patients=12")
truth = sitk.GetArrayFromImage(few.mask(few.ids[0])) > 0
wanted = simulate_region(truth, 3, "browser")
editor = RegionEditor(few, regions="regions")
editor.slice.value = wanted.slice
editor.figure.savefig(io.BytesIO())  # lays the figure out
corners = editor.axis.transData.transform(wanted.polygon[::2]) / (editor.figure.get_size_inches() * editor.figure.dpi)
open("corners.json", "w").write(json.dumps([[x, 1 - y] for x, y in corners.tolist()]))
editor.show()
"""


def _wait(condition, seconds, what):
    "Waits until something is there."
    end = time.time() + seconds
    while time.time() < end:
        try:
            if found := condition():
                return found
        except Exception:
            pass
        time.sleep(0.5)
    raise AssertionError(f"{what} did not appear in {seconds} s")


def test_draw_shrink_save(tmp_path):
    """Eight clicks, Shrink, Save: the contour is drawn and the file holds the corners
    that were clicked.
    """
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="the browser test needs selenium"
    )
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    chromium, driver = (
        shutil.which("chromium") or shutil.which("google-chrome"),
        shutil.which("chromedriver"),
    )
    if not chromium or not driver:
        pytest.skip("no chromium or chromedriver on this machine")
    import nbformat

    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(CELL.strip())],
            metadata={
                "kernelspec": {
                    "name": "python3",
                    "display_name": "python3",
                    "language": "python",
                }
            },
        ),
        tmp_path / "editor.ipynb",
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            f"--port={port}",
            "--IdentityProvider.token=",
            "--ServerApp.password=",
            "--allow-root",
            f"--ServerApp.root_dir={tmp_path}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=open(tmp_path / "server.log", "w"),
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--window-size=1400,1000",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--no-proxy-server",
    ):
        options.add_argument(word)
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))

    def picture(name):
        if os.environ.get("GLIOMA_SCREENSHOTS"):
            browser.save_screenshot(
                str(Path(os.environ["GLIOMA_SCREENSHOTS"]) / f"{name}.png")
            )

    try:
        _wait(
            lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5),
            120,
            "the server",
        )
        browser.get(f"http://127.0.0.1:{port}/lab/tree/editor.ipynb?reset")
        _wait(
            lambda: browser.find_element(By.CSS_SELECTOR, ".jp-Notebook .cm-content"),
            180,
            "the notebook",
        )
        _wait(
            lambda: not browser.find_elements(By.CSS_SELECTOR, "#jupyterlab-splash"),
            60,
            "the page without its splash screen",
        )
        time.sleep(6)
        _wait(
            lambda: (
                browser.find_element(
                    By.CSS_SELECTOR, ".jp-Notebook .cm-content"
                ).click()
                is None
            ),
            60,
            "the cell",
        )
        ActionChains(browser).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(
            Keys.SHIFT
        ).perform()
        _wait(lambda: (tmp_path / "corners.json").exists(), 120, "the widget's cell")
        canvas = _wait(
            lambda: browser.find_element(
                By.CSS_SELECTOR, ".jupyter-matplotlib-canvas-div"
            ),
            60,
            "the picture",
        )
        time.sleep(4)
        # a click would scroll it under the mouse
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        time.sleep(2)
        picture("1-open")
        width, height = canvas.size["width"], canvas.size["height"]
        corners = json.loads((tmp_path / "corners.json").read_text(encoding="utf-8"))
        for x, y in [*corners, corners[0]]:
            ActionChains(browser).move_to_element_with_offset(
                canvas, round((x - 0.5) * width), round((y - 0.5) * height)
            ).pause(0.3).click().pause(0.4).perform()
        time.sleep(2)
        picture("2-drawn")

        def button(name):
            return next(
                one
                for one in browser.find_elements(By.CSS_SELECTOR, "button")
                if one.text.strip() == name
            )

        button("Shrink").click()
        message = _wait(
            lambda: next(
                one.text
                for one in browser.find_elements(
                    By.CSS_SELECTOR, ".widget-html-content"
                )
                if "pixels on slice" in one.text
            ),
            60,
            "the contour",
        )
        time.sleep(2)
        picture("3-shrunk")
        assert int(message.split()[0]) > 20
        button("Save").click()
        saved = _wait(
            lambda: next(tmp_path.rglob("*_desc-tumor_region.json")),
            30,
            "the saved region",
        )
        picture("4-saved")
        assert len(json.loads(saved.read_text(encoding="utf-8"))["polygon"]) == len(
            corners
        )
    finally:
        browser.quit()
        server.terminate()
        server.wait(20)
