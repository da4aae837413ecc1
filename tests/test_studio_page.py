"""The face studio in headless Chromium: every slider, a shared address, characters, pictures, a dying server."""

from pathlib import Path
from typing import Any

import pytest
from linear_studio import PASSED, linear_faces, linear_studio, serving, write_cases
from PIL import Image
from web import PHONE, WIDE, Visitor

from ohlora.characters import read_characters
from ohlora.properties import BY_NAME, EXPRESSIONS
from ohlora.stages.paths import CHARACTERS
from ohlora.web.studio import Studio

PIXELS = """([name, row]) => {
  const source = document.getElementById(name);
  const canvas = Object.assign(document.createElement("canvas"), { width: 8, height: 16 });
  const context = canvas.getContext("2d");
  context.drawImage(source, 0, 0);
  return context.getImageData(4, row, 1, 1).data[0];
}"""


@pytest.fixture
def studio(tmp_path: Path, default_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.chdir(tmp_path)
    return linear_studio(default_params)


class StudioVisitor(Visitor):
    """Somebody who draws faces."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        super().__init__(browser, address, **options)
        self.shown()

    def shown(self) -> None:
        """Waits until the face is drawn and read as the sliders are."""
        self.page.locator("#others [data-value]").first.wait_for()
        self.page.locator(".controls:not(.late)").wait_for()
        self.until("document.getElementById('before').naturalWidth > 0")

    def set(self, name: str, value: float) -> None:
        self.page.locator(f"#slider-{name}").fill(str(value))
        self.shown()

    def read(self, name: str) -> tuple[float, float, float]:
        """Asked, the property CNN's and the judge's change."""
        texts = [
            self.page.locator(f"[data-property={name}] [data-value={kind}]").inner_text()
            for kind in ("asked", "read", "judged")
        ]
        asked, read, judged = (float(text.replace("−", "-")) for text in texts)
        return asked, read, judged

    def grey(self, name: str, picture: str = "after") -> int:
        """The patch of the picture that shows the property."""
        return self.page.evaluate(PIXELS, [picture, BY_NAME[name].index])

    def hash(self) -> str:
        return self.page.evaluate("location.hash")


def test_each_slider_moves_picture_and_readings_the_right_way(browser: Any, studio: Studio) -> None:
    with serving(studio) as address:
        visitor = StudioVisitor(browser, f"{address}#seed=7&group=h")
        for name in EXPRESSIONS:
            before = visitor.grey(name, "before")
            assert visitor.grey(name) == before
            assert visitor.read(name) == (0, 0, 0)
            for value in (0.8, -0.8):
                visitor.set(name, value)
                asked, read, judged = visitor.read(name)
                assert asked == value
                assert read == pytest.approx(value, abs=0.1)
                assert judged * value > 0.2
                assert (visitor.grey(name) - before) * value > 5
                assert visitor.grey(name, "before") == before
                others = [visitor.read(other)[1] for other in EXPRESSIONS if other != name]
                assert others == pytest.approx([0, 0], abs=0.11)
            visitor.set(name, 0)
        # By keyboard, one step.
        visitor.page.locator("#slider-mouth").press("ArrowRight")
        visitor.shown()
        assert visitor.read("mouth")[0] == 0.1
        visitor.page.get_by_role("button", name="All to 0").click()
        visitor.shown()
        assert visitor.read("mouth") == (0, 0, 0)
        # The other group's vectors move half as far.
        visitor.set("eyes", 0.8)
        visitor.page.locator("[data-group=l]").click()
        visitor.page.locator("[data-group=l][aria-pressed=true]").wait_for()
        visitor.until("document.querySelector('[data-property=eyes] [data-value=read]').textContent === '+0.4'")
        visitor.close()


def test_dragging_ends_at_the_last_value_and_asks_for_one_face_at_a_time(browser: Any, studio: Studio) -> None:
    with serving(studio) as address:
        visitor = StudioVisitor(browser, f"{address}#seed=7&group=h")
        visitor.page.evaluate(
            """async () => {
              const slider = document.getElementById("slider-mouth");
              for (let step = 0; step <= 60; step += 1) {
                slider.value = Math.sin(step / 8);
                if (step === 60) slider.value = 0.7;
                slider.dispatchEvent(new Event("input"));
                if (step % 6 === 0) await new Promise((done) => setTimeout(done, 2));
              }
            }"""
        )
        visitor.shown()
        assert visitor.read("mouth")[:2] == (0.7, pytest.approx(0.7, abs=0.1))
        asked = [url for url in visitor.asked if url.endswith("/api/edit")]
        assert 2 <= len(asked) < 62
        visitor.close()


def test_the_address_holds_the_face_for_reload_back_and_others(browser: Any, studio: Studio) -> None:
    with serving(studio) as address:
        visitor = StudioVisitor(browser, address)
        visitor.page.locator("#seed").fill("4711")
        visitor.page.keyboard.press("Enter")
        visitor.shown()
        visitor.set("mouth", 0.5)
        visitor.set("pose", -0.4)
        kept = visitor.hash()
        assert kept == "#seed=4711&mouth=0.5&pose=-0.4"
        face = [visitor.grey(name) for name in BY_NAME]
        visitor.page.reload()
        visitor.shown()
        assert visitor.read("mouth")[0] == 0.5
        assert [visitor.grey(name) for name in BY_NAME] == face
        other = StudioVisitor(browser, address + kept)
        assert [other.grey(name) for name in BY_NAME] == face
        other.close()
        visitor.page.get_by_role("button", name="Draw a face").click()
        visitor.shown()
        assert visitor.hash() != kept
        visitor.page.go_back()
        visitor.until(f"location.hash === '{kept}'")
        visitor.shown()
        assert [visitor.grey(name) for name in BY_NAME] == face
        # What is no seed is said, and the face stays.
        visitor.page.locator("#seed").fill("99999999999")
        visitor.page.keyboard.press("Enter")
        visitor.page.get_by_text("allowed are 0 to 4294967295").wait_for()
        visitor.close()


def test_a_tested_face_becomes_a_character(browser: Any, studio: Studio, tmp_path: Path) -> None:
    z = write_cases(tmp_path)
    with serving(studio) as address:
        visitor = StudioVisitor(browser, address)
        visitor.page.locator("[data-kind=case]").click()
        best = visitor.page.locator("#gallery button").first
        assert best.inner_text().strip() == f"{PASSED[0]}: 2.85 ✓"
        best.click()
        visitor.page.locator(f"#gallery [data-key='{PASSED[0]}'][aria-pressed=true]").wait_for()
        visitor.shown()
        assert visitor.hash() == f"#case={PASSED[0]}"
        face = [visitor.grey(name) for name in BY_NAME]
        visitor.page.get_by_role("button", name="Save as character").click()
        for name, error in (
            ("../luna", "name '../luna': allowed are 1 to 40 letters"),
            ("<b>x</b>", "name '<b>x</b>'"),
        ):
            visitor.page.locator("#new-name").fill(name)
            visitor.page.keyboard.press("Enter")
            visitor.page.get_by_text(error).wait_for()
        visitor.page.locator("#new-name").fill("luna")
        visitor.page.keyboard.press("Enter")
        visitor.page.get_by_text("luna is in data/characters.csv").wait_for()
        (one,) = read_characters(CHARACTERS)
        assert (one.name, one.z.tolist()) == ("luna", z[PASSED[0]].tolist())
        visitor.page.locator("#gallery [data-key=luna]").click()
        visitor.until("location.hash === '#character=luna'")
        visitor.shown()
        assert [visitor.grey(name) for name in BY_NAME] == face
        visitor.page.get_by_role("button", name="Save as character").click()
        visitor.page.locator("#new-name").fill("luna")
        visitor.page.keyboard.press("Enter")
        visitor.page.get_by_text("luna is there already").wait_for()
        visitor.close()


def test_pictures_are_shown_and_downloaded(browser: Any, studio: Studio, tmp_path: Path) -> None:
    with serving(studio) as address:
        visitor = StudioVisitor(browser, f"{address}#seed=7&mouth=0.5")
        page = visitor.page

        def download(link: str) -> Path:
            with page.expect_download() as started:
                page.locator(link).click()
            path = tmp_path / started.value.suggested_filename
            started.value.save_as(path)
            return path

        assert download("#png").name == "seed_7.png"
        for button, name in (
            ("#strip", "seed_7_strip.png"),
            ("#grid", "seed_7_grid.png"),
            ("#gif", "seed_7_gif_eyes.gif"),
        ):
            page.locator(button).click()
            page.locator("#picture-image").wait_for()
            path = download("#picture-save")
            assert path.name == name
            with Image.open(path) as image:
                width = page.evaluate("document.getElementById('picture-image').naturalWidth")
                assert image.width == width
            page.locator("#picture-close").click()
        page.locator("#gif").click()
        page.locator("[data-of=pose]").click()
        page.locator("#picture-image").wait_for()
        assert download("#picture-save").name == "seed_7_gif_pose.gif"
        visitor.close()


def test_a_server_that_is_away_is_asked_again(browser: Any, default_params: dict[str, Any], studio: Studio) -> None:
    with serving(studio) as address:
        visitor = StudioVisitor(browser, f"{address}#seed=7")
    visitor.page.locator("#slider-eyes").fill("0.6")
    visitor.page.get_by_text("the server does not answer; asked again by itself").wait_for()
    visitor.page.locator("#slider-eyes").fill("0.4")
    with serving(linear_studio(default_params), int(address.rstrip("/").rpartition(":")[2])) as again:
        assert again == address
        visitor.shown()
        assert visitor.read("eyes")[0] == 0.4
        visitor.page.locator("#notice").wait_for(state="hidden")
        visitor.close()


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["1280x720", "phone"])
def test_everything_is_within_the_window_and_of_the_right_colour(
    browser: Any, default_params: dict[str, Any], studio: Studio, viewport: dict[str, int]
) -> None:
    studio = linear_studio(default_params, linear_faces("<b id=bold>other</b>", hold="all"))
    with serving(studio) as address:
        for scheme, dark in (("light", False), ("dark", True)):
            visitor = StudioVisitor(browser, f"{address}#seed=7", viewport=viewport, color_scheme=scheme)
            visitor.page.locator("#sets").select_option("1")
            visitor.page.get_by_text("held still: all").wait_for()
            assert visitor.page.locator("#bold").count() == 0
            width, height = visitor.size()
            assert width == viewport["width"]
            assert viewport is PHONE or height == viewport["height"]
            assert visitor.dark() is dark
            visitor.close()
