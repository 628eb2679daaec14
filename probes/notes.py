"""What a reader of probe results must know beside the figures: episodes that were left out, choices without a score."""

from typing import Any


def notes(result: dict[str, Any]) -> list[str]:
    """Sentences on the dict of `probe.json`; none where there is nothing to say."""
    return _skipped(result.get("skipped", {})) + _unchosen(result["rows"])


def _skipped(skipped: dict[str, dict[str, Any]]) -> list[str]:
    """By side the episodes that gave no clip: how many, and the first."""
    found = []
    for side, of_side in skipped.items():
        count, keys = of_side["episodes"], of_side["keys"]
        more = ", …" if count > len(keys) else ""
        found.append(f"{side}: {count} episodes are shorter than a clip and left out: {', '.join(keys)}{more}")
    return found


def _unchosen(rows: list[dict[str, Any]]) -> list[str]:
    """Probes that had nothing to choose a setting by: too few held-out clips, or one class beside them."""
    fits: dict[str, list[bool]] = {}
    for row in rows:
        own = [fit["validation"] is None for seed in row["chosen"] for fit in seed if "validation" in fit]
        fits.setdefault(f"{row['title']}, {row['probe']} {row['view']}", []).extend(own)
    return [
        f"{name}: in {sum(own)} of {len(own)} fits the validation score is undefined (too few clips, or of one class), "
        "so the first setting was taken"
        for name, own in fits.items()
        if any(own)
    ]
