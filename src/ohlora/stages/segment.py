"""Stage segment: finds the face in every kept image, cuts it out and parses it into 11 classes."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ohlora.errors import UserError
from ohlora.files import ImageZip, image_writer, write_csv, write_json
from ohlora.labels import kept_ids
from ohlora.params import Segment
from ohlora.plots import CLASS_COLOURS, contact_sheet, save_image
from ohlora.segmentation import (
    NO_FACE,
    Detection,
    FaceDetector,
    crop_box,
    crop_face,
    imagenet_normalise,
    imagenet_restore,
    parse,
)
from ohlora.stages import Stage
from ohlora.stages.paths import (
    DETECTIONS,
    FACES,
    FACEXFORMER,
    FILTER,
    IMAGES,
    MAPS,
    METRICS,
    PLOT,
    PUBLISHED,
)
from ohlora.weights import load_bundled, load_facexformer, stored

Add = Callable[[int, np.ndarray], None]
Parse = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

BOX = ("x0", "y0", "x1", "y1")
SHEET_FACES = 16
OUTSIDE = "face outside the image"


def cut(image: np.ndarray, detection: Detection | None, margin: float) -> tuple[np.ndarray | None, dict[str, object]]:
    """The face of an image, None without a usable one, and the image's entry in the table of detections."""
    if detection is None:
        return None, {"found": 0, "probability": math.nan, **dict.fromkeys(BOX, math.nan), "reason": NO_FACE}
    height, width = image.shape[:2]
    x0, y0, x1, y1 = crop_box(detection.box, height, width, margin)
    inside = x1 > x0 and y1 > y0
    face = crop_face(image, detection.box, margin) if inside else None
    box = dict(zip(BOX, detection.box.tolist(), strict=True))
    reason = "" if inside else OUTSIDE
    return face, {"found": int(inside), "probability": detection.probability, **box, "reason": reason}


def backend(params: Segment, device: torch.device) -> Parse:
    """What gives, for faces (N, 224, 224, 3), the faces that the scores read and their maps (N, 224, 224)."""
    if params.backend == "bundled":
        parser = load_bundled("parser").to(device)
        return lambda faces: (faces, parse(parser, faces, params.batch_size, device))
    former, bf16 = load_facexformer(stored(PUBLISHED, FACEXFORMER)).to(device), params.precision == "bf16"

    def by_facexformer(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        maps = parse(former, faces, params.batch_size, device, imagenet_normalise, bf16)
        return imagenet_restore(imagenet_normalise(faces)), maps

    return by_facexformer


def segment(stage: Stage, images: ImageZip, add_face: Add, add_map: Add) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Goes through the kept images in batches; gives the table of detections and some faces and maps to look at."""
    params = stage.params.segment
    ids = kept_ids(FILTER)
    detector, parser = FaceDetector(stage.device), backend(params, stage.device)
    rows: list[dict[str, object]] = []
    shown: list[np.ndarray] = []
    for start in tqdm(range(0, len(ids), params.batch_size), desc="segment", unit="batch", disable=None):
        faces: dict[int, np.ndarray] = {}
        batch = ids[start : start + params.batch_size].tolist()
        pictures = [images.read(id_) for id_ in batch]
        for id_, image, detection in zip(batch, pictures, detector.detect(pictures), strict=True):
            face, entry = cut(image, detection, params.margin)
            rows.append({"id": id_, **entry})
            if face is not None:
                faces[id_] = face
        if faces:
            for id_, face, classes in zip(faces, *parser(np.stack(list(faces.values()))), strict=True):
                add_face(id_, face)
                add_map(id_, classes)
                shown += [face, CLASS_COLOURS[classes]] if len(shown) < 2 * SHEET_FACES else []
    return pd.DataFrame(rows), shown


def run() -> None:
    """Writes the faces, their parse maps and a table of all kept images, those without a face with the reason."""
    with (
        Stage("segment", "segment.backend", "segment.margin", "segment.precision") as stage,
        ImageZip(IMAGES) as images,
        image_writer(FACES) as add_face,
        image_writer(MAPS) as add_map,
    ):
        table, shown = segment(stage, images, add_face, add_map)
        if not shown:
            raise UserError(f"{IMAGES}: no face was found in any of the {len(table)} images that the filter keeps")
        write_csv(DETECTIONS, table)
        save_image(PLOT.format("segment"), contact_sheet(shown, columns=8))
        write_json(METRICS.format("segment"), summary(table))


def summary(table: pd.DataFrame) -> dict[str, object]:
    """How many images have a face, and how sure the detector was."""
    found = table[table["found"] == 1]
    sure = float((found["probability"] > 0.95).mean())
    return {"images": len(table), "faces": len(found), "face_rate": len(found) / len(table), "above_0.95": sure}
