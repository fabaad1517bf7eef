"""Sharing a trained pipeline on the Hugging Face Hub: what is uploaded is saved anew, checked, and given a model card."""

import tempfile
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi

from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..storage.checksums import network_weights, weights_checksum
from ..storage.hub_client import create_repository, explained, first_line
from .model_card import write_model_card


def push_pipeline(
    pipe: FlowerDDIMPipeline,
    repo_id: str,
    token: str | None = None,
    private: bool | None = None,
    commit_message: str = "Upload pipeline",
    create_pr: bool = False,
    dataset: str | None = None,
    license: str | None = None,
    records: str | Path | None = None,
    is_new: bool = True,
) -> str:
    """Uploads a pipeline, with a model card, in a single commit; returns the commit's address.

    Args:
        private: whether a repository that is made for it is private.
        create_pr: whether to propose the commit instead of making it.
        dataset, license, records: what the card tells, see [`flower_ddim.model_card`]; by default records are looked for where the
            pipeline was loaded from, unless its weights are others by now.
        is_new: whether the repository may have to be made.

    Raises:
        OSError: if the Hub cannot be reached or refuses; then the repository is as it was.
        ValueError: if others could not load the pipeline.
    """
    with tempfile.TemporaryDirectory() as folder:
        _save_verified(pipe, folder)
        if is_new:  # and not before it is known that there is something to upload
            repo_id = create_repository(repo_id, token, private)
        _add_card(pipe, folder, repo_id, records, dataset=dataset, license=license)
        return upload_folder(folder, repo_id, token, commit_message=commit_message, create_pr=create_pr)


def prepare_upload(
    pipe: FlowerDDIMPipeline,
    folder: str | Path,
    repo_id: str,
    dataset: str | None = None,
    license: str | None = None,
    records: str | Path | None = None,
) -> list[Path]:
    """Writes what would be uploaded into an empty folder, and makes sure that it loads; returns the files.

    Raises:
        ValueError: if what was written does not generate the same image, with the package or without.
    """
    _save_verified(pipe, folder)
    _add_card(pipe, folder, repo_id, records, dataset=dataset, license=license)
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def _save_verified(pipe: FlowerDDIMPipeline, folder: str | Path):
    pipe.save_pretrained(folder)
    verify_export(folder)


def _add_card(pipe: FlowerDDIMPipeline, folder: str | Path, repo_id: str, records: str | Path | None, **options):
    if records is None and pipe.name_or_path and _has_weights_of(pipe.name_or_path, folder):
        records = pipe.name_or_path
    write_model_card(pipe, folder, records, name=repo_id.rpartition("/")[2], repo_id=repo_id, **options)


def _has_weights_of(one: str | Path, other: str | Path) -> bool:
    """Whether two folders hold pipelines of the same network: what is known of one then holds for the other."""
    try:
        return weights_checksum(network_weights(one)) == weights_checksum(network_weights(other))
    except FileNotFoundError:  # an id on the Hub, or a folder of another form (a variant, several files)
        return False


def verify_export(folder: str | Path):
    """Loads a saved pipeline with the package and, as people without it do, by the code in the folder, and compares an image.

    Raises:
        ValueError: if a way fails, or the images differ.
    """
    try:
        ways = (_load(folder), DiffusionPipeline.from_pretrained(folder, trust_remote_code=True))
    except Exception as error:
        raise ValueError(f"What was saved of the pipeline cannot be loaded again: {first_line(error)}") from error
    images = []
    for pipe in ways:
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        images.append(pipe(generator=generator, num_inference_steps=2, output_type="pt").images)
    if not torch.equal(*images):
        raise ValueError("What was saved of the pipeline generates another image without the package than with it.")


def upload_folder(folder: str | Path, repo_id: str, token: str | None, repo_type: str = "model", **options) -> str:
    """Uploads all of a folder in a single commit; returns its address.

    Raises:
        OSError: if the Hub cannot be reached or refuses; then the repository is as it was.
    """
    with explained(f"Nothing could be uploaded to {repo_id}"):
        commit = HfApi(token=token).upload_folder(folder_path=folder, repo_id=repo_id, repo_type=repo_type, **options)
    return commit.commit_url


def _load(folder: str | Path) -> FlowerDDIMPipeline:
    return FlowerDDIMPipeline.from_pretrained(folder)
