"""Animates the way through several flowers, or through pictures of your own, and back."""

from accelerate import PartialState

from .. import FlowerDDIMPipeline
from ..data.picture_files import read_picture
from ..entrance import Parser
from ..pipelines.loading import check_count
from ..sampling.generate import known_labels, noise_of_seeds
from ..storage.files import check_output, replacing
from .options import add_class_options, add_model_option, add_steps_option


def main(arguments: list[str] | None = None, prog: str | None = None):
    args = _parse(arguments, prog)
    from ..figures.animation import check_animation, save_animation  # needs matplotlib

    check_animation(args.output, args.frames_per_second)
    check_output(args.output)
    pictures = [read_picture(path) for path in args.images or ()]
    pipe = FlowerDDIMPipeline.from_pretrained(args.model).to(PartialState().device)
    labels = known_labels(pipe, args.class_labels)
    options = {"class_labels": labels, "guidance_scale": args.guidance_scale}
    options["num_inference_steps"] = args.num_inference_steps
    if pictures:
        anchors = pipe.invert(pictures, **options)
    else:
        default = len(labels) if labels and len(labels) > 1 else 5
        count = default if args.num_anchors is None else args.num_anchors
        check_count("num_anchors", count)
        anchors = noise_of_seeds(pipe, range(args.seed, args.seed + count))
    frames = pipe.interpolate(
        anchors, num_images=args.num_images, closed=True, rescale=bool(args.images), **options
    ).images
    with replacing(args.output) as unfinished:
        save_animation(frames, unfinished, args.frames_per_second, args.size)
    print(f"{len(frames)} images, {len(frames) / args.frames_per_second:.1f} s: {args.output}")


def _parse(arguments, prog):
    parser = Parser(prog=prog, description=__doc__)
    add_model_option(parser)
    flowers = parser.add_mutually_exclusive_group()
    flowers.add_argument("--num_anchors", type=int, help="number of random flowers to go through (5, or one a class)")
    flowers.add_argument("--images", nargs="+", help="pictures to go through, instead of random flowers")
    parser.add_argument("--num_images", type=int, default=11, help="images from one flower to the next, both included")
    add_class_options(parser, "class of all flowers, or of each of them")
    add_steps_option(parser)
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first random flower; the next one has the next seed"
    )
    parser.add_argument("--frames_per_second", type=float, default=10, help="speed of the animation")
    parser.add_argument("--size", type=int, default=192, help="height of the animation in pixels")
    parser.add_argument("--output", default="loop.webp", help="a .gif or .webp file")
    return parser.parse_args(arguments)
