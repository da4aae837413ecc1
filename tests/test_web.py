"""The pages' server: who is answered, what can be asked for, and what the labelling page writes."""

import argparse
import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from web import N_LABELS, Client, ask_server, prepare, program

from ohlora.errors import UserError
from ohlora.files import write_images
from ohlora.labelling import LabelTable
from ohlora.stages.paths import BASE, V1, ImageSet
from ohlora.web import studio
from ohlora.web.label import PAGES, label_application
from ohlora.web.server import BODY_LIMIT, checked_token

TOKEN = "abcdefghijklmnop-1234"


@pytest.fixture
def folder(tmp_path: Path, default_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return prepare(tmp_path, default_params)


def ask(work: Callable[[Client], Awaitable[None]], token: str | None = None) -> None:
    ask_server(label_application(token), work)


async def state(client: Client, labeller: str = "anna", name: str = "base") -> dict[str, Any]:
    reply = await client.get("/api/state", params={"set": name, "labeller": labeller})
    assert reply.status == 200, await reply.text()
    return await reply.json()


def body(mark: str, *answers: tuple[int, str, int | None, int | None], **changes: Any) -> dict[str, Any]:
    keys = ("id", "attribute", "value", "before")
    given = [dict(zip(keys, answer, strict=True)) for answer in answers]
    return {"set": "base", "mark": mark, "labeller": "anna", "answers": given} | changes


def answers_of(files: ImageSet = BASE) -> dict[tuple[int, str, str], int]:
    table = LabelTable(files.human_labels, range(1000), files.attributes).read()
    keys = zip(*(table[name].tolist() for name in ("id", "attribute", "labeller")), strict=True)
    return dict(zip(keys, table["value"].tolist(), strict=True))


# ---------------------------------------------------------------- answers


@pytest.mark.usefixtures("folder")
def test_answers_are_written_shown_again_and_taken_back() -> None:
    async def work(client: Client) -> None:
        first = await state(client)
        assert first["ids"] == list(range(N_LABELS))
        assert first["last"] is None
        assert first["suggestions"]["gender"]["3"] == [1, 0.9]
        reply = await client.post(
            "/api/answers", json=body(first["mark"], (3, "gender", 1, None), (4, "quality", 0, None))
        )
        assert (reply.status, await reply.json()) == (200, {"saved": 2})
        assert answers_of() == {(3, "gender", "anna"): 1, (4, "quality", "anna"): 0}
        again = await state(client)
        assert again["answers"] == {"gender": {"3": 1}, "quality": {"4": 0}}
        assert again["last"] in (3, 4)
        assert (await state(client, "ben"))["answers"] == {"gender": {}, "quality": {}}
        await client.post("/api/answers", json=body(first["mark"], (3, "gender", None, 1)))
        assert answers_of() == {(4, "quality", "anna"): 0}

    ask(work)


@pytest.mark.usefixtures("folder")
def test_images_of_v1_have_a_table_and_attributes_of_their_own() -> None:
    async def work(client: Client) -> None:
        there = await state(client, name="v1")
        assert [attribute["name"] for attribute in there["attributes"]] == list(V1.attributes)
        given = body(there["mark"], (1, "glass", 1, None), set="v1")
        assert (await client.post("/api/answers", json=given)).status == 200
        assert answers_of(V1) == {(1, "glass", "anna"): 1}
        assert not Path(BASE.human_labels).exists()
        given = body((await state(client))["mark"], (1, "glass", 1, None))
        assert (await client.post("/api/answers", json=given)).status == 400

    ask(work)


@pytest.mark.usefixtures("folder")
def test_answer_given_in_another_tab_comes_back_and_stays() -> None:
    async def work(client: Client) -> None:
        mark = (await state(client))["mark"]
        await client.post("/api/answers", json=body(mark, (3, "gender", 1, None)))
        reply = await client.post("/api/answers", json=body(mark, (3, "gender", 0, None)))
        assert reply.status == 409
        assert (await reply.json())["current"] == [{"id": 3, "attribute": "gender", "value": 1}]
        assert answers_of() == {(3, "gender", "anna"): 1}

    ask(work)


@pytest.mark.usefixtures("folder")
def test_requests_at_once_do_not_mix() -> None:
    """Eight people answer at once; replies count each one's own, and everything is in the table."""
    people = [f"person{number}" for number in range(8)]

    async def work(client: Client) -> None:
        mark = (await state(client))["mark"]

        async def label(number: int, person: str) -> None:
            for id_ in range(number + 1):
                given = body(mark, (id_, "gender", number % 2, None), labeller=person)
                reply = await client.post("/api/answers", json=given)
                assert await reply.json() == {"saved": id_ + 1}
            assert (await state(client, person))["answers"]["gender"] == {str(i): number % 2 for i in range(number + 1)}

        await asyncio.gather(*(label(number, person) for number, person in enumerate(people)))

    ask(work)
    assert answers_of() == {
        (id_, "gender", person): number % 2 for number, person in enumerate(people) for id_ in range(number + 1)
    }


@pytest.mark.usefixtures("folder")
def test_answers_to_images_that_are_others_by_now_are_not_written() -> None:
    async def work(client: Client) -> None:
        mark = (await state(client))["mark"]
        before = await (await client.get("/images/base/2")).read()
        write_images(BASE.images, range(20), [np.full((64, 64, 3), 9, np.uint8)] * 20)
        reply = await client.post("/api/answers", json=body(mark, (3, "gender", 1, None)))
        assert (reply.status, (await reply.json())["reload"]) == (409, True)
        assert not Path(BASE.human_labels).exists()
        assert len((await state(client))["ids"]) == 20
        assert await (await client.get("/images/base/2")).read() != before

    ask(work)


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"set": "v9"}, 400, "set 'v9': allowed is base or v1"),
        ({"labeller": "<b>"}, 400, "name '<b>': allowed are"),
        ({"labeller": "x" * 33}, 400, "labeller: "),
        ({"answers": []}, 400, "answers: "),
        ({"more": 1}, 400, "more: "),
        (
            {"answers": [{"id": 4711, "attribute": "gender", "value": 1, "before": None}]},
            400,
            "id 4711: allowed is 0 to",
        ),
        ({"answers": [{"id": "1", "attribute": "gender", "value": 1, "before": None}]}, 400, "answers.0.id: "),
        ({"answers": [{"id": 1, "attribute": "gender", "value": 2, "before": None}]}, 400, "answers.0.value"),
        ({"answers": [{"id": 1, "attribute": "../x", "value": 1, "before": None}]}, 400, "attribute '../x'"),
        ({"mark": "m" * BODY_LIMIT}, 413, ""),
    ],
)
@pytest.mark.usefixtures("folder")
def test_requests_that_are_not_allowed_write_nothing(changes: dict[str, Any], status: int, message: str) -> None:
    async def work(client: Client) -> None:
        mark = (await state(client))["mark"]
        reply = await client.post("/api/answers", json=body(mark, (1, "gender", 1, None)) | changes)
        text = await reply.text()
        assert reply.status == status
        if message:
            assert json.loads(text)["error"].startswith(message)
        for kind, content in (("text/plain", "{}"), ("application/json", "{"), ("application/json", "[1]")):
            reply = await client.post("/api/answers", data=content, headers={"Content-Type": kind})
            assert reply.status == 400

    ask(work)
    assert not Path(BASE.human_labels).exists()


