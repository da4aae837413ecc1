"""The labelling page: shows images without an answer, takes answers, writes each at once."""

import argparse
import threading
from pathlib import Path
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from ohlora.errors import UserError
from ohlora.files import ImageZip, read_csv
from ohlora.labelling import NAME_ALLOWED, Answer, Changed, LabelTable, NotAllowed, good_name
from ohlora.params import load_params
from ohlora.stages import PARAMS
from ohlora.stages.paths import IMAGE_SETS, ImageSet
from ohlora.web.server import Refused, add_options, application, checked_token, in_thread, pages, read_body, serve

PORT = 8642
PAGES = pages("label")
# What 0 and 1 mean, and what to look at.
ATTRIBUTES = {
    "gender": ("man", "woman", "what the picture looks like"),
    "quality": ("bad", "good", "bad: blurred, smeared or broken"),
    "age": ("young", "old", ""),
    "glass": ("no glasses", "glasses", "frames, not just dark eyes"),
}
TITLES = {"base": "Base", "v1": "FineTune-v1"}
MAKE = {"base": "dvc repro label", "v1": "dvc repro finetune/dvc.yaml:label_v1"}

Value = Literal[0, 1]
Count = Annotated[int, Field(ge=0, strict=True)]


class Given(BaseModel):
    """An answer as the browser sends it; see `labelling.Answer`."""

    model_config = ConfigDict(extra="forbid")
    id: Count
    attribute: Annotated[str, Field(max_length=20)]
    value: Value | None
    before: Value | None


class Answers(BaseModel):
    """Answers of one person to images of one set; `mark` is that of the images seen."""

    model_config = ConfigDict(extra="forbid")
    set: Annotated[str, Field(max_length=20)]
    mark: Annotated[str, Field(max_length=60)]
    labeller: Annotated[str, Field(max_length=32)]
    answers: Annotated[list[Given], Field(min_length=1, max_length=64)]


class Images:
    """The images of every set, opened when first asked for and again when their file is another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, tuple[str, ImageZip]] = {}

    def get(self, name: str) -> tuple[ImageSet, str, ImageZip]:
        """The set, a mark that changes with the images, and the images. Raises UserError, Refused for another name."""
        files = IMAGE_SETS.get(name)
        if files is None:
            raise Refused(f"set {name[:20]!r}: allowed is {' or '.join(IMAGE_SETS)}")
        if not Path(files.images).exists():
            raise UserError(f"{files.images}: not there yet; make it with: {MAKE[name]}")
        status = Path(files.images).stat()
        mark = f"{status.st_mtime_ns:x}-{status.st_size:x}"
        with self._lock:
            if name not in self._open or self._open[name][0] != mark:
                self._open[name] = mark, ImageZip(files.images)
            return files, mark, self._open[name][1]


IMAGES = web.AppKey("images", Images)


def label_table(files: ImageSet, images: ImageZip) -> LabelTable:
    """The people's table of a set."""
    return LabelTable(files.human_labels, images.ids, files.attributes)


def describe(images: Images, name: str, labeller: str) -> dict[str, Any]:
    """Everything the page shows of a set to a person: ids, the person's answers, the annotator's, where to go on."""
    files, mark, archive = images.get(name)
    if labeller and not good_name(labeller):
        raise Refused(f"name {labeller[:40]!r}: allowed are {NAME_ALLOWED}")
    ids = archive.ids[: load_params(PARAMS).label.n_labels].tolist()
    table = label_table(files, archive).read()
    mine = table[table["labeller"] == labeller]
    last = mine.sort_values("time", kind="stable")["id"].tolist()[-1:]
    answers: dict[str, dict[int, int]] = {attribute: {} for attribute in files.attributes}
    for id_, attribute, value in zip(*(mine[name].tolist() for name in ("id", "attribute", "value")), strict=True):
        answers[attribute][id_] = value
    return {
        "sets": [
            {"name": other, "title": TITLES[other], "ready": Path(its.images).exists(), "make": MAKE[other]}
            for other, its in IMAGE_SETS.items()
        ],
        "set": name,
        "mark": mark,
        "labeller": labeller,
        "attributes": [
            {"name": attribute, "options": ATTRIBUTES[attribute][:2], "hint": ATTRIBUTES[attribute][2]}
            for attribute in files.attributes
        ],
        "ids": ids,
        "answers": answers,
        "suggestions": suggestions(files),
        "last": last[0] if last else None,
        "table": files.human_labels,
    }


