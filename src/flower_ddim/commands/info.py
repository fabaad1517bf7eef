"""Shows what the package runs on, and generates one picture to see that it does; `flower-ddim` lists the subcommands."""

import time

from .. import PRETRAINED, __version__
from ..entrance import Parser
from ..machine import describe_machine, usable_cores
from ..storage.files import check_output, replacing


def main(arguments: list[str] | None = None, prog: str | None = None):
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("--output", default="flower.png", help="file of the picture")
    args = parser.parse_args(arguments)
    check_output(args.output)
    machine = describe_machine(usable_cores())
    versions = {"flower_ddim": __version__} | machine["versions"]
    print(f"python {machine['python']} on {machine['system']}, {machine['processor']}, {machine['cores']} cores")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    import torch  # which is what a broken installation breaks at, with the versions printed already

    from .. import FlowerDDIMPipeline

    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"device: {torch.cuda.get_device_name() if device == 'cuda' else device}")

    pipe = FlowerDDIMPipeline.from_pretrained(PRETRAINED).to(device)
    pipe.set_progress_bar_config(disable=True)
    start = time.perf_counter()
    image = pipe(generator=torch.Generator().manual_seed(0)).images[0]
    seconds = time.perf_counter() - start
    if any(low == high for low, high in image.getextrema()):
        raise ValueError(
            "The generated picture is of one colour: the installation is broken. Please report the lines above."
        )
    with replacing(args.output) as unfinished:
        image.save(unfinished)
    print(f"A picture in 20 steps took {seconds:.1f} s: {args.output}")
