"""Parameters of pretrain/params.yaml: one section for each step, checked before any work."""

from pathlib import Path

from pydantic import Field

from ohlora.errors import UserError
from ohlora.validation import S, Section, check, read_yaml


class Training(Section):
    """Training of the parser, the judge or the annotator."""

    seed: int = Field(ge=0, le=2**32 - 1, description="start of every random stream")
    steps: int = Field(ge=1, le=10_000_000, description="batches")
    batch_size: int = Field(ge=2, le=1024, description="images in a batch")
    learning_rate: float = Field(gt=0, le=0.1, description="largest step size of AdamW")
    evaluations: int = Field(ge=1, le=1000, description="times the held-out images are read; the best is kept")
    held_out: int = Field(ge=10, le=100_000, description="images not trained on")


def read_section(path: str | Path, name: str, model: type[S]) -> S:
    """The section `name` of a YAML file, checked.

    Raises:
        UserError: one line that names the file, the parameter, its value and what is allowed.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get(name), dict):
        raise UserError(f"{path}: no section {name}")
    return check(path, content[name], model, f"{name}.")
