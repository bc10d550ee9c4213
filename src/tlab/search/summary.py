"""The summary of a search: on the terminal, in search.html, and as the command that repeats the best trial."""

from rich.console import Console
from rich.text import Text

from tlab.core.text import counted
from tlab.search.commands import repeat_command, resume_command
from tlab.search.plots import caution, importances, states, write_plots
from tlab.search.study import Study


def close(study: Study) -> None:
    """Compare the trials, draw the search, and print the best and the command that repeats it."""
    from tlab.comparison.write import compare

    if study.best() is not None:
        compare(study.directory, study.definition.monitor, console=Console())
        write_plots(study)
    print_end(study)


def print_end(study: Study) -> None:
    """Print how many trials there are, the best, the commands that resume and repeat it, and failures."""
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)  # overrides may have [brackets]
    best = study.best()
    console.print(
        Text.assemble((f"Search {study.name}: ", "bold"), f"{counted(study.trials(), 'trial')}, {states(study)}")
    )
    if best is None:
        console.print(f"no trial has finished; {resume_command(study)} resumes it")
        return
    over = f", mean of {len(study.definition.seeds)} seeds" if len(study.definition.seeds) > 1 else ""
    console.print(f"best: trial {best.number}, {study.definition.monitor} {best.value:.4f}{over}")
    for override in study.space.chosen(best.params):
        console.print(f"  {override}")
    if shares := importances(study):
        listed = ", ".join(f"{key} {share:.0%}" for key, share in shares.items())
        console.print(f"importance (PED-ANOVA): {listed}")
        console.print(f"  {caution(study)}")
    for failed in study.trials("FAIL"):
        console.print(f"trial {failed.number} failed: {failed.user_attrs.get('error', 'unknown')}")
    console.print(f"again:  {repeat_command(study, best)}")
    console.print(f"search:  {study.directory / 'search.html'}")
