"""Sharing a trained pipeline on the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError


# Nothing else in an output folder is for others: checkpoints hold optimizer states, and the logs may hold anything.
PIPELINE_FILES = ("model_index.json", "unet/*", "scheduler/*", "samples.png")


def create_repository(repo_id: str, token: str | None = None, private: bool = False) -> str:
    """Makes sure that there is a model repository of that name to upload to, and returns its full name, owner included.

    Called before a training, so that a missing permission shows at once and not after it.

    Raises:
        OSError: if the Hub cannot be reached or refuses.
    """
    api = HfApi(token=token)
    try:
        return api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    except Exception as error:
        raise _explained(error, f"The repository {repo_id} cannot be used") from error


def upload_pipeline(folder: str | Path, repo_id: str, token: str | None = None) -> str:
    """Uploads the pipeline in `folder`, and its samples, in a single commit; returns the commit's address.

    Raises:
        OSError: if the Hub cannot be reached or refuses; then the repository is as it was.
    """
    try:
        commit = HfApi(token=token).upload_folder(
            folder_path=folder, repo_id=repo_id, allow_patterns=list(PIPELINE_FILES), commit_message="Upload pipeline"
        )
    except Exception as error:
        raise _explained(error, f"The pipeline in {folder} could not be uploaded to {repo_id}") from error
    return commit.commit_url


def _explained(error: Exception, what: str) -> OSError:
    """One sentence for whatever the Hub's client raises; its own messages may run over many lines."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if status in (401, 403):
        return OSError(f"{what} ({status}): log in with `hf auth login`, or give a token that may write there.")
    if status is not None:
        return OSError(f"{what}: the Hub answered {status}. Try again later, or check the name.")
    return OSError(f"{what}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
