"""The face studio's server: faces, edits and what is read of them, characters, pictures, and what is refused."""

import asyncio
import base64
import io
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from linear_studio import GROUPS, MARK, PASSED, directions, linear_faces, linear_studio, write_cases
from linear_world import SCALE, Generator
from PIL import Image, ImageSequence
from ruamel.yaml import YAML
from web import Client, ask_server, program

from ohlora.characters import Character, add_character, read_characters
from ohlora.files import save_tensors
from ohlora.fingerprints import weights_fingerprint
from ohlora.networks.cnn import PropertyCNN
from ohlora.params import TestVectors
from ohlora.properties import BY_NAME, EXPRESSIONS
from ohlora.search import Found, save_found
from ohlora.stages.paths import CASES, CHARACTERS, PROPERTY_CNN, VECTORS
from ohlora.web.faces import FRAME_TIME, FRAMES
from ohlora.web.studio import PAGES, Edit, Studio, studio_application
from ohlora.weights import load_bundled

TOKEN = "abcdefghijklmnop-1234"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def studio(folder: Path, default_params: dict[str, Any]) -> Studio:
    return linear_studio(default_params)


def ask(studio: Studio, work: Callable[[Client], Awaitable[None]], token: str | None = None) -> None:
    ask_server(studio_application(studio, token), work)


def body(key: str | int = "7", **changes: Any) -> dict[str, Any]:
    return {"kind": "seed", "key": str(key)} | changes


async def edit(client: Client, given: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """The image, uint8 (H, W, 3), and the rest with the readings by property."""
    reply = await client.post("/api/edit", json=given)
    assert reply.status == 200, await reply.text()
    content = await reply.json()
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(content["image"]))))
    return image, content | {"readings": {row["property"]: row for row in content["readings"]}}


async def picture(client: Client, address: str, **query: Any) -> Image.Image:
    reply = await client.get(address, params=query)
    assert reply.status == 200, await reply.text()
    return Image.open(io.BytesIO(await reply.read()))


# ---------------------------------------------------------------- faces and what is read of them


def test_a_seed_gives_the_same_face_and_the_editors(studio: Studio) -> None:
    faces = studio.sets[0]

    async def work(client: Client) -> None:
        image, rest = await edit(client, body())
        np.testing.assert_array_equal(image, faces.editor.render(faces.editor.sample(1, 7))[0])
        np.testing.assert_array_equal(np.asarray(await picture(client, "/faces/0/seed/7")), image)
        np.testing.assert_array_equal((await edit(client, body()))[0], image)
        assert not np.array_equal((await edit(client, body(8)))[0], image)
        for row in rest["readings"].values():
            assert (row["read"], row["judged"]) in ((0, 0), (0, None))

    ask(studio, work)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_readings_follow_what_is_asked_in_standard_deviations(studio: Studio, name: str) -> None:
    async def work(client: Client) -> None:
        image, _ = await edit(client, body(group="h"))
        for asked in (-0.5, 0.5):
            moved, rest = await edit(client, body(group="h", asked={name: asked}))
            row = rest["readings"][name]
            assert row["asked"] == asked
            assert row["read"] == pytest.approx(asked, abs=0.05)  # 256 levels
            assert row["judged"] == pytest.approx(asked, rel=0.4)  # its spread is over 64 faces
            for other in set(rest["readings"]) - {name}:
                assert rest["readings"][other]["read"] == pytest.approx(0, abs=0.02)
            patch = BY_NAME[name].index
            unit = studio.sets[0].editor.directions.deviations[patch] / SCALE * 127.5
            np.testing.assert_allclose(moved[patch].astype(float) - image[patch], asked * unit, atol=1.5)
        assert rest["readings"]["hair_color"]["asked"] is None
        assert (rest["readings"]["pose"]["judge"], rest["readings"]["eyes"]["judge"]) == ("yaw", "lid_aperture")

    ask(studio, work)


def test_a_face_gets_the_vectors_of_its_group_or_of_another(studio: Studio) -> None:
    faces = studio.sets[0]

    async def work(client: Client) -> None:
        for seed in range(6):
            (own,) = faces.editor.groups(faces.editor.sample(1, seed))
            _, rest = await edit(client, body(seed))
            assert (rest["own"], rest["group"]) == (own, own)
            read = {}
            for group in GROUPS:
                _, rest = await edit(client, body(seed, group=group, asked={"mouth": 0.5}))
                assert (rest["own"], rest["group"]) == (own, group)
                read[group] = rest["readings"]["mouth"]["read"]
            assert read["l"] == pytest.approx(read["h"] / 2, abs=0.05)

    ask(studio, work)


