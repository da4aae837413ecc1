"""A page that needs no other file: tables and pictures of a report, or of two side by side."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from PIL import Image

from ohlora.files import PathLike, damage
from ohlora.properties import EXPRESSIONS
from ohlora.report import Metrics, Table, percent, text_of

PHOTO_QUALITY = 90  # of the JPEG copies that the page holds of sheets of faces

Tile = tuple[str, str, str]  # a number, what it is, a detail


@dataclass(frozen=True)
class Picture:
    """A picture of the page: a file, what it shows, and whether it holds faces (embedded as JPEG, else as it is)."""

    path: PathLike
    caption: str
    photo: bool = True


@dataclass(frozen=True)
class Section:
    """A part of the page; the rows of the table `flow` (name, number, share) become boxes joined by arrows.

    `paired` pictures stand side by side, two and two.
    """

    title: str
    text: str
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    flow: Table | None = None
    paired: bool = False


def data_uri(picture: Picture) -> str:
    """A picture's bytes as a data: address; sheets of faces become JPEG, which is several times smaller."""
    content, kind = Path(picture.path).read_bytes(), "png"
    with damage(picture.path, "an image"), Image.open(io.BytesIO(content)) as image:
        image.load()
        if picture.photo:
            buffer, kind = io.BytesIO(), "jpeg"
            image.convert("RGB").save(buffer, "JPEG", quality=PHOTO_QUALITY, subsampling=0)
            content = buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def tiles(metrics: Metrics) -> list[Tile]:
    """Headline numbers."""
    test, vectors = metrics["test_vectors"], metrics["vectors"]
    expressions = [name for name in EXPRESSIONS if name in test["judge_corr"]]
    by_judge = [f"judge {test['judge_corr'][name]:+.3f}" for name in expressions]
    passed = f"{test['passed']['count']} of {test['cases']} cases"
    return [
        (percent(test["passed"]["rate"]), "passed", passed),
        *((f"{test['corr'][n]:.3f}", f"{n}: mean correlation", d) for n, d in zip(expressions, by_judge, strict=True)),
        (f"{vectors['accuracy']['mean']:.3f}", "accuracy of the vectors", f"{len(vectors['groups'])} groups"),
        (percent(metrics["filter"]["kept_rate"]), "images kept", f"{metrics['filter']['kept']:,} by the filter"),
    ]


def render(title: str, origin: str, headline: Sequence[Tile], sections: Sequence[Section]) -> str:
    """The page as HTML, pictures included.

    Args:
        title: heading.
        origin: what it was made from; no date, so that the same code and parameters give the same page.
        headline: tiles on top.
        sections: parts of the page in order.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(text_of=text_of, data_uri=data_uri)
    template = environment.from_string(files("ohlora").joinpath("page.html.j2").read_text(encoding="utf-8"))
    return template.render(title=title, origin=origin, tiles=headline, sections=sections)
