"""`python -m ohlora weights add NAME|FILE|URL...`, `... place NAME`, `... export SOURCE FILE`."""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from ohlora.errors import UserError, one_line
from ohlora.files import atomic
from ohlora.finetune.recipes import RECIPES
from ohlora.published import add, export
from ohlora.stages.paths import BASE, DOWNLOADS, GENERATORS, PROPERTY_CNN, PUBLISHED, V1
from ohlora.validation import read_yaml
from ohlora.weights import check_sum, stored

CHUNK = 1 << 20  # bytes read at once
GAN_PARTS = ("generator", "discriminator", "encoder")
TIMEOUT = 60.0  # seconds without an answer


def known(name: str) -> Path | None:
    """The `dvc import-url` file of a known source, such as facexformer."""
    return next(iter(sorted(Path(DOWNLOADS).glob(f"{name}.*.dvc"))), None) if re.fullmatch(r"\w+", name) else None


def update(entry: Path) -> Path:
    """The file that a `dvc import-url` file stands for; fetched unless it is there, which a person may have placed.

    Raises:
        UserError: it could not be fetched, or is not the one that was fetched first; says where it has to be placed.
    """
    path, content = entry.with_suffix(""), read_yaml(entry)
    by_hand = f"fetch {content['deps'][0]['path']} by hand, place it as {path} and run this again"
    if not path.exists():
        result = subprocess.run([sys.executable, "-m", "dvc", "update", str(entry)], capture_output=True, text=True)
        if result.returncode or not path.exists():
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("ERROR: ")
            raise UserError(f"{path}: not fetched ({reason}); {by_hand}")
    expected = content["outs"][0].get("md5")  # DVC notes it with the first fetch
    with path.open("rb") as file:
        if expected and hashlib.file_digest(file, "md5").hexdigest() != expected:
            raise UserError(f"{path}: not the file that {entry} describes (md5 expected {expected}); {by_hand}")
    return path


def download(url: str) -> Path:
    """Fetches a file into models/downloads: the whole file or none.

    Raises:
        UserError: no answer, a web page instead of a file, or fewer bytes than announced.
    """
    # Of its own name for each address: neither two addresses nor a known source may share a file.
    name = re.sub(r"[^\w.-]", "_", Path(urlsplit(url).path).name).strip(".") or "weights.pth"
    path = Path(DOWNLOADS) / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}_{name.removesuffix('.dvc')}"
    by_hand = f"fetch it by hand, place it as {path} and add that file"
    try:
        with urlopen(Request(url, headers={"User-Agent": "ohlora"}), timeout=TIMEOUT) as answer, atomic(path) as file:
            if "html" in answer.headers.get("Content-Type", ""):
                raise UserError(f"{url}: a web page, not a file of weights; {by_hand}")
            total = int(answer.headers.get("Content-Length", 0)) or None
            with (
                file.open("wb") as handle,
                tqdm.wrapattr(handle, "write", total=total, desc=path.name, disable=None) as target,
            ):
                shutil.copyfileobj(answer, target, CHUNK)
            if total and file.stat().st_size != total:
                raise UserError(
                    f"{url}: only {file.stat().st_size} of {total} bytes came; run this again, or {by_hand}"
                )
    except (URLError, HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        raise UserError(f"{url}: {one_line(error)}; {by_hand}") from None
    return path


def located(source: str) -> tuple[Path, str]:
    """The local file of a source, and where it comes from.

    Raises:
        UserError: neither a known name, nor an address, nor a file; or it could not be fetched.
    """
    if source.startswith(("http://", "https://")):
        return download(source), source
    entry = None if Path(source).exists() else known(source)
    if entry is not None:
        return update(entry), f"{entry.name}, {source}"
    if not Path(source).is_file():
        names = ", ".join(path.name.partition(".")[0] for path in sorted(Path(DOWNLOADS).glob("*.dvc")))
        raise UserError(
            f"{source}: no such file; allowed are a file, an address (https://...) or a known name: {names}"
        )
    return Path(source), ""


def place(name: str) -> list[Path]:
    """Copies the networks of models/published/NAME to where the stages would leave theirs, and gives the new files.

    A generator goes to models/generators (NAME is its recipe's), the property CNN and the filter networks to theirs.

    Raises:
        UserError: nothing is there under the name, or a network that no stage makes.
    """
    found = sorted(Path(PUBLISHED, name).glob("*.safetensors"))
    if not found:
        raise UserError(f"{PUBLISHED}/{name}: no weights there; add them with python -m ohlora weights add FILE")
    targets = {"property_cnn": PROPERTY_CNN, **{part: BASE.filter_networks(part) for part in BASE.attributes}}
    targets |= {part: V1.filter_networks(part) for part in V1.attributes if part not in targets}
    if name in RECIPES:
        targets |= {part: f"{GENERATORS.format(name)}/{part}.safetensors" for part in GAN_PARTS}
    odd = [path for path in found if path.stem not in targets]
    if odd:
        raise UserError(
            f"{odd[0]}: no stage makes it; base.weights and segment.backend in params.yaml name such weights"
        )
    for path in found:
        with atomic(targets[path.stem]) as temporary:
            shutil.copyfile(stored(PUBLISHED, f"{name}/{path.name}"), temporary)
    return [Path(targets[path.stem]) for path in found]


def run(arguments: list[str]) -> None:
    """Adds or exports weights, and says in a line for each file what was written."""
    parser = argparse.ArgumentParser("python -m ohlora weights", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    adding = verbs.add_parser("add", help="check published weights and keep them under models/published")
    adding.add_argument("sources", nargs="+", help="files, addresses or a known name; the folds of one CNN together")
    adding.add_argument("--as", dest="folder", default="", help="name under models/published, such as v1")
    adding.add_argument("--sha256", default="", help="of the file as published")
    placing = verbs.add_parser("place", help="copy added networks to where the stages would leave theirs")
    placing.add_argument("folder", help="name under models/published, such as v1 or ohlora")
    exporting = verbs.add_parser("export", help="write weights of ours in the published layout")
    exporting.add_argument("source", type=Path, help="a safetensors file, or a folder with generator and discriminator")
    exporting.add_argument("target", type=Path, help="the file to write, such as v1.pth")
    options = parser.parse_args(arguments)
    if options.verb == "export":
        written = export(options.source, options.target)
    elif options.verb == "place":
        written = place(options.folder)
    else:
        if options.folder and not re.fullmatch(r"[\w-]+", options.folder):
            parser.error(f"--as {options.folder}: allowed are letters, digits, _ and -")
        if options.sha256 and len(options.sources) > 1:
            parser.error("--sha256 is of one file; add the others without it, or one at a time")
        files, origins = zip(*(located(source) for source in options.sources), strict=True)
        if options.sha256:
            check_sum(files[0], options.sha256)
        written = add(files, PUBLISHED, options.folder, "; ".join(filter(None, origins)))
    for path in written:
        print(f"{path} written")
