"""What is known of a model: the pipeline itself, and what training, evaluation and its makers have written about it."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..pipelines.portable import PortablePipeline
from ..storage.checksums import weights_checksum
from ..storage.files import read_metrics
from ..training.checkpoints import PIPELINE_STATE_FILE


logger = logging.getLogger(__name__)

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # kept with the weights, but not trained


@dataclass
class ModelRecords:
    """A model's configuration, and the records that are of its weights.

    `training.yaml`, `training_state.json` and `metrics.jsonl` are the trainer's, `metrics.json` is the evaluation's, and `notes.md`
    is whatever its makers have to say; any of these may be missing. `steps` and `images` count what the weights were trained on.
    """

    unet: dict
    scheduler: dict
    parameters: int
    training: dict | None
    log: list[dict]
    steps: int | None
    images: int
    evaluation: dict | None
    notes: str | None

    @classmethod
    def read(cls, pipe: PortablePipeline, records: str | Path | None) -> "ModelRecords":
        """Reads what the files in the folder `records` say of a pipeline; a warning names what they say of other weights.

        Raises:
            ValueError: if a file is damaged.
        """
        weights = pipe.unet.state_dict()
        described = {"unet": dict(pipe.unet.config), "scheduler": dict(pipe.scheduler.config)}
        described["parameters"] = sum(t.numel() for name, t in weights.items() if not name.endswith(STATISTICS))
        if records is None:
            return cls(**described, training=None, log=[], steps=None, images=0, evaluation=None, notes=None)
        records = Path(records)
        checksum = weights_checksum(weights)
        trained = _training_records(records, checksum)
        return cls(
            **described,
            **trained,
            evaluation=_evaluation(records, checksum),
            notes=_optional(records / "notes.md"),
        )


def _training_records(records: Path, checksum: str) -> dict:
    """What the trainer has written, up to the step of these weights; without a state file, as older trainings are, all of it."""
    state = _json(records / PIPELINE_STATE_FILE)
    files = [records / name for name in ("training.yaml", "metrics.jsonl") if (records / name).is_file()]
    if state and state.get("weights") != checksum:
        if files:
            names = " and ".join(file.name for file in files)
            logger.warning(
                f"What {names} in {records} say is left out: they are of other weights, those of step {state.get('step')}."
            )
        return {"training": None, "log": [], "steps": None, "images": 0}
    log = read_metrics(records / "metrics.jsonl") if records / "metrics.jsonl" in files else []
    if state:
        log = [line for line in log if line["step"] <= state["step"]]
        counts = {"steps": state["step"], "images": state["images_seen"]}
    else:
        counts = (
            {"steps": log[-1]["step"], "images": log[-1].get("images", 0)} if log else {"steps": None, "images": 0}
        )
    try:
        training = yaml.safe_load(_optional(records / "training.yaml") or "null")
    except yaml.YAMLError as error:
        raise ValueError(f"{records / 'training.yaml'} is damaged: restore it, or remove it.") from error
    if state and "options" in state:  # of these weights; a run that has resumed since may have others in training.yaml
        said = (training or {}).get("options", {})
        training = {"options": said | state["options"], "history": state.get("history", [])}
    return {"training": training, "log": log, **counts}


def _evaluation(records: Path, checksum: str) -> dict | None:
    evaluation = _json(records / "metrics.json")
    # Only the scores of a model, not of a folder of pictures, say of which weights they are.
    if evaluation and "weights" in evaluation and evaluation["weights"] != checksum:
        logger.warning(f"{records / 'metrics.json'} is of other weights and left out: score the model again.")
        return None
    return evaluation


def _optional(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _json(file: Path) -> dict | None:
    try:
        return json.loads(_optional(file) or "null")
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}): write it again, or remove it.") from error
