"""The verbs that fill a cache, and those that look at one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from probe_lab.cli.arguments import ExperimentName, Overrides, experiment_of, out
from probe_lab.progress import progress


def plan(
    experiment: ExperimentName,
    overrides: Overrides = None,
    tflops: Annotated[
        float, typer.Option(help="10¹² operations per second and card, for a model whose weights are not here")
    ] = 400.0,
) -> None:
    """Print images, bytes per (step, tap), total and time of a generation, and of its labels, before it starts.

    A published model without its weights is planned from its architecture: exact bytes, and hours at a rate. The
    default rate is an H100's at 40 % of its dense bfloat16 peak.

    Example: probe-lab plan paper/diffusion_probe_sdxl --tflops 300
    """
    config = experiment_of(experiment, overrides)

    from probe_lab.evaluators.scorable import unscorable_note
    from probe_lab.generation.dry_plan import planned
    from probe_lab.generation.measured_plan import plan_table
    from probe_lab.generation.prompt_notes import notes_of, prompts_at_hand
    from probe_lab.labels.label_plan import label_plan, label_table
    from probe_lab.previews.price import preview_note

    images = planned(config, tflops)
    out.print(plan_table(images))
    if labels := label_plan(config, images, tflops):
        out.print(label_table(labels))
    if note := preview_note(config):
        out.print(note)
    chosen = prompts_at_hand(config)
    if chosen is not None:
        for line in filter(None, (*notes_of(chosen, config), unscorable_note(config, chosen.prompts))):
            out.print(line)


def taps(experiment: ExperimentName, overrides: Overrides = None) -> None:
    """List every tap of the experiment's backbone with its shape and what it weighs in the cache.

    Of a published model whose weights are not here, this is computed from its architecture.

    Example: probe-lab taps quickstart_sd3
    """
    config = experiment_of(experiment, overrides)

    from probe_lab.generation.tap_listing import computed_note, list_taps, taps_table

    size = f"{config.sampling.height}×{config.sampling.width}"
    title = f"{config.backbone.label} at {size}, {config.cache.dtype}; kB per image and step"
    out.print(taps_table(list_taps(config), title, computed_note(config)))


def generate(experiment: ExperimentName, overrides: Overrides = None) -> None:
    """Generate the images and cache the tensors. The same command resumes what was interrupted.

    Example: probe-lab generate quickstart capture.steps=[3,5]
    """
    config = experiment_of(experiment, overrides)

    from probe_lab.generation.measured_plan import plan_table
    from probe_lab.verbs import generate_images

    with progress("generate", "images") as update:
        generate_images(config, on_progress=update, on_plan=lambda plan: out.print(plan_table(plan)), on_note=out.print)
    out.print(f"images and tensors: {config.cache_folder}")


def cache_info(
    path: Annotated[Path, typer.Argument(help="a cache folder, data_cache/quickstart for instance")],
) -> None:
    """Print what a cache holds.

    Example: probe-lab cache info data_cache/quickstart
    """
    from probe_lab.cache.info import info_table

    out.print(info_table(path))


def cache_verify(path: Annotated[Path, typer.Argument(help="a cache folder")]) -> None:
    """Check every file of a cache. Exit code 1 when something is wrong, with the file and the row.

    Example: probe-lab cache verify data_cache/quickstart
    """
    from probe_lab.cache import Manifest, verify

    Manifest.load(path)  # a folder that is no cache, or of another format version, is an error and not damage
    problems = verify(path)
    for problem in problems:
        row = "" if problem.row is None else f", row {problem.row}"
        out.print(f"{problem.file}{row}: {problem.message}")
    out.print(f"{len(problems)} problems" if problems else "no problems")
    raise typer.Exit(1 if problems else 0)
