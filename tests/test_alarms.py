"""Alarms: each trouble is said once when it begins, a healthy run is left in peace, a resumed run goes on as it was."""

import math
from statistics import median

import numpy as np
import pytest

from jepa.alarms import AlarmConfig, Alarms, is_spike
from jepa.config import ConfigError

SHORT = AlarmConfig(window=40, calm=10)


def healthy(steps, seed=0):
    """Records of a run whose loss falls by two thirds and whose features lose half of their spread, with noise."""
    rng = np.random.default_rng(seed)
    records = []
    for step in range(1, steps + 1):
        loss = (0.3 + 0.5 * math.exp(-step / 100)) * (1 + 0.05 * rng.standard_normal())
        spread = 0.9 - 0.45 * step / steps + 0.02 * rng.standard_normal()
        speed = {"speed/step_s": 0.3, "speed/data_wait": float(rng.uniform(0, 0.3))}
        records.append({"step": step, "loss": float(loss), "feature_std": float(spread), **speed})
    for step in range(0, steps, 50):
        records[step] |= {"health/rankme": 50 - 40 * step / steps, "health/std_over_time": 0.12 - 0.06 * step / steps}
    return records


def alarms_of(records, config=SHORT, alarms=None):
    alarms = alarms or Alarms(config)
    return [alarm for record in records for alarm in alarms.look(record["step"], record)]


def kinds(records, config=SHORT):
    return [(alarm.kind, alarm.step) for alarm in alarms_of(records, config)]


def test_a_healthy_run_is_left_in_peace():
    assert alarms_of(healthy(600)) == [] and alarms_of(healthy(1000), AlarmConfig()) == []


def test_records_without_a_figure_are_not_watched_for_it():
    assert alarms_of([{"step": step, "loss": 1.0} for step in range(100)]) == []
    assert alarms_of([{"step": step} for step in range(100)]) == []


def test_a_spike_is_what_the_definition_says():
    rng, config = np.random.default_rng(0), AlarmConfig(spike=3.0, window=40)
    found = []
    for _ in range(300):
        history = list(rng.standard_normal(30) * 0.1 + 1)
        loss = float(1 + rng.uniform(0, 0.6))
        centre = median(history)
        spread = max(median([abs(x - centre) for x in history]), 0.01 * centre)
        found.append(loss > centre + 3 * spread)
        assert is_spike(history, loss, config) == found[-1]
    assert 0.2 < np.mean(found) < 0.8
    assert not is_spike([1.0] * 19, 9.0, config)  # too little is known
    assert not is_spike([1.0] * 40, math.nan, config) and not is_spike([1.0] * 40, math.inf, config)
    assert is_spike([1.0] * 40, 1.04, config) and not is_spike([1.0] * 40, 1.02, config)  # ripples of a flat loss


def test_an_episode_of_spikes_is_said_once_and_a_later_one_again():
    records = healthy(200)
    for step in (100, 101, 105, 114, 160):  # calm is 10
        records[step - 1]["loss"] *= 5
    assert kinds(records) == [("spike", 100), ("spike", 160)]


def test_a_loss_that_stays_up_becomes_the_usual():
    history = [1.0] * 40
    spikes = 0
    while is_spike(history[-40:], 3.0, SHORT):
        history.append(3.0)
        spikes += 1
    assert 10 < spikes < 40


def test_steps_that_are_not_finite_are_said_and_spoil_nothing():
    records = healthy(200)
    for step in range(50, 90):  # as many as the window is long
        records[step - 1] |= {"loss": math.nan, "feature_std": math.nan, "nonfinite": 1.0}
    records[94]["loss"] *= 5
    assert kinds(records) == [("nonfinite", 50), ("spike", 95)]


@pytest.mark.parametrize(
    ("name", "value"), [("feature_std", 0.05), ("health/std_over_time", 0.01), ("health/rankme", 2)]
)
def test_each_figure_of_a_collapse_is_watched(name, value):
    records = healthy(400)
    for record in records[199:]:
        if name in record:
            record[name] = value
    ((kind, step),) = kinds(records)
    assert kind == "collapse" and 200 <= step <= 251
    assert f"{name} is {value}" in alarms_of(records)[0].text


def test_one_odd_batch_is_no_collapse():
    records = healthy(200)
    for step in (100, 101, 102, 103):
        records[step]["feature_std"] = 0.0
    assert alarms_of(records) == []


def test_a_collapse_begins_where_the_loss_falls_fast_and_the_spread_with_it():
    fallen = healthy(300)
    for record in fallen[200:]:
        record["feature_std"] *= 0.6  # alone still above the limit
    assert kinds(fallen) == []
    for record in fallen[200:]:
        record["loss"] *= 0.3
    assert kinds(fallen) == [("collapse", 205)]
    for record in (only_loss := healthy(300))[200:]:
        record["loss"] *= 0.3
    assert kinds(only_loss) == []


def test_waiting_for_data_counts_by_time_and_not_by_steps():
    records = healthy(200)
    for record in records[100:]:
        record |= {"speed/data_wait": 0.2}
        if record["step"] % 8 == 0:  # as workers deliver: eight batches at once, after a long wait
            record |= {"speed/step_s": 5.0, "speed/data_wait": 0.95}
    ((kind, step),) = kinds(records)
    assert kind == "starved" and 100 < step < 130
    assert "data.workers" in alarms_of(records)[0].text
    cold = [{"step": s, "speed/step_s": 1.0, "speed/data_wait": 0.9 if s < 10 else 0.0} for s in range(100)]
    assert kinds(cold) == []


def test_a_resumed_run_says_what_an_unbroken_one_would():
    records = healthy(400)
    for step in (*range(90, 130), 250, 255, 330):
        records[step - 1]["loss"] *= 5
    for record in records[140:200]:
        record["feature_std"] = 0.01
    for record in records[280:]:
        record["speed/data_wait"] = 0.9
    whole = alarms_of(records)
    assert {alarm.kind for alarm in whole} == {"spike", "collapse", "starved"}
    for cut in range(0, 400, 7):
        resumed = Alarms(SHORT)
        resumed.replay(iter(records[:cut]))
        before = [alarm for alarm in whole if alarm.step <= cut]
        assert before + alarms_of(records[cut:], alarms=resumed) == whole, cut


def test_every_text_is_one_line_with_advice():
    records = healthy(200)
    for record in records[120:]:
        record |= {"loss": 9.0, "feature_std": 0.0, "speed/data_wait": 0.9, "nonfinite": 1.0}
    found = alarms_of(records)
    assert {alarm.kind for alarm in found} == {"spike", "collapse", "starved", "nonfinite"}
    for alarm in found:
        assert "\n" not in alarm.text and any(key in alarm.text for key in ("loop.optim.lr", "data.workers"))


def test_a_window_too_short_for_a_median_is_refused():
    with pytest.raises(ConfigError, match=r"alarms\.window 5"):
        AlarmConfig(window=5)
