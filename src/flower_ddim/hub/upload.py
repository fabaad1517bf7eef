"""Sharing a trained pipeline on the Hugging Face Hub: what is uploaded is saved anew, checked, and given a model card."""

import tempfile
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi

from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..storage.checksums import network_weights, weights_checksum
from ..storage.files import write_text
from ..storage.hub_cards import check_card, choices_on_hub, with_choices
from ..storage.hub_client import create_repository, explained, first_line
from .model_card import write_model_card
from .records import ModelRecords


def push_pipeline(
    pipe: FlowerDDIMPipeline,
    repo_id: str,
    token: str | None = None,
    private: bool | None = None,
    commit_message: str = "Upload pipeline",
    create_pr: bool = False,
    variant: str | None = None,
    dataset: str | None = None,
    license: str | None = None,
    records: str | Path | None = None,
    keep_card: bool = False,
    overwrite_card: bool = False,
    is_new: bool = True,
) -> str:
    """Uploads a pipeline, with a model card, in a single commit; returns the commit's address.

    Args:
        private: whether a repository that is made for it is private.
        create_pr: whether to propose the commit instead of making it; an edited card does not stand in the way of that.
        variant: what to save the weights as, and then to load them by, such as `"fp16"`.
        dataset, license, records: what the card tells, see [`prepare_upload`]; where no licence is given and none in the records,
            it is that which the repository has.
        keep_card: whether to upload all but the card and its pictures.
        overwrite_card: whether to overwrite also a card that somebody has edited on the Hub.
        is_new: whether the repository may have to be made.

    Raises:
        OSError: if the Hub cannot be reached or refuses; then the repository is as it was.
        ValueError: if others could not load the pipeline, or somebody has edited the card.
    """
    if keep_card and overwrite_card:
        raise ValueError("`keep_card` and `overwrite_card` contradict each other: choose one.")
    with tempfile.TemporaryDirectory() as folder:
        _save_verified(pipe, folder, variant)
        if is_new:  # and not before it is known that there is something to upload
            repo_id = create_repository(repo_id, token, private)
        if not keep_card:
            choices = choices_on_hub(repo_id, token)
            _add_card(pipe, folder, repo_id, records, license, choices, variant=variant, dataset=dataset)
        options = {"commit_message": commit_message, "create_pr": create_pr}
        return upload_folder(folder, repo_id, token, keep_card=keep_card, overwrite_card=overwrite_card, **options)


def prepare_upload(
    pipe: FlowerDDIMPipeline,
    folder: str | Path,
    repo_id: str,
    variant: str | None = None,
    dataset: str | None = None,
    license: str | None = None,
    records: str | Path | None = None,
    keep_card: bool = False,
) -> list[Path]:
    """Writes what would be uploaded into an empty folder, and makes sure that it loads; returns the files.

    Args:
        variant, keep_card: see [`push_pipeline`].
        dataset, license: see [`render_model_card`].
        records: see [`ModelRecords`]; by default they are looked for where the pipeline was loaded from, unless its weights are
            others by now.

    Raises:
        ValueError: if what was written does not generate the same image, with the package or without.
    """
    _save_verified(pipe, folder, variant)
    if not keep_card:
        _add_card(pipe, folder, repo_id, records, license, variant=variant, dataset=dataset)
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def _save_verified(pipe: FlowerDDIMPipeline, folder: str | Path, variant: str | None):
    pipe.save_pretrained(folder, variant=variant)
    verify_export(folder, variant)


def _add_card(
    pipe: FlowerDDIMPipeline,
    folder: str | Path,
    repo_id: str,
    records: str | Path | None,
    license: str | None,
    choices: dict = {},
    **options,
):
    """Writes the card; of `choices`, what was chosen for the repository, it keeps all of which nothing else is known."""
    if records is None and pipe.name_or_path and _has_weights_of(pipe, pipe.name_or_path):
        records = pipe.name_or_path
    if license is None and "license" in choices:
        recorded = (ModelRecords.read(pipe, records).training or {}).get("options", {}).get("license")
        license = recorded or choices["license"]
    name = repo_id.rpartition("/")[2]
    write_model_card(pipe, folder, records, name=name, repo_id=repo_id, license=license, **options)
    add_choices(folder, choices)


def add_choices(folder: str | Path, choices: dict):
    """Adds what was chosen for a repository to the card in a folder, where that says nothing of it."""
    card = Path(folder) / "README.md"
    write_text(card, with_choices(card.read_text(encoding="utf-8"), choices))


def _has_weights_of(pipe: FlowerDDIMPipeline, folder: str | Path) -> bool:
    """Whether a folder holds a pipeline of the same network: what is known of it then holds for this one."""
    try:
        return weights_checksum(network_weights(folder)) == weights_checksum(pipe.unet.state_dict())
    except FileNotFoundError:  # an id on the Hub, or a folder of a variant only
        return False


def verify_export(folder: str | Path, variant: str | None = None):
    """Loads a saved pipeline with the package and, as people without it do, by the code in the folder, and compares an image.

    Raises:
        ValueError: if a way fails, or the images differ.
    """
    try:
        ways = (
            FlowerDDIMPipeline.from_pretrained(folder, variant=variant),
            DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, variant=variant),
        )
    except Exception as error:
        raise ValueError(f"What was saved of the pipeline cannot be loaded again: {first_line(error)}") from error
    images = []
    for pipe in ways:
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        images.append(pipe(generator=generator, num_inference_steps=2, output_type="pt").images)
    if not torch.equal(*images):
        raise ValueError(
            "What was saved of the pipeline generates other images without the package than with it, so nothing was uploaded: "
            "please report that."
        )


def upload_folder(
    folder: str | Path,
    repo_id: str,
    token: str | None,
    repo_type: str = "model",
    keep_card: bool = False,
    overwrite_card: bool = False,
    **options,
) -> str:
    """Uploads all of a folder in a single commit; returns its address.

    Args:
        keep_card: whether to leave out the card.
        overwrite_card: whether to overwrite also a card that somebody has edited on the Hub.
        options: those of `HfApi.upload_folder`; with `create_pr`, nothing is overwritten.

    Raises:
        OSError: if the Hub cannot be reached or refuses; then the repository is as it was.
        ValueError: if somebody has edited the card.
    """
    if keep_card:
        options["ignore_patterns"] = "README.md"
    elif not (overwrite_card or options.get("create_pr")):  # and nobody may edit it from now on
        options["parent_commit"] = check_card(repo_id, token, repo_type)
    with explained(f"Nothing could be uploaded to {repo_id}"):
        commit = HfApi(token=token).upload_folder(folder_path=folder, repo_id=repo_id, repo_type=repo_type, **options)
    return commit.commit_url
