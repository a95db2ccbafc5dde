"""``inflate convert``."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated, Optional

import typer

from inflate.cli.console import note, print_json, progress_bar
from inflate.cli.options import (
    Device,
    FromWeights,
    GithubSummary,
    Json,
    NewAlpha,
    NewAttnType,
    NewConfig,
    NewFloat32Norms,
    NewKernel,
    NewLayout,
    NewMergeStrategy,
    NewSeed,
    NewSettings,
    NewTimeMode,
    NewType,
    Prefix,
    Quiet,
    Reports,
    SourceLocation,
    kernel_from,
)
from inflate.cli.reporting import check_wanted, saying_done, write_wanted
from inflate.errors import ConfigError
from inflate.vocabulary import (
    PostQuant,
)

# Typer reads these annotations on Python 3.10 too.
# ruff: noqa: UP045


def convert(
    source: SourceLocation,
    output: Annotated[
        Optional[str],
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="Path or URL. Default: SOURCE's stem + .video.safetensors.",
        ),
    ] = None,
    config: NewConfig = None,
    time_mode: NewTimeMode = None,
    merge_strategy: NewMergeStrategy = None,
    alpha: NewAlpha = None,
    video_kernel_size: NewKernel = None,
    attn_type: NewAttnType = None,
    set_: NewSettings = None,
    seed: NewSeed = None,
    dtype: NewType = None,
    float32_norms: NewFloat32Norms = None,
    prefix: Prefix = None,
    weights: FromWeights = "plain",
    layout: NewLayout = None,
    post_quant: Annotated[
        PostQuant, typer.Option(help="What becomes of the 1x1 convolution before the decoder.")
    ] = "keep",
    allow_inexact: Annotated[
        bool, typer.Option("--allow-inexact", help="Fold although it changes the border.")
    ] = False,
    device: Device = "auto",
    skip_parity: Annotated[
        bool, typer.Option("--skip-parity", help="Publish unverified; the file says so.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and write nothing.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing output.")
    ] = False,
    report_to: Reports = None,
    github_summary: GithubSummary = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a video checkpoint of an image autoencoder's, checked before it is published.

    Copies the spatial weights, starts the temporal layers so that the output equals the image
    decoder's, compares the two on the GPU (or CPU), and only then gives the file its name.
    """
    if (report_to or github_summary) and (dry_run or skip_parity):
        raise ConfigError(
            f"--report and --github-summary tell what the check found, and "
            f"{'--dry-run' if dry_run else '--skip-parity'} leaves it out; leave one of them out"
        )
    reports = check_wanted(report_to or (), github_summary=github_summary)
    from inflate import workflow
    from inflate.workflow.ahead import hashing_ahead

    ahead = nullcontext() if dry_run else hashing_ahead(source)
    with ahead, progress_bar(quiet) as progress:
        result = workflow.convert(
            source,
            output,
            config=config,
            time_mode=time_mode,
            merge_strategy=merge_strategy,
            alpha=alpha,
            video_kernel_size=None if video_kernel_size is None else kernel_from(video_kernel_size),
            attn_type=attn_type,
            seed=seed,
            dtype=dtype,
            float32_norms=float32_norms,
            set_=set_ or (),
            prefix=prefix,
            weights=weights,
            layout=layout,
            post_quant=post_quant,
            allow_inexact=allow_inexact,
            device=device,
            skip_parity=skip_parity,
            dry_run=dry_run,
            overwrite=overwrite,
            reports=reports,
            progress=progress,
        )
    if result.parity is not None:
        done = f"parity did not hold; nothing was published at {result.destination}"
        if result.output is not None:
            done = f"{result.destination} was published"
        with saying_done(done):
            write_wanted(result.parity, report_to or (), github_summary=github_summary)
    if as_json:
        from inflate.report.documents import conversion_document, plan_document

        document = conversion_document(result)
        if dry_run:
            document["dry_run"] = plan_document(result.plan)
        print_json(document)
    elif quiet:
        if dry_run:
            typer.echo(result.destination)
        elif result.output is not None:
            typer.echo(result.output)
    else:
        from inflate.cli.render import print_conversion, print_plan
        from inflate.cli.render_learning import print_summary

        if dry_run:
            print_plan(result.plan)
        else:
            print_conversion(result, source)
        print_summary(result.trainability)
    if not quiet:
        for text in result.notes:
            note(text)
    if not result.passed:
        raise typer.Exit(1)
