"""What packed data hold, in tables and in a picture: figures that were put in come out, with units and names."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from jepa import cli
from jepa.data import stats
from jepa.data.index import SAMPLE, Manifest

LENGTHS = [20, 24, 6, 30, 20, 21, 22, 23, 25, 26, 27, 28]


def cells(manifest: Manifest) -> dict[str, dict[str, tuple[str, ...]]]:
    """Rows by title and first cell."""
    return {table.title: {row[0]: row[1:] for row in table.rows} for table in stats.tables(manifest)}


def labelled(manifest: Manifest, labels: list[int], names: tuple[str, ...]) -> Manifest:
    """The same data as if samples had these labels."""
    spec = replace(manifest.spec, samples=len(labels), labels={"label": names} if names else {})
    other = replace(manifest, spec=spec)
    samples = np.zeros(len(labels), SAMPLE)
    samples["fps"], samples["frames"], samples["label"] = 10, 5, labels
    other.__dict__["samples"] = samples
    return other


def test_counts_and_ranges_are_those_of_the_videos(manifest: Manifest) -> None:
    found = cells(manifest)
    totals = found[manifest.location]
    assert totals["samples"] == ("12",) and totals["shards"] == ("3",)
    assert totals["frames"] == (str(sum(LENGTHS)),) and totals["hours"] == (f"{sum(LENGTHS) / 36000:.4g}",)
    assert found["Samples"]["frames"] == ("6", f"{sum(LENGTHS) / 12:.6g}", "30")
    assert found["Samples"]["seconds"] == ("0.6", f"{sum(LENGTHS) / 120:.6g}", "3")
    assert found["Samples"]["fps"] == ("10", "10", "10") and found["Samples"]["width"] == ("48", "48", "48")


def test_actions_and_states_have_units_and_the_moments_of_all_rows(manifest: Manifest) -> None:
    states = np.concatenate([np.arange(n) for n in LENGTHS])
    for name, values in (("states", states), ("actions", -np.concatenate([np.arange(n - 1) for n in LENGTHS]))):
        found = stats.numbers(manifest, name)
        assert [n.name for n in found] == [f"{name[:-1]} {i}" for i in range(7)] and {n.unit for n in found} == {"m"}
        for n in found:
            assert (n.min, n.max) == (values.min(), values.max())
            assert (n.mean, n.std) == pytest.approx((values.mean(), values.std()))
    assert cells(manifest)["Actions and states"]["state 6"] == (
        "m",
        *(f"{x:.4g}" for x in (states.mean(), states.std(), 0, 29)),
    )


def test_what_the_data_have_not_is_left_out(manifest: Manifest) -> None:
    bare = replace(
        manifest,
        spec=replace(manifest.spec, labels={}, extra={}),
        statistics={**manifest.statistics, "actions": None, "states": None},
    )
    assert list(cells(bare)) == [manifest.location, "Samples"]
    full = cells(manifest)
    assert full["Labels of frames"] == {"skill": ("random, reach",)}
    assert full["Other arrays of frames"] == {"object_pos": ("m, m, m",)}
    assert "Labels" not in full


def test_classes_are_counted_by_name_the_most_frequent_first(manifest: Manifest) -> None:
    data = labelled(manifest, [2, 0, 2, 2, -1, 0, 7], ("push", "pull", "lift"))
    assert stats.classes(data) == [("lift", 3), ("push", 2), ("7", 1), ("without a label", 1)]
    assert cells(data)["Labels"]["lift"] == ("3", "42.9%")
    assert stats.classes(labelled(manifest, [-1, -1], ())) == []


def test_rare_classes_are_counted_together(manifest: Manifest) -> None:
    labels = [i for i in range(stats.CLASSES + 5) for _ in range(1 + (i < stats.CLASSES))]
    found = stats.classes(labelled(manifest, labels, ()))
    assert len(found) == stats.CLASSES + 1 and found[-1] == ("5 other classes", 5)
    assert sum(n for _, n in found) == len(labels)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What `plot` draws on: the figures it saves."""
    from matplotlib.figure import Figure

    kept, save = SimpleNamespace(figures=[]), Figure.savefig

    def savefig(self: Any, *args: Any, **more: Any) -> None:
        kept.figures.append(self)
        save(self, *args, **more)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return kept


def test_the_picture_has_a_panel_for_everything(manifest: Manifest, tmp_path: Path, drawn: SimpleNamespace) -> None:
    stats.plot(manifest, tmp_path / "new" / "stats.png")
    assert Image.open(tmp_path / "new" / "stats.png").format == "PNG"
    [figure] = drawn.figures
    panels = {axes.get_xlabel(): axes for axes in figure.axes if axes.axison}
    assert [label.split(":")[0] for label in panels] == ["seconds", "frames per second", "pixels", "actions", "states"]
    for label, total in (("seconds", 12), ("frames per second", 12), ("pixels", 12)):
        assert all(patch.get_data().values.sum() == total for patch in panels[label].patches), label
    names = [text.get_text() for text in panels["states: least to greatest, mean ± std"].get_yticklabels()]
    assert names == [f"{i} m" for i in range(7)]


def test_labels_are_drawn_as_bars_with_names_cut_short(
    manifest: Manifest, tmp_path: Path, drawn: SimpleNamespace
) -> None:
    data = labelled(manifest, [0, 1, 1], ("putting something on something else", "pull"))
    stats.plot(data, tmp_path / "stats.png")
    axes = next(a for a in drawn.figures[0].axes if a.get_xlabel() == "samples of each class")
    assert [patch.get_width() for patch in axes.patches] == [2, 1]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["pull", "putting something on someth…"] and len(names[1]) == stats.NAME


def test_rates_that_differ_in_the_last_bit_can_be_drawn(manifest: Manifest, tmp_path: Path) -> None:
    data = labelled(manifest, [-1, -1], ())
    data.samples["fps"] = [30000 / 1001, np.nextafter(30000 / 1001, 100)]
    stats.plot(data, tmp_path / "stats.png")
    assert (tmp_path / "stats.png").is_file()


def test_the_verb_prints_tables_and_draws_only_when_asked(shards: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke(cli.app, ["data", "stats", str(shards)], env={"COLUMNS": "120"})
    assert run.exit_code == 0, run.output
    for words in ("samples 12", "state 6 m", "skill random, reach", "object_pos m, m, m"):
        assert words in " ".join(run.stdout.split()), words
    assert not list(tmp_path.iterdir())
    out = tmp_path / "stats.png"
    assert CliRunner().invoke(cli.app, ["data", "stats", str(shards), "--out", str(out)]).exit_code == 0
    assert out.is_file()
    wrong = CliRunner().invoke(cli.app, ["data", "stats", str(shards), "--out", str(tmp_path / "stats.pdf")])
    assert "must end with .png" in str(wrong.exception)
