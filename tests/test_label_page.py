"""The labelling page in headless Chromium: thirty images by keyboard, nine at a time, two windows, a dying server."""

import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE
from web import N_LABELS, PHONE, WIDE, Visitor, prepare, program

from ohlora.labelling import Answer, LabelTable
from ohlora.stages.paths import BASE, V1, ImageSet


@pytest.fixture
def folder(tmp_path: Path, default_params: dict[str, Any]) -> Path:
    return prepare(tmp_path, default_params)


class Person(Visitor):
    """Somebody who labels."""

    def __init__(self, browser: Any, address: str, name: str = "anna", **options: Any) -> None:
        super().__init__(browser, address, **options)
        if self.page.locator("#who").is_visible():
            self.page.keyboard.insert_text(name)
            self.press("Enter")
            self.page.locator("#who").wait_for(state="hidden")
        self.shown()

    def tab(self, address: str) -> Any:
        page = super().tab(address)
        self.shown(page)
        return page

    def shown(self, page: Any = None) -> None:
        """Waits until the page shows images, or that there are none left."""
        (page or self.page).locator("#main > section").wait_for()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def id(self) -> int:
        """The image asked for."""
        return int(self.page.locator("[data-id]:is(.one, .current)").get_attribute("data-id"))

    def attribute(self) -> str:
        return self.page.locator(".count[aria-pressed=true]").get_attribute("data-attribute")

    def saved(self) -> None:
        self.page.get_by_text("all saved", exact=True).wait_for()


def answers(folder: Path, files: ImageSet = BASE, labeller: str = "anna") -> dict[tuple[int, str], int]:
    return LabelTable(folder / files.human_labels, range(1000), files.attributes).of(labeller)


