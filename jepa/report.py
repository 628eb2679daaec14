"""One self-contained HTML file about a training run, or about all that `jepa demo` makes."""

from collections.abc import Callable
from pathlib import Path

from jepa import report_demo, report_pretrain, report_run
from jepa import report_html as page
from jepa import report_results as results
from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError
from jepa.data.errors import DataError
from jepa.logs import console
from jepa.report_files import NotRunError, kind

Section = Callable[[Path], str]

SECTIONS: dict[str, dict[str, Section]] = {
    "pretrain": {
        "Summary": report_run.summary,
        "Pre-training": report_run.pretraining,
        "Speed": report_run.speed,
        "Trouble": report_run.trouble,
        "Data": report_pretrain.data,
        "Masks": report_pretrain.masks,
        "Features": report_pretrain.pca,
        "Settings": report_run.settings,
    },
    "posttrain": {
        "Summary": report_run.summary,
        "Post-training": report_run.posttraining,
        "World model": results.world,
        "Speed": report_run.speed,
        "Trouble": report_run.trouble,
        "Data": report_pretrain.data,
        "Energy landscape": results.energy,
        "Settings": report_run.settings,
    },
    "demo": {
        "Summary": report_demo.summary,
        "Data": report_pretrain.data,
        "Pre-training": report_pretrain.training,
        "Masks": report_pretrain.masks,
        "Features": report_pretrain.pca,
        "Probes": results.probes,
        "World model": results.world,
        "Energy landscape": results.energy,
        "Planning": results.planning,
        "How each number was made": report_demo.provenance,
    },
}
"""By what a folder holds; the headings in order."""


def write_report(run_dir: Path) -> Path:
    """Write RUN_DIR/report.html from what a training run or `jepa demo` left there; returns its path.

    A part that is missing becomes a sentence that says so.

    Raises:
        NotRunError: the folder has no part at all.
    """
    run = Path(run_dir)
    written = {title: _guarded(section, run) for title, section in SECTIONS[kind(run)].items()}
    title, subtitle = f"jepa: {run.resolve().name}", f"Run folder {run.resolve()}"
    target = page.write_page(run / "report.html", title, subtitle, written)
    console.print(f"wrote {target}")
    return target


def _guarded(section: Section, run: Path) -> str:
    try:
        return section(run)
    except (NotRunError, DataError, CheckpointError, ConfigError) as error:
        return page.absent(error)
