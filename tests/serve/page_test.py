"""The page in a real browser: what a person does, what he sees, and that everybody can use it.

Needs Debian's packages chromium and chromium-driver.
"""

import base64
import contextlib
import csv
import importlib.util
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from bt_jax.data.io.decode import encode_png
from bt_jax.data.phantoms import phantom
from tests import hostile_inputs, medical_files
from tests.serve.serving import Running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's packages chromium and chromium-driver"),
]
SCAN = encode_png(phantom.render(0, label="glioma_tumor", seed=1).image)
DROP = """
const transfer = new DataTransfer();
for (const [name, content] of arguments[0]) {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  transfer.items.add(new File([bytes], name));
}
for (const kind of ["dragenter", "dragover", "drop"]) {
  const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
  document.getElementById("drop").dispatchEvent(new DragEvent(kind, options));
}
"""


class Browser:
    """Chromium, at one page."""

    def __init__(self, driver: webdriver.Chrome, port: int, downloads: pathlib.Path):
        self.driver, self.address, self.downloads = driver, f"http://127.0.0.1:{port}", downloads

    def open(self, path: str = "/?lang=en", *, width: int = 1200, scheme: str = "light") -> None:
        self.driver.get_log("browser")  # forgets what was there
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.theme(scheme)
        self.driver.get(self.address + path)

    def theme(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def drop(self, *files: tuple[str, bytes]) -> None:
        self.driver.execute_script(DROP, [[name, base64.b64encode(content).decode()] for name, content in files])

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        (found,) = self.all(selector)
        return found

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.all(selector)]

    def until(self, condition: Callable[[], Any]) -> Any:
        def found_now() -> Any:
            try:
                return condition()
            except StaleElementReferenceException:  # drawn anew in this moment
                return None

        end = time.monotonic() + 30
        while not (found := found_now()):
            assert time.monotonic() < end, self.driver.find_element(By.TAG_NAME, "body").text
            time.sleep(0.02)
        return found

    def settled(self, count: int) -> None:
        """Waits for so many cards to be done."""
        self.until(lambda: len(self.all("[data-state=done], [data-state=error]")) == count)

    def messages(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def too_wide(self) -> bool:
        return bool(self.driver.execute_script("return document.documentElement.scrollWidth > innerWidth"))

    def widest(self) -> list[str]:
        """What reaches beyond the page."""
        script = (
            "return [...document.querySelectorAll('*')].filter((one) => one.getBoundingClientRect().right > innerWidth)"
        )
        return [element.get_attribute("outerHTML")[:200] for element in self.driver.execute_script(script)]

    def violations(self) -> list[str]:
        """What axe-core finds that is serious."""
        spec = importlib.util.find_spec("axe_core_python")
        assert spec is not None and spec.origin is not None
        source = next(pathlib.Path(spec.origin).parent.rglob("axe.min.js")).read_text(encoding="utf-8")
        self.driver.execute_script(source)
        found = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run().then((results) => done(results), (error) => done(String(error)))"
        )
        assert len(found["passes"]) > 10
        return [
            f"{one['id']}: {node['html']}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]


@pytest.fixture(scope="module")
def browser(application, tmp_path_factory) -> Iterator[Browser]:
    downloads = tmp_path_factory.mktemp("downloads")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--lang=en"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    running = Running(application)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(60)
    try:
        yield Browser(driver, running.port, downloads)
    finally:
        driver.quit()
        running.close()


def test_three_files_a_heat_map_another_language_and_the_table(browser):
    browser.open()
    assert not browser.one("#results").is_displayed()
    browser.drop(
        ('scan, "1".png', SCAN),
        ("=broken.png", b"%PDF-1.4"),
        ("head.dcm", medical_files.dicom(hostile_inputs.scan(90, 90))),
    )
    browser.settled(3)
    assert browser.texts("#cards h3") == ['scan, "1".png', "=broken.png", "head.dcm"]
    assert browser.one("#progress").text == "3 of 3 files done, 1 could not be read"
    good, broken, _ = browser.all(".result")
    shares = [
        float(text.strip("<% ")) for text in (row.text for row in good.find_elements(By.CSS_SELECTOR, ".bars .share"))
    ]
    assert len(shares) == 4 and sum(shares) == pytest.approx(100, abs=2)
    assert "not an image but a PDF document" in broken.text
    # The heat map over the slice, and the slider over its strength.
    good.find_element(By.CSS_SELECTOR, "[data-key=explain]").click()
    heat = browser.until(lambda: browser.all(".heat"))[0]
    assert heat.value_of_css_property("opacity") == "0.65" and heat.get_property("naturalWidth") > 100
    slider = good.find_element(By.CSS_SELECTOR, "[data-key=opacity]")
    slider.send_keys(Keys.END)
    assert heat.value_of_css_property("opacity") == "1"
    # The other language, with everything that is there.
    browser.one("[data-language=es]").click()
    assert browser.one("h1").text == "Cortes de resonancia magnética cerebral"
    assert browser.driver.find_element(By.TAG_NAME, "html").get_attribute("lang") == "es"
    assert "es un documento PDF, no una imagen" in browser.all(".result")[1].text
    assert browser.one("#progress").text == "3 de 3 archivos procesados; ilegibles: 1"
    assert len(browser.all(".heat")) == 1 and browser.one(".heat").value_of_css_property("opacity") == "1"
    page = browser.driver.find_element(By.TAG_NAME, "main").text
    assert not any(word in page for word in ("Probabilities", "Drop", "Please", "undefined", "null", "{"))
    # The table, as the command would write it.
    browser.one("#download").click()
    file = browser.until(lambda: next(browser.downloads.glob("*.csv"), None))
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert list(rows[0]) == ["path", "prediction", "confidence", "glioma_tumor", "meningioma_tumor", "no_tumor",
                             "pituitary_tumor", "warnings", "error"]  # fmt: skip
    assert [row["path"] for row in rows] == ['scan, "1".png', "'=broken.png", "head.dcm"]
    assert float(rows[0][rows[0]["prediction"]]) == float(rows[0]["confidence"])
    assert rows[1]["error"] == "not an image but a PDF document: export its pictures as PNG"
    assert browser.messages() == []


def test_a_volume_slice_by_slice(browser):
    stack = np.stack([np.roll(hostile_inputs.scan(80, 80), 4 * k, axis=0).T for k in range(9)], -1)
    browser.open("/?lang=es")
    browser.drop(("volumen.nii.gz", medical_files.nifti(stack, np.diag([-1, -1, 5, 1.0]), packed=True)))
    browser.settled(1)
    first = browser.until(lambda: browser.all(".frame img"))[0].get_attribute("src")
    assert "Corte 5 de 9" in browser.one(".result").text and "9 cortes:" in browser.one(".result").text
    browser.one("[data-key=slice]").send_keys(Keys.END)
    browser.until(lambda: "Corte 9 de 9" in browser.one(".result").text)
    browser.until(lambda: [image for image in browser.all(".frame img") if image.get_attribute("src") != first])
    assert browser.messages() == []


def test_the_sample_and_the_keyboard_alone(browser):
    browser.open()
    keys = webdriver.ActionChains(browser.driver)

    def press(key: str) -> WebElement:
        keys.send_keys(key).perform()
        return browser.driver.switch_to.active_element

    seen = []
    while (focused := press(Keys.TAB)).get_attribute("id") != "sample":
        seen.append(focused.get_attribute("id") or focused.get_attribute("data-language"))
        assert len(seen) < 10
    assert seen == ["about", "en", "es", "choose"]
    assert focused.value_of_css_property("outline-style") != "none"
    press(Keys.ENTER)
    browser.settled(1)
    assert "drawn by a program, not a patient" in browser.one(".result").text
    while (focused := press(Keys.TAB)).get_attribute("data-key") != "explain":
        pass
    press(Keys.ENTER)
    browser.until(lambda: browser.all(".heat"))
    # What was in use stays in use: nobody has to start over.
    browser.until(lambda: browser.driver.switch_to.active_element.get_attribute("data-key") == "explain")
    assert browser.messages() == []
    browser.one(".remove").click()
    assert browser.all(".result") == [] and browser.driver.switch_to.active_element.get_attribute("id") == "choose"


@pytest.mark.parametrize("width", [320, 390, 768])
@pytest.mark.parametrize("spoken", ["en", "es"])
def test_nothing_is_wider_than_a_phone(browser, width, spoken):
    browser.open(f"/?lang={spoken}", width=width)
    assert not browser.too_wide()
    browser.drop(("a" * 90 + ".png", SCAN), ("b", b""))
    browser.settled(2)
    browser.one("[data-key=explain]").click()
    browser.until(lambda: browser.all(".heat"))
    assert not browser.too_wide(), browser.widest()
    small = [button.text for button in browser.all("button") if button.is_displayed() and button.size["height"] < 40]
    assert small == []
    browser.open(f"/model?lang={spoken}", width=width)
    assert not browser.too_wide() and browser.messages() == []


def test_accessible_by_axe(browser):
    browser.open()
    assert browser.violations() == []
    browser.drop(("a.png", SCAN), ("b", b""), ("chest.dcm", medical_files.dicom(hostile_inputs.scan(), Modality="CT")))
    browser.settled(3)
    browser.all("[data-key=explain]")[0].click()
    browser.until(lambda: browser.all(".heat"))
    for scheme in ("light", "dark"):
        browser.theme(scheme)
        assert browser.violations() == [], scheme
    browser.open("/model?lang=es", scheme="dark")
    assert browser.violations() == []


def test_without_the_server_the_page_says_so(browser, application):
    running = Running(application)
    here = Browser(browser.driver, running.port, browser.downloads)
    here.open()
    running.close()
    here.drop(("a.png", SCAN))
    here.settled(1)
    assert "The server did not answer" in here.one(".result").text
    here.one("[data-language=es]").click()
    assert "El servidor no ha respondido" in here.one(".result").text
    large = {"name": "large.png", "size": 2**20}
    here.driver.execute_script(
        "const t = new DataTransfer(); t.items.add(new File([new Uint8Array(arguments[0].size)], arguments[0].name));"
        "document.dispatchEvent(new DragEvent('drop', { dataTransfer: t, cancelable: true }))", large)  # fmt: skip
    here.settled(2)
    assert "El archivo supera el límite de 1 MB" in here.all(".result")[1].text
    with contextlib.suppress(json.JSONDecodeError):
        here.messages()


def change_records(browser, changes: str) -> None:
    """Opens the page, whose records from now on have the values that lines of JavaScript give them."""
    browser.open()
    browser.driver.execute_script(f"""
        const real = window.fetch;
        window.fetch = async (...asked) => {{
          const answer = await (await real(...asked)).json();
          for (const record of answer.records) {{ {changes} }}
          return new Response(JSON.stringify(answer), {{ status: 200 }});
        }};""")


def test_an_answer_below_the_limit_of_the_model_is_uncertain(browser):
    change_records(browser, """
        record.doubt = 0.4;
        record.confidence = 0.66;
        record.warnings = ["The confidence is below ..."];
        record.codes = [{ code: "low_confidence", values: { limit: 70, accuracy: 97.1 } }];
    """)  # fmt: skip
    browser.drop(("scan.png", SCAN))
    browser.settled(1)
    assert browser.one(".verdict").text.startswith("Uncertain: ")
    assert "The confidence is below ..." in browser.one(".result").text
    browser.one("[data-language=es]").click()
    assert "La confianza es inferior al 70 %" in browser.one(".result").text


def test_what_is_unlike_the_training_images_is_no_class(browser):
    """As the server would answer for a photograph: the class is not the headline."""
    change_records(browser, """
        record.doubt = 3.4;
        record.warnings = ["The image does not look like ..."];
        record.codes = [{ code: "unlike_training", values: { score: 3.4 } }];
    """)  # fmt: skip
    browser.drop(("cat.png", SCAN))
    browser.settled(1)
    assert browser.one(".verdict").text == "Not recognised as a brain MRI slice"
    assert "3.4 times the normal limit" in browser.one(".doubt").text
    browser.one("[data-language=es]").click()
    assert "está 3,4 veces más lejos" in browser.one(".warnings").text
    assert browser.violations() == []