def test_a_direction_of_each_latents_own_is_computed_once_for_a_face_and_group(default_params: dict[str, Any]) -> None:
    calls = []

    def local(latents: np.ndarray, groups: np.ndarray) -> np.ndarray:
        calls.append(groups.tolist())
        return np.tile(Generator().direction("eyes"), (len(latents), 1))

    studio = Studio([linear_faces(local={"mouth": local})], TestVectors.model_validate(default_params["test_vectors"]))

    async def work(client: Client) -> None:
        for value in (0.2, 0.4, 0.6):
            for group in GROUPS:
                _, rest = await edit(client, body(group=group, asked={"mouth": value}))
                assert rest["readings"]["eyes"]["read"] > 0.05
                assert rest["readings"]["mouth"]["read"] == pytest.approx(0, abs=0.02)

    ask(studio, work)
    assert calls == [[0], [1]]


def test_requests_at_once_do_not_mix(studio: Studio) -> None:
    given = [body(seed, group="h", asked={"eyes": (seed % 5 - 2) / 4}) for seed in range(24)]

    async def work(client: Client) -> None:
        alone = [await edit(client, one) for one in given]
        together = await asyncio.gather(*(edit(client, one) for one in given))
        for (image, rest), (other, again) in zip(alone, together, strict=True):
            np.testing.assert_array_equal(image, other)
            assert rest["readings"] == again["readings"]

    ask(studio, work)


