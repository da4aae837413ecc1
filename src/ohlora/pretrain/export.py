"""Collects the trained networks for the repository: `python -m ohlora.pretrain.export`."""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from ohlora.errors import UserError, main
from ohlora.files import load_tensors, read_json, save_tensors, write_json
from ohlora.weights import BUNDLED_NAMES

PER_STEP = ("evaluations", "history")  # long parts of metrics.json that the manifest leaves out
LIMIT = 30_000_000  # bytes in all


def export_network(source: Path, target: Path) -> dict[str, object]:
    """Copies one network, weights of two and more axes rounded to float16, and describes it.

    Args:
        source: a safetensors file; its metadata holds `architecture` and, where shapes do not tell it, `config` (JSON).
        target: the file to write.

    Returns:
        architecture, config, parameters, bytes and sha256 of the file written.
    """
    tensors, metadata = load_tensors(source)
    if "architecture" not in metadata:
        raise UserError(f"{source}: its metadata lacks the architecture; write it by the training step")
    # Rounding changes a weight by at most 0.05 %; batch norms and biases stay float32. Halves what git has to hold.
    tensors = {name: value.half() if value.ndim > 1 else value for name, value in tensors.items()}
    save_tensors(target, tensors, metadata)
    return {
        "architecture": metadata["architecture"],
        "config": json.loads(metadata.get("config", "{}")),
        "parameters": sum(value.numel() for value in tensors.values() if value.dtype != torch.int64),
        "bytes": target.stat().st_size,
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
    }


def export(sources: dict[str, Path], folder: Path) -> dict[str, object]:
    """Writes the given networks and manifest.json to `folder`; networks not given stay as they are.

    Raises:
        UserError: all files together are larger than LIMIT.
    """
    path = folder / "manifest.json"
    manifest = read_json(path) if path.exists() else {}
    for name, source in sources.items():
        manifest[name] = export_network(source, folder / f"{name}.safetensors")
        metrics = source.with_name("metrics.json")
        if metrics.exists():
            manifest[name]["metrics"] = {k: v for k, v in read_json(metrics).items() if k not in PER_STEP}
    total = sum(entry["bytes"] for entry in manifest.values())
    if total > LIMIT:
        raise UserError(f"{folder}: {total} bytes in all, allowed are {LIMIT}")
    write_json(path, manifest)
    return manifest


def run(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line and exports."""
    parser = argparse.ArgumentParser(description="Copies trained networks to the folder of bundled weights.")
    parser.add_argument("--output", type=Path, required=True, help="folder of the bundled weights")
    for name in BUNDLED_NAMES:
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"safetensors file of the {name}")
    options = vars(parser.parse_args(arguments))
    export({name: options[name] for name in BUNDLED_NAMES if options[name]}, options["output"])


if __name__ == "__main__":
    main(run)