@pytest.mark.usefixtures("folder")
def test_faulty_table_is_named_and_left_alone() -> None:
    faulty = "id,attribute,value\n1,<script>alert(1)</script>,1\n"

    async def work(client: Client) -> None:
        mark = (await state(client))["mark"]
        Path(BASE.human_labels).parent.mkdir(parents=True)
        Path(BASE.human_labels).write_text(faulty)
        reply = await client.post("/api/answers", json=body(mark, (1, "gender", 1, None)))
        assert reply.status == 500
        assert reply.content_type == "application/json"  # never HTML
        assert f"{BASE.human_labels}, line 2: attribute is <script>" in (await reply.json())["error"]

    ask(work)
    assert Path(BASE.human_labels).read_text() == faulty


# ---------------------------------------------------------------- what can be asked for


@pytest.mark.usefixtures("folder")
def test_only_named_files_and_images_of_the_sets_are_given() -> None:
    async def work(client: Client) -> None:
        for address in PAGES:
            reply = await client.get(address)
            assert reply.status == 200
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        image = await client.get("/images/base/5")
        assert (image.status, image.content_type) == (200, "image/png")
        for address in (
            *("/params.yaml", "/data/labels/human.csv", "/label.html", "/server.py", "/static/label.js"),
            *("/%2e%2e/params.yaml", "/%2fetc/passwd", "/images/base/..%2f..%2fparams.yaml"),
            *("/images/base/4711", "/images/base/-1", "/images/base/1.png", "/images/base/", "/images/..%2fbase/1"),
        ):
            reply = await client.get(address)
            assert reply.status == 404, address
            assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert (await client.get("/images/v9/1")).status == 400

    ask(work)


def test_page_asks_nothing_of_other_hosts() -> None:
    folder = ROOT / "src/ohlora/web/static"
    names = {path.name for path in folder.iterdir()}
    assert names == {*PAGES.values(), *studio.PAGES.values()}
    for path in folder.iterdir():
        assert "http" not in path.read_text().replace("http://www.w3.org/2000/svg", ""), path


