"""The advice on the terminal."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tlab.advising.advice import Measured, Option
from tlab.advising.choice import Constants
from tlab.advising.similarity import Similarity
from tlab.core.text import counted, duration

NOTHING_TOLD = "unknown, since the weights carry neither BatchNorm's statistics nor a known classifier"


def print_measured(console: Console, one: Measured) -> None:
    """Print what was found of a backbone: its stages, its similarity, and its plans."""
    evidence = one.evidence
    console.print()
    console.print(Text(f"{one.candidate.backbone}, {evidence.weights}, {one.cfg.data.image_size} px", style="bold"))
    console.print(Text(f"{one.size}."))
    table = _table("stage", "features", "probe accuracy", "nearest\nneighbors", "LogME")
    best = max(evidence.stages, key=lambda stage: stage.accuracy)
    for stage in evidence.stages:
        accuracy = f"{100 * stage.accuracy:.1f} ± {100 * stage.error:.1f} %"
        cells = (str(stage.features), accuracy, f"{stage.neighbors:.1%}", f"{stage.logme:.3f}")
        table.add_row(stage.stage, *cells, style="bold" if stage is best else "")
    console.print(table)
    console.print(Text(f"Similarity to the pretraining: {similarity_words(evidence.similarity)}."))
    plans = _table("plan", "expected\nval/acc", "90 %", "time")
    for option in sorted(one.options.values(), key=lambda option: -option.expected.score):
        row = (f"{option.expected.mean:.1%}", interval(option), f"about {duration(option.seconds)}")
        plans.add_row(plan_words(option), *row, style="bold" if option is one.chosen else "")
    console.print(plans)


def print_choice(console: Console, one: Measured, constants: Constants) -> None:
    """Print what to take, and how that goes with the rule of CS231n."""
    evidence, chosen = one.evidence, one.chosen
    console.print()
    console.print(
        Text(
            f"{counted(evidence.images, 'image')} of {counted(evidence.classes, 'class', 'classes')} to learn "
            f"from, {evidence.images_per_class:,.0f} of a class."
        )
    )
    rate = one.cfg.optimizer.lr
    console.print(
        Text(
            f"Take {one.candidate.backbone} with {plan_words(chosen)} at {one.cfg.data.image_size} px, "
            f"rate {rate:g}, {counted(int(one.cfg.trainer.max_epochs), 'epoch')}: val/acc "
            f"{chosen.expected.mean:.1%} is expected (90 %: {interval(chosen)}), in about "
            f"{duration(chosen.seconds)}.",
            style="bold",
        )
    )
    console.print(Text(cut_words(one)))
    for sentence in filter(None, (leader_words(one), rule_words(one))):
        console.print(Text(sentence))
    learned = (constants.epochs, constants.image_size)
    if learned != (one.cfg.trainer.max_epochs, one.cfg.data.image_size):
        told = "What is expected was learned from runs of {} epochs at {} px.".format(*learned)
        console.print(Text(told, style="dim"))


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def interval(option: Option) -> str:
    """Return `82.1 to 94.9 %`."""
    return f"{100 * option.expected.low:.1f} to {100 * option.expected.high:.1f} %"


def plan_words(option: Option) -> str:
    """Return the plan with its cut: `head behind layer3`."""
    return option.plan if option.upto is None else f"head behind {option.upto}"


def similarity_words(similarity: Similarity) -> str:
    """Return both measures in words, and say so where there is none."""
    parts = []
    if similarity.statistics is not None:
        parts.append(f"{similarity.statistics:.3f} by BatchNorm's statistics (1: the same)")
    if similarity.confidence is not None:
        parts.append(f"the source classifier is {similarity.confidence:.0%} sure of its classes")
    elif parts:
        parts.append("the weights carry no known classifier whose confidence could be measured")
    return "; ".join(parts) or NOTHING_TOLD


def cut_words(one: Measured) -> str:
    """Say where the network is best cut, and whether that pays."""
    cut = one.evidence.cut
    if cut is None:
        return "There is no earlier stage to cut the network behind."
    told = (
        f"The best earlier stage is {cut.stage}. A probe on the best of the {len(one.evidence.stages) - 1}, picked "
    )
    told += (
        f"without the images that it is measured on, is {100 * abs(cut.lead):.1f} ± {100 * cut.error:.1f} points "
    )
    told += f"{'worse' if cut.lead < 0 else 'better'} than that on the whole network"
    return f"{told}{', which may be chance' if abs(cut.lead) <= 2 * cut.error else ''}."


def leader_words(one: Measured) -> str:
    """Say which plan leads, where the lead is not enough to take it; else ""."""
    leader = max(one.options.values(), key=lambda option: option.expected.score)
    if leader is one.chosen:
        return ""
    lead = 100 * (leader.expected.score - one.chosen.expected.score)
    return (
        f"{plan_words(leader)} leads it by {lead:.1f} points, which may be chance: on new data a lead is known to "
        f"{100 * leader.margin:.1f} points."
    )


def rule_words(one: Measured) -> str:
    """Say what the rule of CS231n answers, and where the two part."""
    rule, chosen, other = one.rule, one.chosen, one.by_rule
    said = f"The rule of the CS231n notes: {rule.words} ({rule.because})."
    if other is chosen:
        return f"{said} The measured choice is the same."
    gap = 100 * (chosen.expected.score - other.expected.score)
    less = f"{abs(gap):.1f} points {'less' if gap > 0 else 'more'}"
    return (
        f"{said} There the two part: the rule's {plan_words(other)} is expected to reach "
        f"{other.expected.mean:.1%}, {less} than {plan_words(chosen)}."
    )
