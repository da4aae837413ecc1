"""The face studio: draws a face, moves its expressions by sliders, reads what came of it, keeps characters."""

import argparse
import asyncio
import base64
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from ohlora.characters import NAME
from ohlora.editor import MOST
from ohlora.errors import UserError
from ohlora.files import encode_image
from ohlora.params import TestVectors, load_params
from ohlora.runtime import pick_device, reuse_memory
from ohlora.stages import PARAMS
from ohlora.stages.paths import CHARACTERS, PROPERTY_CNN, VECTORS
from ohlora.web.faces import MOST_SEED, Faces, Kind, Sources, Unknown
from ohlora.web.server import Refused, add_options, application, checked, checked_token, pages, read_body, serve
from ohlora.weights import load_bundled

PORT = 8643
PAGES = pages("studio")
SLIDER_REACH = 3.0  # standard deviations
Result = TypeVar("Result")

Request = Annotated[float, Field(ge=-MOST, le=MOST, allow_inf_nan=False)]


class Chosen(BaseModel):
    """A face as the browser names it: of which vectors' generator, and where its latent comes from."""

    model_config = ConfigDict(extra="forbid")
    set: Annotated[int, Field(ge=0, le=1000)] = 0
    kind: Kind
    key: Annotated[str, Field(min_length=1, max_length=40)]


class Edit(Chosen):
    """What is asked of a face, in standard deviations; without a group, that which is read from the face."""

    group: Annotated[str, Field(max_length=20)] = ""
    asked: Annotated[dict[Annotated[str, Field(max_length=40)], Request], Field(max_length=20)] = {}


class Keep(Chosen):
    """A face that becomes a character."""

    group: Annotated[str, Field(max_length=20)]
    name: Annotated[str, Field(max_length=40)]


class Studio:
    """All networks, behind one thread: whatever asks, requests are answered one after the other and never mix.

    Args:
        sets: the faces of each file of vectors.
        test: how the test of vectors goes: weights of its images, reach of its strips.
    """

    def __init__(self, sets: Sequence[Faces], test: TestVectors):
        self.sets, self.test, self.sources = sets, test, Sources()
        self._thread = ThreadPoolExecutor(1, "networks")

    async def do(self, request: web.Request, work: Callable[[], Result]) -> Result:
        """What `work` gives in the networks' thread; it is not begun for a browser that is gone meanwhile."""

        def begin() -> Result:
            if request.transport is None or request.transport.is_closing():
                raise Refused("nobody waits for this any more")
            try:
                return work()
            except Unknown as error:
                raise Refused(str(error)) from None

        return await asyncio.get_running_loop().run_in_executor(self._thread, begin)

    def faces(self, chosen: Chosen) -> Faces:
        if chosen.set >= len(self.sets):
            raise Refused(f"set {chosen.set}: there are {len(self.sets)}")
        return self.sets[chosen.set]

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------ in the networks' thread

    def describe(self) -> dict[str, Any]:
        """Everything the page shows but faces."""
        own = self.sets[0].editor.directions.generator
        sets = [
            # Characters are faces of the pipeline's generator; another would draw other people from them.
            faces.describe() | {"keeps": faces.editor.directions.generator == own, "mark": faces.mark}
            for faces in self.sets
        ]
        limits = {"reach": SLIDER_REACH, "most_seed": MOST_SEED, "images": self._images()}
        return {"sets": sets, "limits": limits, "characters_table": CHARACTERS} | self.sources.describe()

    def _images(self) -> int:
        return math.prod(map(len, self.test.weights.model_dump().values()))

    def unedited(self, chosen: Chosen) -> bytes:
        """A PNG file."""
        faces = self.faces(chosen)
        z, _ = self.sources.latent(faces, chosen.kind, chosen.key)
        return encode_image(faces.face(z).readings.pixels[0])

    def edit(self, edit: Edit) -> tuple[bytes, dict[str, Any]]:
        """A PNG file, and the group used, the group read, and the readings."""
        faces, z, group, own = self._of(edit)
        image, readings = faces.edit(z, group, edit.asked)
        return encode_image(image), {"group": group, "own": own, "readings": readings}

    def picture(self, edit: Edit, kind: str, of: str) -> tuple[bytes, str]:
        """A file and its kind, png or gif."""
        faces, z, group, _ = self._of(edit)
        if kind == "gif":
            if of not in faces.editor.properties:
                raise Refused(f"property {of[:40]!r}: allowed are {', '.join(faces.editor.properties)}")
            return faces.gif(z, group, edit.asked, of, self.test.strip_reach), "gif"
        if kind == "strip":
            others = ", ".join(f"{name} {value:+.1f}" for name, value in edit.asked.items() if value)
            title = f"{edit.kind} {edit.key}, group {group}" + (f"; the others at {others}" if others else "")
            return encode_image(faces.strip(z, group, edit.asked, self.test.strip_reach, title)), "png"
        if kind == "grid":
            return encode_image(faces.grid(z, group, self.test.weights.model_dump())), "png"
        return encode_image(faces.edit(z, group, edit.asked)[0]), "png"

    def keep(self, keep: Keep) -> None:
        """Writes a character."""
        if not NAME.fullmatch(keep.name):
            raise Refused(f"name {keep.name!r}: allowed are 1 to 40 letters, digits, _ and -, a letter or digit first")
        faces = self.faces(keep)
        if faces.editor.directions.generator != self.sets[0].editor.directions.generator:
            raise Refused(f"{faces.title}: its faces are of another generator than the characters'")
        z, _ = self.sources.latent(faces, keep.kind, keep.key)
        self.sources.save(faces, keep.name, self._group(faces, keep.group), z)

    def _of(self, edit: Edit) -> tuple[Faces, Any, str, str]:
        """The faces, z, the group whose vectors are used and the face's own."""
        faces = self.faces(edit)
        unknown = edit.asked.keys() - set(faces.editor.properties)
        if unknown:
            raise Refused(f"property {min(unknown)!r}: allowed are {', '.join(faces.editor.properties)}")
        z, kept = self.sources.latent(faces, edit.kind, edit.key)
        own = kept or faces.face(z).group
        return faces, z, self._group(faces, edit.group) if edit.group else own, own

    def _group(self, faces: Faces, group: str) -> str:
        if group not in faces.editor.directions.groups:
            raise Refused(f"group {group!r}: allowed are {', '.join(faces.editor.directions.groups)}")
        return group


