"""What is wrong with the data: `python -m tlab.audit data.root=DIR [fix=true]`."""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from tlab.command import quiet, run_command
from tlab.config.hydra import compose, config_dirs
from tlab.config.overrides import as_override, key_and_value
from tlab.config.run_overrides import gather
from tlab.config.schema import AuditConfig
from tlab.config.unused_keys import Run, check_used
from tlab.config.validation import check, check_values
from tlab.core.errors import DownloadFailed
from tlab.core.text import counted, shell_command, short_path

if TYPE_CHECKING:  # torch is imported when the work begins, not for --help
    from tlab.auditing.finding import Audit
    from tlab.auditing.images import AuditedImages

log = logging.getLogger(__name__)

OWN_KEYS = tuple(AuditConfig.__dataclass_fields__)


def run_overrides(given: Sequence[str]) -> list[str]:
    """Return the overrides of the audited run: a backbone, a check of every file, and those given."""
    keys = {key_and_value(override)[0] for override in given}
    more: list[str] = []
    if not {"backbone", "experiment"} & keys:
        from tlab.models.packaged_weights import overrides_at_hand

        more += overrides_at_hand()
    if "data.check_seconds" not in keys:
        more.append("data.check_seconds=null")
    return [*more, *given]


def audit(cfg: DictConfig, output: Path) -> "Audit":
    """Look at all images of a run's data, print what is found, and write it.

    Args:
        cfg: The command's configuration.
        output: Folder for `findings.csv`, `audit.html`, and with `fix=true` `cleaned.csv`.

    Raises:
        UserError: The data or the backbone cannot be used.
    """
    start = time.perf_counter()
    overrides = run_overrides(cfg.overrides)
    run = compose([*overrides, as_override("run_dir", output)], with_hydra=True)
    check(run)
    for remark in check_used(cfg.overrides, [Run(run)]):
        log.info(remark)
    quiet()
    from tlab.assembly.frozen_features import frozen_features, open_images
    from tlab.auditing.audit_images import find_all, mean_and_std, tally, unreadable_findings
    from tlab.auditing.copies import to_leave_out
    from tlab.auditing.finding import Audit, in_order, write_findings
    from tlab.auditing.images import read_images
    from tlab.auditing.report.page import write_page
    from tlab.auditing.summary import print_audit
    from tlab.core.hardware import stay_within_cores

    stay_within_cores()
    data = open_images(run, to_train=False)
    fix = ["fix=true"] if cfg.fix else []
    try:
        frozen = frozen_features(run, data)
    except DownloadFailed as error:
        from tlab.models.packaged_weights import overrides_at_hand

        kept = [each for each in cfg.overrides if key_and_value(each)[0].partition(".")[0] != "backbone"]
        others = [*kept, *overrides_at_hand(), *fix]
        command = shell_command(["python", "-m", "tlab.audit", *config_dirs(sys.argv[1:]), *others])
        raise DownloadFailed(f"{error}; with those at hand: {command}") from error
    images, broken = read_images(data, frozen.samples, frozen.stages["pool"])
    findings, copies, remarks = find_all(images, run.data.group)
    found = Audit(
        data.index.root,
        in_order([*unreadable_findings(data, broken), *findings]),
        images.counts(),
        *tally(images),
        *mean_and_std(images),
        backbone=f"{run.backbone.name}, {frozen.net.backbone.pretraining.description}",
        seconds=time.perf_counter() - start,
        command=shell_command(["python", "-m", "tlab.audit", *cfg.overrides, *fix]),
        remarks=(*data.issues, *remarks),
    )
    write_findings(output / "findings.csv", found.findings)
    print_audit(Console(), found, remarks)
    print(f"findings:  {short_path(output / 'findings.csv')}")
    print(f"page:      {short_path(write_page(found, output))}")
    if cfg.fix:
        _fix(output / "cleaned.csv", overrides, run, found, images, to_leave_out(copies, images))
    return found


def _fix(
    file: Path,
    overrides: Sequence[str],
    run: DictConfig,
    found: "Audit",
    images: "AuditedImages",
    copies: "Mapping[str, set[int]]",
) -> None:
    """Write the cleaned table, and print what it has not and the command that trains on it.

    No copy leaves it that is needed for its class.
    """
    from tlab.auditing.cleaned import classes_lost, left_out_sentences, write_cleaned
    from tlab.auditing.copies import needed

    kept = needed(copies, images)
    left_out = {reason: rows - kept for reason, rows in copies.items()}
    gone = set[int]().union(*left_out.values())
    count = write_cleaned(file, images, gone, run.data.get("split_column"))
    print(f"cleaned:   {short_path(file)}, {counted(count, 'image')}, no file is changed:")
    for sentence in left_out_sentences(images, left_out, kept, found.findings):
        print(f"  {sentence}")
    if classes_lost(images, gone):
        return
    of_source = {"data", "data.split_seed", "data.check_seconds", *(f"data.{key}" for key in run.data.source)}
    of_source -= {"data.group"}  # its column is in the table too
    others = [override for override in overrides if key_and_value(override)[0] not in of_source]
    table = {"root": str(found.root), "labels": str(file), "images": ".", "split_column": "split"}
    table |= {"image_column": "path", "label_column": "label"}
    source = ["data=csv", *(as_override(f"data.{key}", value) for key, value in table.items())]
    print(f"train:     {shell_command(['python', '-m', 'tlab.train', *source, *others])}")


def run(cfg: DictConfig) -> None:
    """Audit the data."""
    check_values(cfg, AuditConfig)
    audit(cfg, Path(HydraConfig.get().runtime.output_dir))


def main() -> None:
    """Entry point of `python -m tlab.audit`."""
    run_command(run, "audit", lambda given: gather(given, OWN_KEYS, "tlab.audit"), sweep=False)


if __name__ == "__main__":
    main()
