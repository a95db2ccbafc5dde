"""``inflate verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from inflate.cli.console import note, print_json, progress_bar
from inflate.cli.options import (
    Device,
    FromWeights,
    GithubSummary,
    Json,
    Prefix,
    Quiet,
    Reports,
    Seed,
    SourceLocation,
    number,
    whole_number,
)
from inflate.cli.reporting import check_wanted, saying_done, write_wanted
from inflate.vocabulary import MergeStrategy

# Typer reads these annotations on Python 3.10 too.
# ruff: noqa: UP045


def verify(
    reference: SourceLocation,
    candidate: Annotated[
        Optional[str],
        typer.Argument(
            show_default=False,
            help="The video checkpoint. Without it REFERENCE is one, compared with its own image "
            "layers.",
        ),
    ] = None,
    atol: Annotated[
        Optional[float],
        typer.Option(
            parser=number,
            metavar="F",
            help="Largest absolute error. [default: by the type computed in]",
        ),
    ] = None,
    rtol: Annotated[
        Optional[float],
        typer.Option(
            parser=number,
            metavar="F",
            help="Largest relative error. [default: by the type computed in]",
        ),
    ] = None,
    device: Device = "auto",
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16", "float64"],
        typer.Option(help="Type to compute in."),
    ] = "float32",
    seed: Seed = 0,
    merge_strategy: Annotated[
        Optional[MergeStrategy],
        typer.Option(help="How the candidate blends, where its file does not say."),
    ] = None,
    prefix: Prefix = None,
    weights: FromWeights = "plain",
    trainability: Annotated[
        bool,
        typer.Option(
            "--trainability",
            help="Measure by two backward passes which temporal tensors learn now, from the next "
            "step, or never. The exit code does not hang on it.",
        ),
    ] = False,
    images: Annotated[
        Optional[Path],
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="Decode the latents of these images too, as the frames of one video.",
        ),
    ] = None,
    video: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Decode the latents of this video's first frames too.",
        ),
    ] = None,
    max_side: Annotated[
        Optional[int],
        typer.Option(
            parser=whole_number,
            metavar="N",
            help="Longest side of images and frames. [default: 128 on a CPU, else 512]",
        ),
    ] = None,
    max_frames: Annotated[
        Optional[int],
        typer.Option(
            parser=whole_number,
            metavar="N",
            help="How many images and frames are taken. [default: 4 on a CPU, else 16]",
        ),
    ] = None,
    latents: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Decode stored latents too: T C h w or B T C h w in .safetensors, .pt or .npy, "
            "unscaled.",
        ),
    ] = None,
    scaled_latents: Annotated[
        bool,
        typer.Option(
            "--scaled-latents", help="--latents are scaled, as diffusion models have them."
        ),
    ] = False,
    save_outputs: Annotated[
        Optional[Path],
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="Keep latents and both outputs of every probe here; new or empty.",
        ),
    ] = None,
    report_to: Reports = None,
    github_summary: GithubSummary = False,
    bisect: Annotated[
        bool,
        typer.Option(
            "--bisect",
            help="Set the temporal modules to an identity one at a time, and name the guilty.",
        ),
    ] = False,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test",
            help="Spoil the candidate in memory in known ways, and see that each is caught.",
        ),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare a video checkpoint with the image checkpoint it comes from.

    Every copied tensor is compared with its source, then both decoders run on probes of random
    frames, layer by layer. Exit code 0: they are equal, or within tolerance; 1: they are not, or
    the self-test found damage that is not caught; 2: it could not run.
    """
    reports = check_wanted(report_to or (), github_summary=github_summary)
    from inflate import workflow
    from inflate.workflow.given import Given

    with progress_bar(quiet) as progress:
        report = workflow.verify(
            reference,
            candidate,
            atol=atol,
            rtol=rtol,
            device=device,
            dtype=dtype,
            seed=seed,
            merge_strategy=merge_strategy,
            prefix=prefix,
            weights=weights,
            trainability=trainability,
            given=Given(
                images=images,
                video=video,
                latents=latents,
                scaled_latents=scaled_latents,
                max_side=max_side,
                max_frames=max_frames,
                save_outputs=save_outputs,
            ),
            bisect=bisect,
            self_test=self_test,
            pictures=any(path.lower().endswith(".html") for path in report_to or ()),
            reports=reports,
            progress=progress,
        )
    with saying_done(f"the verdict is {report.verdict}"):
        write_wanted(report, report_to or (), github_summary=github_summary)
    if as_json:
        from inflate.report.documents import parity_document

        print_json(parity_document(report))
    elif quiet:
        typer.echo(report.verdict)
    else:
        from inflate.cli.render_parity import print_parity

        print_parity(report)
        for text in report.notes:
            note(text)
    # A check that lets damage through has proven nothing, whatever it says of this candidate.
    if not report.passed or (report.self_test is not None and not report.self_test.passed):
        raise typer.Exit(1)
