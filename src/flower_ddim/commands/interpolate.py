"""Animates the way through several flowers, or through pictures of your own, and back."""

from accelerate import PartialState

from .. import FlowerDDIMPipeline
from ..data.picture_files import read_picture
from ..entrance import Parser
from ..sampling.generate import noise_of_seeds
from ..storage.files import check_output, replacing
from .options import add_model_option


def main(arguments: list[str] | None = None, prog: str | None = None):
    args = _parse(arguments, prog)
    from ..figures.animation import check_animation, save_animation  # needs matplotlib

    check_animation(args.output, args.frames_per_second)
    check_output(args.output)
    pictures = [read_picture(path) for path in args.images or ()]
    pipe = FlowerDDIMPipeline.from_pretrained(args.model).to(PartialState().device)
    if pictures:
        anchors = pipe.invert(pictures, num_inference_steps=args.num_inference_steps)
    else:
        anchors = noise_of_seeds(pipe, range(args.seed, args.seed + args.num_anchors))
    frames = pipe.interpolate(
        anchors,
        num_images=args.num_images,
        closed=True,
        rescale=bool(args.images),
        num_inference_steps=args.num_inference_steps,
    ).images
    with replacing(args.output) as unfinished:
        save_animation(frames, unfinished, args.frames_per_second, args.size)
    print(f"{len(frames)} images, {len(frames) / args.frames_per_second:.1f} s: {args.output}")


def _parse(arguments, prog):
    parser = Parser(prog=prog, description=__doc__)
    add_model_option(parser)
    parser.add_argument("--num_anchors", type=int, default=5, help="number of random flowers to go through")
    parser.add_argument("--images", nargs="+", help="pictures to go through, instead of random flowers")
    parser.add_argument("--num_images", type=int, default=11, help="images from one flower to the next, both included")
    parser.add_argument("--num_inference_steps", type=int, default=20, help="network evaluations per image")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first random flower; the next one has the next seed"
    )
    parser.add_argument("--frames_per_second", type=float, default=10, help="speed of the animation")
    parser.add_argument("--size", type=int, default=192, help="height of the animation in pixels")
    parser.add_argument("--output", default="loop.webp", help="a .gif or .webp file")
    return parser.parse_args(arguments)
