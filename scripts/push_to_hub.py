"""Uploads a model to the Hub, with its card, or as a Space to play with: `python scripts/push_to_hub.py MODEL_DIR REPO_ID`."""

import tempfile
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

from flower_ddim import FlowerDDIMPipeline
from flower_ddim.commands.entrance import run
from flower_ddim.hub.space import write_space
from flower_ddim.hub.upload import prepare_upload, upload_folder
from flower_ddim.storage.hub_client import create_repository


def main():
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("model_dir", help="folder of a pipeline, of which nothing but the pipeline is uploaded")
    parser.add_argument("repo_id", help="name of the repository, OWNER/NAME, which is made if it is not there")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry_run", action="store_true", help="check and show what would be uploaded, and stop")
    parser.add_argument("--space", action="store_true", help="upload a Space with the page of scripts/app.py instead")
    parser.add_argument("--dataset_name", help="data set on the Hub that it was trained on, for the card")
    parser.add_argument("--license", help="licence of the weights, for the card: an identifier such as cc-by-4.0")
    args = parser.parse_args()

    pipe = FlowerDDIMPipeline.from_pretrained(args.model_dir)
    kind = "space" if args.space else "model"
    with tempfile.TemporaryDirectory() as folder:
        if args.space:
            files = write_space(pipe, folder, title=args.repo_id.rpartition("/")[2])
        else:
            files = prepare_upload(pipe, folder, args.repo_id, args.dataset_name, args.license, records=args.model_dir)
        for file in files:
            print(f"{file.stat().st_size:>12,} {file.relative_to(folder)}")
        if args.dry_run:
            print(f"Nothing was uploaded to the {'private ' if args.private else ''}{kind} {args.repo_id}.")
            return
        repo_id = create_repository(args.repo_id, private=args.private or None, repo_type=kind)
        print(upload_folder(folder, repo_id, token=None, repo_type=kind, commit_message=f"Upload {kind}"))


if __name__ == "__main__":
    run(main)
