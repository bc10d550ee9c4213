"""The images that all processes of a run have found, and the lists of them in its directory."""

from omegaconf import DictConfig

from tlab.config.validation import check_shares
from tlab.core.text import as_text
from tlab.data.datamodule import ImageDataModule
from tlab.data.sources.verify import Unreadable
from tlab.finetuning.ddp import verify_same_images
from tlab.runs.directory import RunDirectory


def agreed_content(cfg: DictConfig, run: RunDirectory, data: ImageDataModule, resumed: bool) -> dict[str, str]:
    """Return the images' fingerprints, when all processes have found the same and each has a share; write the list.

    Of a resumed run the list of skipped images keeps those that were met in an epoch.

    Raises:
        UserError: They differ, or are too few.
    """
    for index in (data.index, *data.tests.values()):
        verify_same_images(index)
    contents = data.contents()
    tested = {split: len(data.samples(split)) for split in data.further_tests}
    check_shares(contents.numbers() | tested, cfg.trainer.devices, cfg.trainer.num_nodes)
    earlier = run.unreadable() if resumed else {}
    every = (sample for samples in data.index.splits.values() for sample in samples if earlier)
    met = [Unreadable(s.path, earlier[as_text(s.file)]) for s in every if as_text(s.file) in earlier]
    run.write_unreadable([*data.unreadable, *met])
    run.write_data(contents)
    return {"content": contents.fingerprint(), "sizes": contents.fingerprint(by_size=True)}
