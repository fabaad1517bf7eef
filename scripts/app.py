"""Serves a page to play with a model in the browser: `python scripts/app.py`, then open the address that it prints."""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

from accelerate import PartialState

from flower_ddim import PRETRAINED, FlowerDDIMPipeline
from flower_ddim.commands.entrance import run


def main():
    from flower_ddim.app.page import LAUNCH, build_page

    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default=PRETRAINED, help="model folder, or id on the Hub")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets others in")
    parser.add_argument("--port", type=int, help="port to listen on; by default the first free one from 7860")
    args = parser.parse_args()
    page = build_page(FlowerDDIMPipeline.from_pretrained(args.model).to(PartialState().device))
    page.launch(server_name=args.host, server_port=args.port, **LAUNCH)


if __name__ == "__main__":
    run(main)
