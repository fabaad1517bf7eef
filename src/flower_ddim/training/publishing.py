"""The upload at the end of a training: its repository is made before the first step, so that a refusal costs no work."""

from pathlib import Path

from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..storage.hub_cards import check_card
from ..storage.hub_client import create_repository
from .config import TrainingConfig


def prepare_repository(config: TrainingConfig) -> str:
    """Makes the repository that the training uploads to, where there is none; returns its id.

    Raises:
        OSError: if the Hub cannot be reached or refuses.
        ValueError: if somebody has edited its card, with the ways out.
    """
    repo_id = config.hub_model_id or Path(config.output_dir).name
    repo_id = create_repository(repo_id, config.hub_token, config.hub_private_repo or None)
    _check_card(repo_id, config, "train without `--push_to_hub`, and upload afterwards with")
    return repo_id


def publish(pipe: FlowerDDIMPipeline, repo_id: str, config: TrainingConfig) -> str:
    """Uploads the pipeline of a finished training; returns the address of the commit. Errors are those of the upload."""
    _check_card(repo_id, config, f"the pipeline is in {config.output_dir}; upload it with")
    return pipe.push_to_hub(repo_id, token=config.hub_token, records=config.output_dir, is_new=False)


def _check_card(repo_id: str, config: TrainingConfig, remedy: str):
    try:
        check_card(repo_id, config.hub_token)
    except ValueError as error:  # which names options that a training has not
        raise ValueError(
            f"The card of {repo_id} was edited on the Hub, and a training does not overwrite it: {remedy} "
            f"`flower-ddim push {config.output_dir} {repo_id}`, which can keep it, or name another `--hub_model_id`."
        ) from error