def test_nothing_is_drawn_for_a_browser_that_is_gone(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    free, original = threading.Event(), studio.edit

    def noted(given: Edit) -> tuple[bytes, dict[str, Any]]:
        drawn.append(given.key)
        return original(given)

    monkeypatch.setattr(studio, "edit", noted)

    async def work(client: Client) -> None:
        studio._thread.submit(free.wait)
        gone = asyncio.create_task(edit(client, body(1)))
        await asyncio.sleep(0.2)
        gone.cancel()
        await asyncio.sleep(0.2)
        waiting = asyncio.create_task(edit(client, body(2)))
        await asyncio.sleep(0.1)
        free.set()
        await waiting
        assert drawn == ["2"]

    ask(studio, work)


# ---------------------------------------------------------------- cases and characters


def test_tested_cases_are_offered_the_passed_first(studio: Studio, folder: Path) -> None:
    z = write_cases(folder)
    faces = studio.sets[0]

    async def work(client: Client) -> None:
        state = await (await client.get("/api/state")).json()
        assert [row["key"] for row in state["cases"]] == [*map(str, PASSED), "4", "0", "2"]
        assert [row["passed"] for row in state["cases"]] == [True, True, False, False, False]
        assert state["cases_mark"] == state["sets"][0]["mark"]
        assert state["cases"][0]["sum"] == pytest.approx(3 * 0.95)
        for case in range(5):
            image, rest = await edit(client, body(case, kind="case"))
            np.testing.assert_array_equal(image, faces.editor.render(z[case : case + 1])[0])
            assert rest["group"] == "hl"[case % 2]  # as in the test
        # Another run's cases take their place.
        write_cases(folder)
        (folder / CASES).write_text("case,group,passed\n0,h,1\n")
        state = await (await client.get("/api/state")).json()
        assert state["cases"] == []
        assert "no column corr_eyes" in state["problems"][0]
        # Without their labels they would be other faces.
        write_cases(folder, labels=3)
        state = await (await client.get("/api/state")).json()
        assert state["cases"] == []
        assert "drawn labels (sample.labels)" in state["problems"][0]

    ask(studio, work)


def test_a_saved_character_is_in_the_table_and_offered(studio: Studio) -> None:
    async def work(client: Client) -> None:
        given = body(11, group="l", name="luna")
        for status in (200, 400):  # the second time the name is taken
            reply = await client.post("/api/characters", json=given)
            assert reply.status == status, await reply.text()
        assert "luna is there already" in (await reply.json())["error"]
        (one,) = read_characters(CHARACTERS)
        assert (one.name, one.group, one.vectors, len(one.label)) == ("luna", "l", MARK, 0)
        np.testing.assert_array_equal(one.z, studio.sets[0].editor.sample(1, 11)[0])
        state = await (await client.get("/api/state")).json()
        assert state["characters"] == [{"key": "luna", "group": "l", "mark": MARK}]
        image, rest = await edit(client, body("luna", kind="character"))
        assert rest["group"] == "l"
        np.testing.assert_array_equal(image, (await edit(client, body(11)))[0])
        # Many at once: none is lost.
        replies = [client.post("/api/characters", json=given | {"name": f"mina{count}"}) for count in range(8)]
        assert [reply.status for reply in await asyncio.gather(*replies)] == [200] * 8
        assert len(read_characters(CHARACTERS)) == 9

    ask(studio, work)


@pytest.mark.parametrize("name", ["", "../x", "a b", "<b>", "-x", "x" * 41, "a.png", "é", "a\n"])
def test_a_character_needs_a_plain_name(studio: Studio, name: str) -> None:
    async def work(client: Client) -> None:
        reply = await client.post("/api/characters", json=body(group="h", name=name))
        assert reply.status == 400, await reply.text()

    ask(studio, work)
    assert not Path(CHARACTERS).exists()


def test_characters_of_another_world_are_one_line(studio: Studio) -> None:
    add_character(CHARACTERS, Character("alien", "h", MARK, np.ones(5, np.float32), np.empty(0, np.float32)))
    add_character(CHARACTERS, Character("guest", "hhh", MARK, np.ones(24, np.float32), np.empty(0, np.float32)))

    async def work(client: Client) -> None:
        reply = await client.post("/api/edit", json=body("alien", kind="character"))
        assert (reply.status, await reply.json()) == (
            400,
            {"error": "character alien has 5 numbers: it is of another generator"},
        )
        # Of a group that these vectors have not: the one that is read.
        assert (await edit(client, body("guest", kind="character")))[1]["group"] in GROUPS
        Path(CHARACTERS).write_text("name,group,vectors,label,z\n<img src=x>,h,0,,1\n")
        state = await client.get("/api/state")
        assert state.content_type == "application/json"  # never HTML
        assert "name '<img src=x>', allowed are" in (await state.json())["problems"][0]
        assert (await client.post("/api/characters", json=body(group="h", name="luna"))).status == 500

    ask(studio, work)
    assert Path(CHARACTERS).read_text().endswith("<img src=x>,h,0,,1\n")


@pytest.mark.usefixtures("folder")
def test_other_vectors_are_chosen_and_characters_are_of_the_first_ones_generator(
    default_params: dict[str, Any],
) -> None:
    others = [linear_faces("reversed"), linear_faces("stranger", generator="another")]
    others[0].editor.directions.vectors[:] *= -1
    studio = linear_studio(default_params, *others)

    async def work(client: Client) -> None:
        state = await (await client.get("/api/state")).json()
        assert [one["title"] for one in state["sets"]] == ["models/vectors", "reversed", "stranger"]
        assert [one["keeps"] for one in state["sets"]] == [True, True, False]
        for place, sign in ((0, 1), (1, -1)):
            _, rest = await edit(client, body(set=place, group="h", asked={"eyes": 0.5}))
            assert rest["readings"]["eyes"]["read"] == pytest.approx(sign * 0.5, abs=0.05)
        for place, status in ((1, 200), (2, 400)):
            reply = await client.post("/api/characters", json=body(set=place, group="h", name=f"luna{place}"))
            assert reply.status == status

    ask(studio, work)
    assert [one.name for one in read_characters(CHARACTERS)] == ["luna1"]


# ---------------------------------------------------------------- pictures


def test_pictures_to_take_along(studio: Studio) -> None:
    async def work(client: Client) -> None:
        query = {"kind": "seed", "key": "7", "group": "h", "ask.eyes": "0.5"}
        image, _ = await edit(client, body(group="h", asked={"eyes": 0.5}))
        np.testing.assert_array_equal(np.asarray(await picture(client, "/pictures/face", **query)), image)
        reply = await client.get("/pictures/face", params=query | {"save": "1"})
        assert reply.headers["Content-Disposition"] == 'attachment; filename="seed_7.png"'
        height, width = image.shape[:2]
        strip = await picture(client, "/pictures/strip", **query)
        assert strip.width > 7 * width
        assert strip.height > 3 * height
        grid = await picture(client, "/pictures/grid", **query)
        assert grid.width >= 10 * width
        assert 5 * height <= grid.height < 6 * height + 20
        reply = await client.get("/pictures/gif", params=query | {"of": "mouth", "save": "1"})
        assert reply.headers["Content-Disposition"] == 'attachment; filename="seed_7_gif_mouth.gif"'
        gif = Image.open(io.BytesIO(await reply.read()))
        frames = [  # equal ones that follow each other are kept as one of a longer time
            np.asarray(frame.convert("RGB"), float)
            for frame in ImageSequence.Iterator(gif)
            for _ in range(frame.info["duration"] // FRAME_TIME)
        ]
        # There and back: up in the first half, down in the second, and the eyes stay as asked.
        mouth = np.array([frame[BY_NAME["mouth"].index].mean() for frame in frames])
        assert len(frames) == FRAMES
        assert np.argmax(mouth) == pytest.approx(8, abs=3)
        assert np.argmin(mouth) == pytest.approx(24, abs=3)
        np.testing.assert_allclose(mouth[1:16], mouth[15:0:-1], atol=1)
        np.testing.assert_allclose(frames[0], image, atol=6)
        eyes = [frame[BY_NAME["eyes"].index].mean() for frame in frames]
        np.testing.assert_allclose(eyes, image[BY_NAME["eyes"].index].mean(), atol=6)
        assert gif.info["loop"] == 0

    ask(studio, work)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "file"}, "kind: Input should be 'seed', 'case' or 'character'"),
        ({"key": "-1"}, "seed '-1': allowed are 0 to 4294967295"),
        ({"key": "4294967296"}, "allowed are 0 to 4294967295"),
        ({"key": "²"}, "seed '²'"),
        ({"key": "1" * 41}, "key: String should have at most 40 characters"),
        ({"kind": "case", "key": "0"}, "case '0'"),
        ({"kind": "character", "key": "../../etc/passwd"}, "has none such"),
        ({"set": 1}, "set 1: there are 1"),
        ({"set": -1}, "set: Input should be greater"),
        ({"group": "hh"}, "group 'hh': allowed are h, l"),
        ({"asked": {"smile": 1}}, "property 'smile': allowed are eyes, mouth, pose"),
        ({"asked": {"eyes": 21}}, "less than or equal to 20"),
        ({"asked": {"eyes": "much"}}, "valid number"),
        ({"asked": {f"p{count}": 1 for count in range(30)}}, "at most 20 items"),
        ({"path": "/etc/passwd"}, "path: Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_asked_is_one_line(studio: Studio, changes: dict[str, Any], message: str) -> None:
    async def work(client: Client) -> None:
        reply = await client.post("/api/edit", json=body() | changes)
        assert reply.status == 400
        assert message in (await reply.json())["error"]
        reply = await client.post("/api/edit", data=b'{"kind": "seed", "key": "7", "asked": {"eyes": NaN}}')
        assert reply.status == 400
        assert (await client.post("/api/edit", json=body(key="1" * 100_000))).status == 413

    ask(studio, work)


def test_only_named_files_and_faces_are_given(studio: Studio) -> None:
    async def work(client: Client) -> None:
        for address in PAGES:
            reply = await client.get(address)
            assert reply.status == 200
            assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        for address, status in (
            *((one, 404) for one in ("/params.yaml", "/studio.html", "/faces.py", "/%2e%2e/params.yaml")),
            *((one, 404) for one in ("/faces/0/seed/..%2f7", "/faces/0/seed/", "/pictures/params.yaml")),
            *((one, 400) for one in ("/faces/3/seed/7", "/faces/0/file/7", "/faces/0/case/7", "/faces/0/seed/x")),
            *((f"/pictures/{one}", 400) for one in ("face", "gif?kind=seed&key=7&of=smile", "grid?kind=seed&key=x")),
            ("/pictures/strip?kind=seed&key=7&ask.eyes=nan", 400),
            ("/pictures/strip?kind=seed&key=7&ask.smile=1", 400),
        ):
            assert (await client.get(address)).status == status, address
        for host in ("evil.example", "192.168.1.7"):
            assert (await client.get("/api/state", headers={"Host": host})).status == 403
        for site in ("cross-site", "same-site"):
            headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
            assert (await client.get("/pictures/grid?kind=seed&key=7", headers=headers)).status == 403

    ask(studio, work)


def test_with_a_token_only_who_has_it_is_answered(studio: Studio) -> None:
    async def work(client: Client) -> None:
        for address in ("/", "/studio.js", "/api/state", "/faces/0/seed/7", "/pictures/face?kind=seed&key=7"):
            assert (await client.get(address)).status == 403
        for address in ("/api/edit", "/api/characters"):
            assert (await client.post(address, json=body())).status == 403

    ask(studio, work, TOKEN)


# ---------------------------------------------------------------- as a program


def test_program_serves_the_bundled_generator_with_vectors_of_two_folders(
    folder: Path, default_params: dict[str, Any]
) -> None:
    """Made-up vectors and an untrained property CNN: what matters here is that all parts are found and loaded."""
    YAML(typ="safe").dump(default_params, folder / "params.yaml")
    cnn = PropertyCNN(128)
    save_tensors(folder / PROPERTY_CNN, cnn.state_dict())
    made = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    made /= np.linalg.norm(made, axis=-1, keepdims=True)
    mark = weights_fingerprint(load_bundled("generator"))
    scores = np.random.default_rng(1).standard_normal((10, 8))
    found = directions(made, scores, generator=mark)
    for path in (folder / VECTORS, folder / "other" / Path(VECTORS).name):
        save_found(path, Found(found, [], np.empty((0, 512)), np.empty(0), {}, 0))
    with program(folder, "--port", "0", "--vectors", "other", page="studio") as (process, address):
        assert process.poll() is None
        with urlopen(f"{address}faces/1/seed/7") as reply, Image.open(reply) as image:
            assert image.size == (128, 128)
    command = [sys.executable, "-m", "ohlora.web", "studio", "--vectors", "nowhere"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (
        2,
        "error: nowhere/vectors.npz: not there yet; make it with: dvc repro test_vectors\n",
    )
