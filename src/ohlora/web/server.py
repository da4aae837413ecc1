"""What all pages share: who may ask, which files are served, what errors look like, and the program around it."""

import argparse
import asyncio
import hmac
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ValidationError

from ohlora.errors import UserError, one_line

LOCAL = ("127.0.0.1", "localhost", "::1")
TOKEN = re.compile(r"[\w-]{16,200}", re.ASCII)
TOKEN_VARIABLE = "OHLORA_TOKEN"
BODY_LIMIT = 64 * 1024  # bytes of a request
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    # Nothing from elsewhere, no script or style inside the HTML: what slips through the escaping would not run.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Model = TypeVar("Model", bound=BaseModel)
Result = TypeVar("Result")


class Refused(UserError):
    """A request that is not allowed, and will not be when it comes again."""


# ---------------------------------------------------------------- application


def pages(name: str) -> dict[str, str]:
    """Addresses and the file that each gives: a page with its script and style, and what all pages share."""
    given = (f"{name}.js", f"{name}.css", "base.js", "base.css", "icon.svg")
    return {"/": f"{name}.html"} | {f"/{file}": file for file in given}


def application(pages: Mapping[str, str], token: str | None = None) -> web.Application:
    """An application that serves files of `ohlora/web/static`; a page adds its own routes.

    Args:
        pages: addresses and the file that each gives, as `pages` gives them; no other file can be asked for.
        token: whoever asks must have it; without one, only browsers on this machine are answered.
    """
    app = web.Application(middlewares=[_guard(token), _errors], client_max_size=BODY_LIMIT)
    app.on_response_prepare.append(_add_headers)
    for address, name in pages.items():
        app.router.add_get(address, _file(name))
    return app


def _file(name: str) -> Handler:
    content = files("ohlora.web").joinpath("static", name).read_bytes()
    kind = KINDS[PurePosixPath(name).suffix]

    async def give(_: web.Request) -> web.Response:
        return web.Response(body=content, content_type=kind, charset="utf-8")

    return give


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def _guard(token: str | None) -> Any:
    """Answers only who has the token, or without one who names this machine as local; never other sites' pages."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            raise web.HTTPForbidden(text="error: another site's page asked")
        # Pictures are asked for without an Origin; a link that somebody follows is no such request.
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and (
            request.headers.get("Sec-Fetch-Mode") != "navigate"
        ):
            raise web.HTTPForbidden(text="error: another site's page asked")
        if token is None:
            # A foreign name that resolves to this machine would make another site's page one of ours (DNS rebinding).
            if not _is_local(urlsplit(f"//{request.host}").hostname or ""):
                raise web.HTTPForbidden(text=f"error: asked for as {request.host}, allowed is {' or '.join(LOCAL)}")
            return await handler(request)
        cookie = f"ohlora_{request.url.port}"  # browsers share cookies between the ports of a machine
        if "token" in request.query and request.method == "GET":
            if not _same(request.query["token"], token):
                raise web.HTTPForbidden(text="error: this token is not the one that the server printed")
            # From here on the cookie carries it, and neither the address bar nor the history shows it.
            moved = web.HTTPFound(request.path)
            moved.set_cookie(cookie, token, httponly=True, samesite="Lax")
            raise moved
        if not _same(request.cookies.get(cookie, ""), token):
            raise web.HTTPForbidden(text="error: open the address with the token that the server printed")
        return await handler(request)

    return guard


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One line as JSON: 400 for a request that is not allowed, 500 for what can be put right on this machine."""
    try:
        return await handler(request)
    except Refused as error:
        return web.json_response({"error": one_line(error)}, status=400)
    except (UserError, OSError, MemoryError) as error:
        return web.json_response({"error": one_line(error)}, status=500)


async def read_body(request: web.Request, model: type[Model]) -> Model:
    """The JSON body of a request, checked. Raises Refused, and aiohttp's error 413 for a body above the limit."""
    if request.content_type != "application/json":
        raise Refused(f"content type {request.content_type[:80]!r}: allowed is application/json")
    return checked(model, await request.read())


def checked(model: type[Model], content: bytes | Mapping[str, Any]) -> Model:
    """What a browser sent, as JSON or as texts of an address. Raises Refused."""
    try:
        return model.model_validate_json(content) if isinstance(content, bytes) else model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise Refused(f"{where[:80]}: {first['msg'][:200]}") from None


async def in_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """The function's result; meanwhile the server answers others."""
    return await asyncio.to_thread(function, *arguments)


# ---------------------------------------------------------------- program


def add_options(parser: argparse.ArgumentParser, port: int) -> None:
    """The options that every page has."""
    parser.add_argument("--host", default=LOCAL[0], help="address to listen on; another than 127.0.0.1 needs a token")
    parser.add_argument("--port", type=int, default=port, help=f"port to listen on, 0 for any; default {port}")
    parser.add_argument(
        "--token",
        default=os.environ.get(TOKEN_VARIABLE),
        help=f"what a browser must bring; default ${TOKEN_VARIABLE}, and a new one where --host needs it",
    )


def checked_token(options: argparse.Namespace) -> str | None:
    """The token that the options ask for. Raises UserError if the one given is too short or has other characters."""
    if options.token and not TOKEN.fullmatch(options.token):
        raise UserError("--token: allowed are 16 to 200 letters, digits, - and _")
    return options.token or (None if _is_local(options.host) else secrets.token_urlsafe(24))


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(app: web.Application, title: str, options: argparse.Namespace, token: str | None) -> None:
    """Serves until Ctrl-C, and prints the address. Raises UserError if the address cannot be had."""
    asyncio.run(_serve(app, title, options, token))


async def _serve(app: web.Application, title: str, options: argparse.Namespace, token: str | None) -> None:
    if not 0 <= options.port <= 65535:
        raise UserError(f"--port {options.port}: allowed is 0 to 65535")
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, options.host, options.port).start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else one_line(error)
            raise UserError(f"--host {options.host} --port {options.port}: {reason}; choose another") from None
        port = runner.addresses[0][1]
        host = socket.gethostname() if options.host in ("0.0.0.0", "::") else options.host
        host = f"[{host}]" if ":" in host else host
        query = f"?token={token}" if token else ""
        print(f"{title}: http://{host}:{port}/{query}  (Ctrl-C ends)", flush=True)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
