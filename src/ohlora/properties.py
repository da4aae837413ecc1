"""The table of face properties from which order, crops, ranges and roles are derived."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ohlora.errors import UserError

Crop = tuple[float, float, float, float]
Role = Literal["expression", "grouping", "fine-tuning", "grouping of 16"]

WHOLE: Crop = (0.0, 1.0, 0.0, 1.0)
UPPER: Crop = (0.0, 1 / 2, 0.0, 1.0)
LOWER: Crop = (1 / 2, 1.0, 0.0, 1.0)


@dataclass(frozen=True)
class Property:
    """One property of a face.

    Attributes:
        name: Column name in tables and key of score dictionaries.
        index: Column of the property CNN's output.
        crop: Region that the property CNN reads: (y0, y1, x0, x1) as fractions of height and width.
        role: 'expression' is steered; 'grouping' splits latents into 8 groups, with 'grouping of 16' into 16;
            'fine-tuning' is a label of FineTune-v1 only.
        signed: True if the plain range (seed document 003) is -1..+1 with 0 in the middle, False if it is 0..1.
    """

    name: str
    index: int
    crop: Crop
    role: Role
    signed: bool = False


ALL_PROPERTIES = (
    Property("eyes", 0, (3 / 8, 9 / 16, 1 / 4, 3 / 4), "expression"),
    Property("hair_color", 1, WHOLE, "grouping"),
    Property("hair_length", 2, LOWER, "grouping"),
    Property("mouth", 3, (5 / 8, 13 / 16, 3 / 8, 5 / 8), "expression"),
    Property("pose", 4, (7 / 16, 5 / 8, 11 / 32, 21 / 32), "expression", signed=True),
    Property("background_mean", 5, UPPER, "grouping"),
    Property("background_std", 6, UPPER, "fine-tuning"),
    Property("hairstyle", 7, LOWER, "grouping of 16"),
)
# Without the hairstyle: what version 1 measures, the fine-tuning recipes label, and a CNN of 7 outputs reads.
PROPERTIES = ALL_PROPERTIES[:7]
PROPERTY_NAMES = tuple(p.name for p in PROPERTIES)
ALL_PROPERTY_NAMES = tuple(p.name for p in ALL_PROPERTIES)
EXPRESSIONS = tuple(p.name for p in PROPERTIES if p.role == "expression")
GROUPING = tuple(p.name for p in PROPERTIES if p.role == "grouping")
GROUPING_16 = (*GROUPING, "hairstyle")
# Mean colour of nose and cheeks: no property, but what an edit of the expression is to leave as it is.
SKIN = ("skin_r", "skin_g", "skin_b")
SKIN_REGION: Crop = (1 / 2, 5 / 8, 3 / 8, 5 / 8)
BY_NAME = {p.name: p for p in ALL_PROPERTIES}


def columns(names: Iterable[str], outputs: int = len(ALL_PROPERTIES)) -> list[int]:
    """The columns of these properties in the scores of a property CNN with 7 or 8 outputs.

    Raises:
        UserError: the network has too few outputs to read one of them.
    """
    chosen = {name: BY_NAME[name].index for name in names}
    absent = [name for name, index in chosen.items() if index >= outputs]
    if absent:
        raise UserError(
            f"a property CNN of {outputs} outputs does not read {', '.join(absent)}: train it again "
            "(stage train_property_cnn), or leave that out of vectors.groups and find the vectors again"
        )
    return list(chosen.values())