def test_thirty_images_by_keyboard_with_undo_reload_and_a_server_killed_on_the_way(browser: Any, folder: Path) -> None:
    expected = {(id_, name): (id_ // 3 + shift) % 2 for id_ in range(30) for shift, name in enumerate(BASE.attributes)}

    def label(person: Person, *ids: int) -> None:
        for id_ in ids:
            assert person.id() == id_
            # Number keys and arrows in turn.
            keys = ("ArrowLeft", "ArrowRight") if id_ % 2 else ("1", "2")
            person.press(*(keys[expected[id_, name]] for name in BASE.attributes))

    with program(folder, "--port", "0") as (process, address):
        person = Person(browser, address)
        label(person, *range(8))
        # Undo twice: the last image's answers, the second first.
        person.press("u")
        assert (person.id(), person.attribute()) == (7, "quality")
        person.press("Control+z")
        assert (person.id(), person.attribute()) == (7, "gender")
        person.saved()
        assert (7, "gender") not in answers(folder)
        assert (7, "quality") not in answers(folder)
        label(person, 7, 8, 9)
        person.saved()
        # A reload goes on after the last answer, and what was before it can still be undone.
        person.page.reload()
        person.shown()
        assert person.id() == 10
        person.press("u")
        assert (person.id(), person.attribute()) == (9, "quality")
        person.press("2" if expected[9, "quality"] else "1")
        label(person, *range(10, 14))
        person.saved()
        process.send_signal(signal.SIGKILL)
        process.wait()
        port = address.rstrip("/").rpartition(":")[2]
        label(person, *range(14, 17))
        person.page.get_by_text("not saved yet: the server does not answer").wait_for()
        assert answers(folder).keys() == {key for key in expected if key[0] < 14}
    # The answers given meanwhile are sent when a server is back on the same port, without a reload.
    with program(folder, "--port", port) as (_, again):
        assert again == address
        person.saved()
        label(person, *range(17, 24))
        person.saved()
        person.close()
        # Another browser of the same person goes on where that one was closed.
        person = Person(browser, address)
        label(person, *range(24, 30))
        person.saved()
        assert person.page.locator("[data-attribute=gender] span").first.inner_text() == f"30 / {N_LABELS}"
        person.close()
    assert answers(folder) == expected


def test_nine_at_a_time_suggestions_are_corrected_and_confirmed_and_sets_are_switched(
    browser: Any, folder: Path
) -> None:
    with program(folder, "--port", "0") as (_, address):
        person = Person(browser, address)
        person.press("g")
        assert person.page.locator(".tile").count() == 9
        assert person.page.locator(".tile .suggested").count() == 9
        # The first and the third are not what the annotator suggests.
        person.press("2", "ArrowDown", "1" if 2 % 2 else "2")
        assert person.page.locator(".tile .suggested").count() == 7
        person.press("Enter")
        assert person.id() == 9
        person.saved()
        corrected = {(id_, "gender"): int(id_ in (0, 2) or id_ % 2) for id_ in range(9)}
        assert answers(folder) == corrected
        # One step back takes the seven confirmed back at once.
        person.press("u")
        person.saved()
        assert answers(folder) == {key: value for key, value in corrected.items() if key[0] in (0, 2)}
        assert person.page.locator(".tile").count() == 9
        person.press("Space")
        # Five screens of forty images, then the next attribute.
        person.press(*["Enter"] * 4)
        assert person.attribute() == "quality"
        person.press(*["Enter"] * 5)
        person.page.get_by_text(f"All {N_LABELS} images are labelled").wait_for()
        person.saved()
        assert len(answers(folder)) == 2 * N_LABELS
        # The other set has four attributes and a table of its own; without suggestions Enter confirms none.
        person.page.locator("[data-set=v1]").click()
        person.page.locator(".count[data-attribute=glass]").wait_for()
        person.press("g", "s", "Enter", "1", "2", "s", "Enter", "2")
        person.saved()
        assert answers(folder, V1) == {(0, "gender"): 0, (0, "quality"): 1, (0, "age"): 0, (0, "glass"): 1}
        assert person.id() == 1
        person.close()


def test_two_windows_at_once_lose_nothing(browser: Any, folder: Path) -> None:
    with program(folder, "--port", "0") as (_, address):
        anna = Person(browser, address)
        ben = Person(browser, address, "벤")
        first, second = anna.page, anna.tab(address)
        # The second tab of the same person is behind: its answer to image 0 does not replace the first one's.
        for page, keys in ((first, "11"), (second, "222"), (first, "1")):
            for key in keys:
                page.keyboard.press(key)
            page.get_by_text("all saved", exact=True).wait_for()
        second.get_by_text("was answered in another window meanwhile; its answer stays").wait_for()
        ben.press("2", "1")
        ben.saved()
        assert answers(folder, labeller="벤") == {(0, "gender"): 1, (0, "quality"): 0}
        held = answers(folder)
        assert {key: held[key] for key in ((0, "gender"), (0, "quality"))} == {(0, "gender"): 0, (0, "quality"): 0}
        assert held[1, "gender"] in (0, 1)
        # Answers written by another program, a second server or a hand, are there after a look at the page again.
        LabelTable(folder / BASE.human_labels, range(48), BASE.attributes).answer("벤", [Answer(1, "gender", 0)])
        ben.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        ben.page.get_by_text(f"2 / {N_LABELS}").wait_for()
        for person in (anna, ben):
            person.close()


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["1280x720", "phone"])
def test_everything_is_within_the_window_and_of_the_right_colour(
    browser: Any, folder: Path, viewport: dict[str, int]
) -> None:
    with program(folder, "--port", "0") as (_, address):
        for scheme, dark in (("light", False), ("dark", True)):
            person = Person(browser, address, viewport=viewport, color_scheme=scheme)
            person.page.locator("[data-set=v1]").click()
            person.page.locator(".count[data-attribute=glass]").wait_for()
            for _ in ("one", "nine"):
                assert person.size() == [viewport["width"], viewport["height"]]
                assert person.page.locator(".pair button").first.is_visible()
                person.press("g")
            assert person.dark() is dark
            person.close()


def test_text_is_never_markup(browser: Any, folder: Path) -> None:
    """A name with markup is refused as text; so is a faulty table, which stays as it is."""
    with program(folder, "--port", "0") as (_, address):
        page = browser.new_context(viewport=WIDE).new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.locator("#who").wait_for()
        page.locator("#name").fill("<img src=x onerror=alert(1)>")
        page.keyboard.press("Enter")
        page.get_by_text("name '<img src=x onerror=alert(1)>': allowed are").wait_for()
        page.locator("#name").fill("anna")
        page.keyboard.press("Enter")
        page.locator("#who").wait_for(state="hidden")
        page.locator("#main > section").wait_for()
        faulty = folder / BASE.human_labels
        faulty.parent.mkdir(parents=True)
        faulty.write_text("id,attribute,value\n1,<b id=bold>,1\n")
        page.keyboard.press("1")
        page.get_by_text("1 not saved yet: data/labels/human.csv, line 2: attribute is <b id=bold>").wait_for()
        assert page.locator("#bold").count() == 0
        # Put right, the answer that waited is written.
        faulty.unlink()
        page.get_by_text("all saved", exact=True).wait_for()
        assert answers(folder) == {(0, "gender"): 0}
        page.context.close()