STUDIO = web.AppKey("studio", Studio)


# ---------------------------------------------------------------- requests


async def get_state(request: web.Request) -> web.Response:
    studio = request.app[STUDIO]
    return web.json_response(await studio.do(request, studio.describe))


async def get_face(request: web.Request) -> web.Response:
    studio, chosen = request.app[STUDIO], checked(Chosen, dict(request.match_info))
    return web.Response(body=await studio.do(request, lambda: studio.unedited(chosen)), content_type="image/png")


async def post_edit(request: web.Request) -> web.Response:
    """Image and readings in one answer: one computation, and they always belong together."""
    studio, edit = request.app[STUDIO], await read_body(request, Edit)
    image, rest = await studio.do(request, lambda: studio.edit(edit))
    return web.json_response(rest | {"image": base64.b64encode(image).decode()})


async def get_picture(request: web.Request) -> web.Response:
    studio, kind, query = request.app[STUDIO], request.match_info["kind"], dict(request.query)
    of, save = query.pop("of", ""), "save" in query
    query.pop("save", None)
    asked = {key.removeprefix("ask."): query.pop(key) for key in list(query) if key.startswith("ask.")}
    edit = checked(Edit, {**query, "asked": asked})
    content, suffix = await studio.do(request, lambda: studio.picture(edit, kind, of))
    response = web.Response(body=content, content_type=f"image/{suffix}")
    if save:
        parts = [edit.kind, edit.key] if edit.kind != "character" else [edit.key]
        name = "_".join([*parts, *([kind] if kind != "face" else []), *([of] if kind == "gif" else [])])
        response.headers["Content-Disposition"] = f'attachment; filename="{name}.{suffix}"'
    return response


async def post_character(request: web.Request) -> web.Response:
    studio, keep = request.app[STUDIO], await read_body(request, Keep)
    await studio.do(request, lambda: studio.keep(keep))
    return web.json_response({"saved": keep.name})


async def _close(app: web.Application) -> None:
    app[STUDIO].close()


def studio_application(studio: Studio, token: str | None = None) -> web.Application:
    """The page and what it asks for; works in the current folder, the repository's root."""
    app = application(PAGES, token)
    app[STUDIO] = studio
    app.on_cleanup.append(_close)
    app.router.add_get("/api/state", get_state)
    app.router.add_post("/api/edit", post_edit)
    app.router.add_post("/api/characters", post_character)
    app.router.add_get(r"/faces/{set:[0-9]{1,4}}/{kind:[a-z]{1,20}}/{key:[\w-]{1,40}}", get_face)
    app.router.add_get("/pictures/{kind:face|strip|grid|gif}", get_picture)
    return app


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, PORT)
    parser.add_argument(
        "--vectors",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="folders with other vectors.npz and vectors.json to choose from, beside those of the pipeline",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the networks run")


def run(options: argparse.Namespace) -> None:
    """Loads the networks and serves the page."""
    token, params, device = checked_token(options), load_params(PARAMS), pick_device(options.device)
    files = [Path(VECTORS), *(folder / Path(VECTORS).name for folder in options.vectors)]
    for file in (*files, Path(PROPERTY_CNN)):
        if not file.exists():
            raise UserError(f"{file}: not there yet; make it with: dvc repro test_vectors")
    reuse_memory()
    judge = load_bundled("judge").to(device)
    studio = Studio([Faces.load(file, PROPERTY_CNN, judge, device) for file in files], params.test_vectors)
    serve(studio_application(studio, token), "Face studio", options, token)