@pytest.mark.usefixtures("folder")
def test_without_a_token_only_this_machines_own_pages_are_answered() -> None:
    async def work(client: Client) -> None:
        for host in ("localhost:1", "127.0.0.1", "[::1]:8"):
            assert (await client.get("/api/state", headers={"Host": host})).status == 200
        for host in ("evil.example", "evil.example:8642", "127.0.0.1.evil.example", "192.168.1.7"):
            assert (await client.get("/api/state", headers={"Host": host})).status == 403
        own = f"http://{client.host}:{client.port}"
        mark = (await state(client))["mark"]
        for origin, status in ((own, 200), ("http://evil.example", 403), ("null", 403), (f"{own}0", 403)):
            given = body(mark, (1, "gender", 1, None))
            assert (await client.post("/api/answers", json=given, headers={"Origin": origin})).status == status
        # Pictures in another site's page have no Origin; a link in it may be followed.
        for site, mode, status in (("cross-site", "no-cors", 403), ("cross-site", "navigate", 200)):
            headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
            assert (await client.get("/images/base/1", headers=headers)).status == status

    ask(work)


@pytest.mark.usefixtures("folder")
def test_with_a_token_only_who_has_it_is_answered() -> None:
    async def work(client: Client) -> None:
        for address in ("/", "/label.js", "/api/state", "/images/base/1", f"/?token={TOKEN}x", "/?token="):
            reply = await client.get(address)
            assert reply.status == 403, address
            assert TOKEN not in await reply.text()
        assert (await client.post(f"/api/answers?token={TOKEN}", json={})).status == 403
        moved = await client.get(f"/?token={TOKEN}", allow_redirects=False)
        assert (moved.status, moved.headers["Location"]) == (302, "/")
        assert "HttpOnly" in moved.headers["Set-Cookie"]
        assert "SameSite=Lax" in moved.headers["Set-Cookie"]
        # The cookie is there now, whatever name the machine is asked by.
        value = moved.headers["Set-Cookie"].partition(";")[0].partition("=")[2]
        cookie = f"ohlora_{client.port}={value}"
        for address in ("/", "/api/state", "/images/base/1"):
            assert (await client.get(address, headers={"Cookie": cookie})).status == 200
        other = {"Cookie": cookie, "Origin": "http://evil.example"}
        assert (await client.get("/api/state", headers=other)).status == 403

    ask(work, TOKEN)


@pytest.mark.parametrize(
    ("host", "given", "expected"),
    [
        ("127.0.0.1", None, None),
        ("localhost", None, None),
        ("::1", None, None),
        ("127.0.0.1", TOKEN, TOKEN),
        ("0.0.0.0", TOKEN, TOKEN),
        ("0.0.0.0", None, "new"),
        ("192.168.1.7", None, "new"),
        ("::", None, "new"),
        ("machine.example", None, "new"),
        ("0.0.0.0", "short", "error"),
        ("127.0.0.1", "with spaces and more", "error"),
    ],
)
def test_other_addresses_need_a_token(host: str, given: str | None, expected: str | None) -> None:
    options = argparse.Namespace(host=host, token=given)
    if expected == "error":
        with pytest.raises(UserError, match="--token: allowed are 16 to 200"):
            checked_token(options)
    elif expected == "new":
        made = checked_token(options)
        assert made is not None
        assert len(made) >= 32
        assert made != checked_token(options)
    else:
        assert checked_token(options) == expected


# ---------------------------------------------------------------- as a program


def test_program_survives_broken_connections_and_ends_on_request(folder: Path) -> None:
    with program(folder, "--port", "0") as (process, address):
        port = int(address.rstrip("/").rpartition(":")[2])
        start = b"POST /api/answers HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        start += b"Content-Length: 900\r\n"
        for sent in (
            b"",
            b"GET /images/base/1 HTTP/1.1\r\n",
            start + b'\r\n{"set": "ba',
            b"\x16\x03\x01 no HTTP\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(sent)
                # Reset, as by a killed browser.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        # A browser would tidy these paths before it asks.
        for path, status in (("/", 200), ("/../params.yaml", 404), ("/images/base/../../../params.yaml", 404)):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
                assert connection.recv(12) == f"HTTP/1.0 {status}".encode()
        assert process.poll() is None
        # The port is taken now: a second server says so in one line.
        command = [sys.executable, "-m", "ohlora.web", "label", "--port", str(port)]
        second = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert second.stderr == f"error: --host 127.0.0.1 --port {port}: Address already in use; choose another\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate() == ("", "")
        assert process.returncode == 130


def test_program_without_images_says_how_to_make_them(folder: Path) -> None:
    for files in (BASE, V1):
        Path(files.images).unlink()
    command = [sys.executable, "-m", "ohlora.web", "label"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == f"error: {BASE.images}: not there yet; make it with: dvc repro label\n"
