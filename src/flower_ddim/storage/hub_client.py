"""The client of the Hugging Face Hub: repositories to upload to, and one sentence for whatever the client raises."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import HfApi

# `HTTPError` is that of the HTTP library that the client is built on, which is not always the same.
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)


def create_repository(
    repo_id: str, token: str | None = None, private: bool | None = None, space_sdk: str | None = None
) -> str:
    """Creates the repository where there is none, and returns its full name, owner included.

    Call it before a training: a missing permission then shows at once and not at the end.

    Args:
        private: whether a new repository is private; `None` leaves that to the owner's settings.
        space_sdk: what a Space runs on, `"static"` or `"gradio"`; `None` makes a model.

    Raises:
        OSError: if the Hub cannot be reached or refuses.
        ValueError: if the Hub does not allow the name.
    """
    kind = {"repo_type": "space", "space_sdk": space_sdk} if space_sdk else {}
    with explained(f"The repository {repo_id} cannot be used"):
        api = HfApi(token=token)
        return api.create_repo(repo_id, private=private, exist_ok=True, **kind).repo_id


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns whatever the Hub's client raises into one sentence that begins with `what`."""
    try:
        yield
    except Exception as error:
        if failure := hub_failure(error):
            raise explain_hub_failure(failure, what) from error
        if isinstance(error, ValueError):  # the Hub does not allow the name
            raise ValueError(f"{what}: {first_line(error)}") from error
        raise


def hub_failure(error: BaseException | None) -> Exception | None:
    """The failure of the Hub, or of the way to it, that caused an error; `None` if something else did."""
    kinds = (HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError)
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__ or error.__context__
    return error


def explain_hub_failure(failure: Exception, what: str) -> OSError:
    """An error of one sentence; the messages of the Hub's client run over many lines and may not name the remedy."""
    status = failure.response.status_code if isinstance(failure, HfHubHTTPError) else None
    if isinstance(failure, GatedRepoError):
        return OSError(f"{what} ({status}): ask for access on its page, then log in with `hf auth login`.")
    # To strangers the Hub answers 401 for what does not exist.
    if isinstance(failure, RepositoryNotFoundError) or status == 404:
        return OSError(f"{what} ({status}): check the name, and log in with `hf auth login` if it is private.")
    if status in (401, 403):
        return OSError(f"{what} ({status}): log in with `hf auth login`, or give a token that is allowed to.")
    if status == 412:
        return OSError(f"{what} ({status}): somebody has changed the repository meanwhile, so try again.")
    if status == 429 or (status or 0) >= 500:
        return OSError(f"{what}: the Hub answered {status}, so try again later.")
    if status is not None:
        reason = getattr(failure, "server_message", None) or first_line(failure)
        return OSError(f"{what}: the Hub answered {status} ({reason.rstrip('.')}), so check name, kind and options.")
    if isinstance(failure, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
        return OSError(
            f"{what}: it is not in the cache, and the Hub was not reached. Unset HF_HUB_OFFLINE, or download it first."
        )
    return OSError(f"{what}: the Hub cannot be reached ({first_line(failure)}), so check the connection.")


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
