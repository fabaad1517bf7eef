"""Resuming a training: what must be as it was, what may be otherwise, and the record of what was."""

from dataclasses import asdict
from pathlib import Path

from .checkpoints import list_checkpoints, step_of
from .config import TrainingConfig, card_options, fixed_options
from .messages import main_process_logger


logger = main_process_logger(__name__)


def recorded_options(config: TrainingConfig) -> dict:
    """The options that a checkpoint and a `training.yaml` record: all but the token."""
    return {name: value for name, value in asdict(config).items() if name != "hub_token"}


def check_resumable(
    state: dict,
    checkpoint: Path,
    total_steps: int,
    num_pictures: int | None,
    config: TrainingConfig,
    differing: list[str],
):
    """Makes sure that a run can resume from a checkpoint.

    Args:
        state: of the checkpoint.
        total_steps, num_pictures: of the run that resumes.
        differing: what the configurations of network and scheduler have otherwise.

    Raises:
        ValueError: if it is of another training, of another version, or has made more steps than are asked for; also if it has
            made all of them and is not the newest, since nothing would be left to do but to go back.
    """
    remedy = "start again in another `--output_dir`" if config.teacher else "start from its weights with `--init_from`"
    missing = [name for name in ("step", "images_seen", "ema_updates") if name not in state]
    if missing:
        raise ValueError(
            f"The checkpoint {checkpoint} is of another version, which did not record `{missing[0]}`: {remedy}."
        )
    for name, default in fixed_options().items():  # the checkpoint may be older than the option
        there, here = state.get(name, default), getattr(config, name)
        if there != here:
            differing.append(f"{name} {there} there, {here} here")
    # The channel statistics tell, in long numbers, of other pictures.
    statistics = [words for words in differing if words.startswith(("image_mean ", "image_std "))]
    if statistics:
        differing = [words for words in differing if words not in statistics]
        before = state.get("pictures")
        counts = f"{before}, now {num_pictures}" if before != num_pictures else f"{num_pictures} as before, but others"
        differing.insert(0, f"the pictures changed: {counts}")
    if differing:
        raise ValueError(
            f"The checkpoint {checkpoint} is of another training ({'; '.join(differing)}): give the same options and "
            f"pictures, or {remedy}."
        )
    if state["step"] > total_steps:
        raise ValueError(
            f"The checkpoint {checkpoint} has made {state['step']:,} steps, more than the {total_steps:,} of this run: ask for "
            "more, or resume from an earlier checkpoint."
        )
    newest = max(map(step_of, list_checkpoints(checkpoint.parent)), default=0)
    if state["step"] == total_steps and newest > total_steps:
        raise ValueError(
            f"The checkpoint {checkpoint} has made all {total_steps:,} steps of this run, and a newer one lies beside it: ask for "
            "more steps, or take the checkpoint itself, which is a pipeline."
        )


def changed_options(state: dict, config: TrainingConfig) -> dict[str, list]:
    """Options that make the model what it is and differ from those of the checkpoint: name → [there, here]."""
    there, here = state.get("options", {}), recorded_options(config)
    names = [name for name in (*card_options(), "max_train_steps", "num_epochs") if name in there]
    return {name: [there[name], here[name]] for name in dict.fromkeys(names) if there[name] != here[name]}


def warn_of_changes(state: dict, changed: dict[str, list], learning_rate: float, data_order: dict[str, int | None]):
    """Says which options are others from here on, whether the learning rate jumps, and whether the order of the data changes.

    Args:
        learning_rate: of the next step, as this run has it.
        data_order: what decides which pictures a step is given, in this run.
    """
    for name, (there, here) in changed.items():
        logger.warning(f"Resuming with `{name}` {here}; it was {there} until step {state['step']:,}.")
    planned = state.get("next_learning_rate")
    if planned is not None and abs(planned - learning_rate) > 0.01 * max(planned, learning_rate):
        logger.warning(
            f"The learning rate jumps from {planned:.3g} to {learning_rate:.3g} at step {state['step'] + 1:,}: its course is that "
            "of other options, or of another number of steps."
        )
    for name, value in data_order.items():
        if name in state and state[name] != value:  # the checkpoint may be older than what it would have recorded
            logger.warning(
                f"The checkpoint was written with `{name}` {state[name]}, this run has {value}: data order changes."
            )


def record_of(state: dict, changed: dict[str, list], config: TrainingConfig, total_steps: int) -> dict:
    """The options of a run that goes on from a checkpoint, and its history: options that were others until a step.

    Where the checkpoint has made all steps, they are those that it was made with, as far as it recorded them.
    """
    if state["step"] == total_steps:
        return {name: state[name] for name in ("options", "history") if name in state}
    history = state.get("history", [])
    if changed:
        earlier = {name: there for name, (there, _) in changed.items()}
        history = [*history, {"until_step": state["step"], "options": earlier}]
    return {"options": recorded_options(config), "history": history}
