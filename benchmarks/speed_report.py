"""From measurements to ratios, a table in Markdown and a plot."""

import statistics
from pathlib import Path

from speed_commands import Measurement
from speed_scenarios import Scenario


def least_seconds(limits: dict[str, float]) -> float:
    """Return the time of one bf16 forward pass over all images and of decoding them, nothing else."""
    return limits["images"] / limits["forward_bf16"] + limits["images"] / limits["decode"]


def ratio(scenario: Scenario, other: Measurement, tlab: Measurement) -> float:
    """Return how `other` compares with tlab; see `Scenario.bars` for the meaning."""
    if other.system == "limit" and scenario.measure == "speed":
        return tlab.images_per_second / max(other.limits["train_fp32"], other.limits["train_bf16"])
    if other.system == "limit":
        return tlab.fit_seconds / least_seconds(other.limits)
    if scenario.measure == "speed":
        return tlab.images_per_second / other.images_per_second
    return other.seconds / tlab.seconds


def at_most(scenario: Scenario, system: str) -> bool:
    """Return whether the bar is one to stay below."""
    return system == "sweep" or (system == "limit" and scenario.measure == "wall")


def of(results: list[Measurement], scenario: Scenario, system: str) -> list[Measurement]:
    """Return what succeeded of a system, in the order of the rounds."""
    found = [m for m in results if m.scenario == scenario.name and m.system == system and not m.error]
    return sorted(found, key=lambda m: m.round)


def ratios(results: list[Measurement], scenario: Scenario, system: str) -> list[float]:
    """Return one ratio per round in which both tlab and the other succeeded."""
    tlab = {m.round: m for m in of(results, scenario, "tlab")}
    return [ratio(scenario, m, tlab[m.round]) for m in of(results, scenario, system) if m.round in tlab]


def spread(values: list[float], digits: int) -> str:
    """Median and, for two values or more, the range."""
    if not values:
        return "–"
    ends = f" [{min(values):.{digits}f}, {max(values):.{digits}f}]" if len(values) > 1 else ""
    return f"{statistics.median(values):.{digits}f}{ends}"


def accuracy(found: list[Measurement]) -> str:
    """Mean and, for two or more, sample standard deviation of the last epoch, in percent."""
    values = [100 * m.accuracy[-1] for m in found if m.accuracy]
    if not values:
        return "–"
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def verdict(scenario: Scenario, system: str, values: list[float]) -> str:
    """Return the bar, and whether the median reaches it."""
    if system not in scenario.bars:
        return ""
    bar, below = scenario.bars[system], at_most(scenario, system)
    text = f"{'≤' if below else '≥'} {bar:g}"
    if not values:
        return text
    median = statistics.median(values)
    return f"{text}: {'yes' if (median <= bar if below else median >= bar) else 'no'}"


def meaning(scenario: Scenario, system: str) -> str:
    """Return what a ratio says, in two words."""
    if system == "limit":
        return "× least seconds" if scenario.measure == "wall" else "of the limit"
    return "× one run" if system == "sweep" else "× faster"


def rows(results: list[Measurement], scenario: Scenario) -> list[str]:
    """Return the table's rows of one scenario: one per system, a failure with its reason."""
    lines = []
    for system in scenario.systems:
        found = of(results, scenario, system)
        failed = [m for m in results if m.scenario == scenario.name and m.system == system and m.error]
        if not found:
            if failed:
                lines.append(
                    f"| {scenario.title} | {system} | failed: {failed[-1].error.replace('|', '/')} | | | | | |"
                )
            continue
        name = f"{system} ({len(failed)} of {len(found) + len(failed)} failed)" if failed else system
        values = ratios(results, scenario, system) if system != "tlab" else []
        cells = [scenario.title, name, spread([m.seconds for m in found], 1)]
        if system == "limit" and scenario.measure == "wall":
            cells += [spread([least_seconds(m.limits) for m in found], 2), ""]
        elif system == "limit":
            best = [max(m.limits["train_fp32"], m.limits["train_bf16"]) for m in found]
            cells += ["", spread(best, 1)]
        else:
            cells += [spread([m.fit_seconds for m in found], 2), spread([m.images_per_second for m in found], 1)]
        compared = f"{spread(values, 2)} {meaning(scenario, system)}" if values else ""
        lines.append(f"| {' | '.join([*cells, accuracy(found), compared, verdict(scenario, system, values)])} |")
    return lines


def conditions(results: list[Measurement]) -> str:
    """Return all values of each condition that the measurements were made under, except the time."""
    names = dict.fromkeys(name for m in results for name in m.about if name != "time")
    values = {name: dict.fromkeys(m.about[name] for m in results if name in m.about) for name in names}
    return "; ".join(f"{name} {', '.join(found)}" for name, found in values.items())


def table(results: list[Measurement], scenarios: list[Scenario]) -> str:
    """Return the table of all that is there, and a second one of the machine's limits."""
    lines = [
        "| training | system | whole command (s) | training, validation (s) | images/s in training | val acc (%) "
        "| tlab against it | bar |",
        "|---|---|---|---|---|---|---|---|",
        *(line for scenario in scenarios for line in rows(results, scenario)),
    ]
    lines += ["", f"Measured on {conditions(results)}."] if any(m.about for m in results) else []
    limits = [(s, m.limits) for s in scenarios for m in of(results, s, "limit")[-1:]]
    if limits:
        names = ["forward_fp32", "forward_bf16", "train_fp32", "train_bf16"]
        names += ["decode_one_core", "decode", "decode_scaled_one_core", "decode_scaled"]
        lines += ["", "Limits of the machine, images per second (the last round):", ""]
        lines += ["| training | " + " | ".join(name.replace("_", " ") for name in names) + " |"]
        lines += ["|---" * (len(names) + 1) + "|"]
        lines += [
            f"| {s.title} | " + " | ".join(f"{found[name]:.1f}" for name in names) + " |" for s, found in limits
        ]
    return "\n".join(lines) + "\n"


def plot(results: list[Measurement], scenarios: list[Scenario], path: Path) -> None:
    """Draw each comparison as median and range, with its bar as a vertical line; a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    drawn = [
        (scenario, system, values)
        for scenario in scenarios
        for system in scenario.systems
        if system != "tlab" and (values := ratios(results, scenario, system))
    ]
    if not drawn:
        return
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.32 * len(drawn)), layout="constrained")
    for y, (scenario, system, values) in enumerate(drawn):
        axes.plot([min(values), max(values)], [y, y], color="tab:blue", linewidth=2)
        axes.plot(statistics.median(values), y, "o", color="tab:blue")
        if system in scenario.bars:
            axes.plot(scenario.bars[system], y, "|", color="tab:red", markersize=14, markeredgewidth=2)
    axes.set_yticks(
        range(len(drawn)), [f"{s.title}: {system} ({meaning(s, system)})" for s, system, _ in drawn], fontsize=7
    )
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="both", labelsize=7)
    axes.axvline(1, color="gray", linewidth=0.8)
    axes.set_xlabel("ratio (median and range; red: the bar)")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)
    plt.close(figure)