def suggestions(files: ImageSet) -> dict[str, dict[int, tuple[int, float]]]:
    """By attribute and id the annotator's value and its probability of 1; empty where the stage has not run."""
    found: dict[str, dict[int, tuple[int, float]]] = {attribute: {} for attribute in files.attributes}
    if Path(files.guesses).exists():
        columns = {"id": int, "attribute": str, "value": int, "probability": float}
        table = read_csv(files.guesses, columns, ("id", "attribute"))
        for id_, attribute, value, probability in zip(*(table[name].tolist() for name in columns), strict=True):
            if attribute in found:
                found[attribute][id_] = value, probability
    return found


def write(images: Images, given: Answers) -> tuple[int, dict[str, Any]]:
    """Writes answers; gives the status and the body of the reply."""
    files, mark, archive = images.get(given.set)
    if mark != given.mark:
        return 409, {"error": f"{files.images}: other images than you saw; nothing was written", "reload": True}
    answers = [Answer(**answer.model_dump()) for answer in given.answers]
    try:
        return 200, {"saved": label_table(files, archive).answer(given.labeller, answers)}
    except Changed as error:
        current = [{"id": a.id, "attribute": a.attribute, "value": a.value} for a in error.current]
        return 409, {"error": str(error), "current": current}
    except NotAllowed as error:
        raise Refused(str(error)) from None


# ---------------------------------------------------------------- requests


async def get_state(request: web.Request) -> web.Response:
    name, labeller = request.query.get("set", ""), request.query.get("labeller", "")
    if not name:
        name = next((other for other, files in IMAGE_SETS.items() if Path(files.images).exists()), "base")
    return web.json_response(await in_thread(describe, request.app[IMAGES], name, labeller))


async def get_image(request: web.Request) -> web.Response:
    def read() -> tuple[str, bytes, str]:
        _, mark, archive = request.app[IMAGES].get(request.match_info["set"])
        id_ = int(request.match_info["id"])
        if id_ not in archive.ids:
            raise web.HTTPNotFound(text=f"error: no image {id_}")
        return mark, *archive.encoded(id_)

    mark, content, kind = await in_thread(read)
    response = web.Response(body=content, content_type={"png": "image/png", "jpg": "image/jpeg"}[kind])
    if request.query.get("v") == mark:
        response.headers["Cache-Control"] = "private, max-age=86400, immutable"
    return response


async def post_answers(request: web.Request) -> web.Response:
    status, body = await in_thread(write, request.app[IMAGES], await read_body(request, Answers))
    return web.json_response(body, status=status)


def label_application(token: str | None = None) -> web.Application:
    """The page and what it asks for; works in the current folder, the repository's root."""
    app = application(PAGES, token)
    app[IMAGES] = Images()
    app.router.add_get("/api/state", get_state)
    app.router.add_get(r"/images/{set:\w{1,20}}/{id:[0-9]{1,9}}", get_image)
    app.router.add_post("/api/answers", post_answers)
    return app


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, PORT)


def run(options: argparse.Namespace) -> None:
    """Checks the tables and serves the page."""
    token, images = checked_token(options), Images()
    load_params(PARAMS)
    ready = [name for name, files in IMAGE_SETS.items() if Path(files.images).exists()]
    for name in ready or ["base"]:
        files, _, archive = images.get(name)
        label_table(files, archive).read()
    serve(label_application(token), "Labelling page", options, token)
