"""The keys of all configurations, each declared once with its type, choices or bounds, and help text.

Hydra merges every YAML file and override into these dataclasses, so an unknown key or a value of the wrong type
is refused before anything is imported. `tlab.config.validation` checks choices and bounds, and `--help` prints the
help texts. The keys of a node typed `dict[str, Any]` are those of its `_target_`.
"""

# ruff: noqa: RUF009 - `key` makes a dataclass field
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig

# Removed keys of earlier versions; runs made with them are resumed, evaluated and compared without them.
REMOVED_KEYS = ("data.augment_on", "data.decode_on", "data.module.augment_on", "data.module.decode_on")
LARGEST_IMAGE_SIZE = 4096  # at which a network is tried out in seconds, with less than 1 GB of memory
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
RUN = "run directory (its refit.ckpt, else soup.ckpt, else best.ckpt) or a checkpoint"
DEBUG = "true: show the traceback of a mistake"


def key(
    default: Any,
    help: str = "",
    *,
    choices: Sequence[str | bool | None] = (),
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: Sequence[type] = (),
    path: bool = False,
    several: bool = False,
) -> Any:
    """Declare a key: a field of one of the dataclasses below.

    Args:
        default: Default value, or its factory; `MISSING` if a YAML file sets it.
        help: Meaning of the key, for --help; "" for a group of keys.
        choices: All allowed values.
        least: Smallest allowed number.
        above: Exclusive lower bound.
        most: Largest allowed number.
        below: Dataclasses of the keys below it, where its type does not name them.
        path: Whether it names a file or folder, or (as a list or mapping) several: taken as typed, with `~` for the
            home directory.
        several: Whether such a list is possible besides one path.
    """
    rules: dict[str, Any] = {"help": help, "choices": choices, "bounds": (least, above, most), "below": below}
    rules |= {"path": path, "several": several}
    return field(**{"default_factory" if callable(default) else "default": default}, metadata=rules)


@cache
def keys(*nodes: Any, prefix: str = "") -> dict[str, Field[Any]]:
    """Return the fields in and below dataclasses by dotted key (`data.batch_size`), in order.

    In a mapping of nodes the key has `NAME`: `finetune.phases.NAME.epochs`.
    """
    found: dict[str, Field[Any]] = {}
    for each in (each for node in nodes for each in fields(node)):
        found[prefix + each.name] = each
        inner: list[Any] = [node for node in (each.type, *get_args(each.type)) if is_dataclass(node)]
        name = "" if is_dataclass(each.type) else "NAME."
        found |= keys(*inner, prefix=f"{prefix}{each.name}.{name}")
        found |= keys(*each.metadata["below"], prefix=f"{prefix}{each.name}.")
    return found


@cache
def path_keys(command: str) -> dict[str, bool]:
    """Return the keys of a command that name a path, and whether a list or a mapping of them is possible."""
    found = {name: each for name, each in _keys_of(command).items() if each.metadata["path"]}
    several = {
        name: get_origin(each.type) in (dict, list) or each.metadata["several"] for name, each in found.items()
    }
    return {"hydra.run.dir": False, "hydra.sweep.dir": False, "hydra.searchpath": True, **several}


@cache
def list_keys(command: str) -> frozenset[str]:
    """Return the keys of a command that hold a list of texts."""
    return frozenset(name for name, each in _keys_of(command).items() if each.type == list[str])


def _keys_of(command: str) -> dict[str, Field[Any]]:
    nodes = [COMMANDS[command]] if command in COMMANDS else []
    nodes += [TrainConfig] if command in ("tune", "audit", "advise", "study") else []  # of its runs
    return {name: each for node in reversed(nodes) for name, each in keys(node).items()}


def _open_mapping() -> Any:
    """Return an empty mapping in which any key may be set without `+`."""
    return DictConfig({}, flags={"struct": False})


@dataclass
class DataConfig:
    """Which images to use and how to read them (data=folder and data=demo)."""

    root: str | None = key(
        MISSING,
        "DIR/train/<class>/*.jpg and DIR/val/..., or DIR/<class>/*.jpg; of data=demo and data=torchvision the "
        "folder where they are kept (null: the cache directory)",
        path=True,
    )
    image_size: int = key(
        MISSING, "side of the square that the network sees, in pixels", least=2, most=LARGEST_IMAGE_SIZE
    )
    batch_size: int = key(MISSING, "images in a training step, of each process", least=1)
    num_workers: int | None = key(None, "processes that decode images; null: by cores and images", least=0)
    val_fraction: float = key(MISSING, "share split off train where there is no val folder", least=0, most=0.99)
    test_fraction: float = key(MISSING, "share split off train where there is no test folder", least=0, most=0.99)
    split_seed: int = key(MISSING, "what the split follows from; a fixed number keeps it when seed changes")
    group: str | None = key(
        None,
        "images of one group stay on one side of every split: a regular expression over paths that captures it, "
        "such as 'person(\\d+)_', or of data=csv a column",
        path=True,
    )
    limit: Any = key(
        None,
        "training images that are kept of each class: an integer, or a share; a larger one adds to them",
        above=0,
    )
    folds: int | None = key(
        None, "parts into which train and val together are divided, classes evenly and groups whole", least=2
    )
    fold: int | None = key(None, "the one that is val: data.folds=5 data.fold=0; sweep it with -m", least=0)
    exclude: list[str] = key(
        MISSING, "glob patterns of what to leave out: files and folders relative to root, or classes"
    )
    min_images: int | None = key(None, "leave out classes with fewer images to train on; null: keep all", least=1)
    normalize: str = key(MISSING, "whose mean and std images get", choices=("backbone", "dataset", "none"))
    unreadable: str = key(
        MISSING,
        "what to do with undecodable files; skip warns, read takes those that are cut short but there for the most "
        "part",
        choices=("skip", "read", "error"),
    )
    bits: Any = key(
        MISSING,
        "bits of samples of more than 8 bits; auto: what nearly all training images use",
        choices=("auto", *range(8, 17)),
    )
    max_megapixels: float = key(MISSING, "largest readable image, in 10^6 pixels; JPEG: once shrunk", above=0)
    check_seconds: float | None = key(
        MISSING,
        "seconds for the check of the images, beyond which a sample is decoded; null: every image is",
        above=0,
    )
    resize: str = key(MISSING, "keep the center, or the whole image", choices=("crop", "pad"))
    crop_fraction: float = key(MISSING, "share of the shorter side that crop keeps", above=0, most=1)
    store: str = key(
        MISSING, "decoded images on disk, with the same pixels; auto: where it pays", choices=("auto", "on", "off")
    )
    balanced: bool = key(MISSING, "true: every class equally often in training")
    class_weights: bool = key(MISSING, "true: weight the loss against class frequency")
    tests: dict[str, str] = key(
        _open_mapping,
        "further folders with the same class names, measured when the run is over: {NAME: DIR} gives test/NAME/acc",
        path=True,
    )
    source: dict[str, Any] = key(MISSING, "what finds the files; each choice of data has its own")
    module: dict[str, Any] = key(MISSING, "what loads them: the keys above, handed on")


@dataclass
class FolderDataConfig(DataConfig):
    """Further keys of data=folder."""

    nested: bool = key(
        False,
        "data=folder: true: all class folders may hold the same folders, which otherwise look like the classes",
    )


@dataclass
class CsvDataConfig(DataConfig):
    """Further keys of data=csv."""

    labels: str = key(MISSING, "data=csv: the table, relative to root; its first line names the columns", path=True)
    images: str = key(MISSING, "data=csv: folder of the images, in any subfolder, relative to root", path=True)
    image_column: str = key(MISSING, "data=csv: column of the image's file name or path, with or without extension")
    label_column: str = key(MISSING, "data=csv: column of the class name")
    extension: str | None = key(None, "data=csv: for example .png, where two files differ in nothing else")
    split_column: str | None = key(
        None, "data=csv: column that says train, val or test; without val rows, val is split off train"
    )


@dataclass
class TorchvisionDataConfig(DataConfig):
    """Further keys of data=torchvision."""

    name: str = key(MISSING, "data=torchvision: a class name in torchvision.datasets")


@dataclass
class BackboneConfig:
    """The network, its weights and its stages."""

    _target_: str = key(MISSING)
    name: str = key(MISSING, "the model's name in its library")
    library: str = key("torchvision", "torchvision or timm")
    weights: str | None = key(
        "DEFAULT", "a name, FILE, a run, bundled (mobilenet_v3_small) or null (random)", path=True
    )
    weights_classes: str | None = key(None, "JSON list of class names for a weights file", path=True)
    upto: str | None = key(None, "last stage kept, e.g. layer3")
    random_from: str | None = key(None, "first of the stages that get random weights all the same, e.g. layer3")
    stages: dict[str, str] | None = key(None, "stage names and first modules, in order; null: by a general rule")
    classifier: str | None = key(None, "path of the model's last layer, in front of which it is cut; null: found")
    batchnorm_momentum: float | None = key(
        None, "share of a batch in BatchNorm's running statistics; null: the model's own"
    )
    input_size: int = key(224, "side of the images that it was made for, in pixels")
    unfrozen_lr_scale: float = key(
        0.3, "factor on every learning rate while it trains after the head, in lp_ft and gradual", least=0
    )
    kwargs: dict[str, Any] = key(_open_mapping, "arguments of the model's builder, e.g. drop_path_rate=0.1")


@dataclass
class HeadConfig:
    """Keys of tlab's heads."""

    pooling: str = key(
        "avg",
        "over positions: avg, max, or avgmax (their mean), without a ViT's class token and registers; of a ViT "
        "also token (its class token) or token_avg (that and the mean of the patches); where it is not cut, avg "
        "stands for its own pooling",
    )
    dropout: float = key(0.0, "probability, before each linear layer")
    hidden: list[int] = key(list, "widths of hidden layers")
    normalize: bool = key(False, "standardize each pooled feature first")
    reuse: Any = key(
        None, "rows of the weights' own classifier: auto (if it knows most classes by name), null, or {bees: bee}"
    )
    solver: str = key(
        "auto",
        "of phases of the head alone; lbfgs: a linear head's optimum on stored features, in one epoch; auto: that, "
        "unless what steps need is given (optimizer, scheduler, loss, head.dropout, aug.mix, until)",
        choices=("auto", "lbfgs", "sgd"),
    )


@dataclass
class AugConfig:
    """Augmentation of training images: named transforms in order, then mixing."""

    transforms: dict[str, Any] = key(MISSING, "each one's name and what builds it, in order; null: left out")
    mix: dict[str, Any] | None = key(None, "mixup and CutMix, of which an alpha of 0 turns one off")


@dataclass
class PhaseConfig:
    """One phase of the plan: which parts train, for how long, and settings that differ in it."""

    train: Any = key(MISSING, "head, all, gradual, a number of last stages, or [names of stages]")
    epochs: int | None = key(None, "its length; null: the rest of trainer.max_epochs; 0: it is left out")
    lr_scale: float = key(1.0, "factor on every learning rate while it lasts")
    # keys of `finetuning.plan.Until`; OmegaConf cannot fill a typed node that is null
    until: Any = key(None, "what ends it sooner, once that has stopped improving: {monitor: val/loss, patience: 2}")
    scheduler: Any = key(None, "keys of scheduler that are other ones in it: {warmup: 0.2}")
    weight_decay: float | None = key(None, "optimizer.weight_decay in it")
    aug: Any = key(None, "as the group aug, in it: +aug@finetune.phases.NAME.aug=strong")


@dataclass
class FinetuneConfig:
    """The fine-tuning plan."""

    head_epochs: int | None = key(MISSING, "epochs with the backbone frozen; one if head.solver solves it")
    head_first: bool = key(False, "true: refuse to unfreeze before the head has trained")
    last_stages: int | None = key(None, "k of finetune=last")
    backbone_lr_scale: float = key(1.0, "the backbone's learning rate as a multiple of the head's", least=0)
    stage_lr_decay: float = key(
        1.0, "factor from each stage to the one before it; 0.8 tunes early stages more gently", above=0, most=1
    )
    stage_lr_scales: Any = key(None, "instead, multiples of the backbone's rate: [0.1, 0.3, 1] or {stem: 0.0}")
    l2_sp: float = key(0.0, "decay towards the pretrained weights, instead of towards zero (0.01 to 0.1)", least=0)
    ema: float | None = key(
        None, "decay of a moving average of weights that is evaluated and kept, e.g. 0.99", least=0, most=0.999999
    )
    batchnorm: str = key(
        "pretrained",
        "statistics of BatchNorm at the start: the weights' own, or estimated on the training images; stages that "
        "train update them, but fixed ones; auto: estimated or fixed, whichever's features tell the classes better",
        choices=("auto", "estimated", "fixed", "pretrained"),
    )
    soup: str | None = key(
        None,
        "wise: of the weights between the end of the head phase and the end, those that validate best are kept",
        choices=(None, "wise"),
    )
    pretrained: bool = key(True, "false: from random weights")
    phases: dict[str, PhaseConfig] = key(MISSING, "the phases by name, in order")


@dataclass
class OptimizerConfig:
    """Keys of every optimizer."""

    lr: float = key(MISSING, "peak learning rate of the head", least=0)
    weight_decay: float = key(MISSING, "decay towards zero, not of norms and biases", least=0)


@dataclass
class TrainerConfig:
    """Hardware, precision and length of training."""

    accelerator: str = key(MISSING, "what computes; auto: the first GPU, else the CPU", choices=ACCELERATORS)
    strategy: str = key("auto", "how several devices train together, a process each", choices=("auto", "ddp"))
    devices: int = key(1, "GPUs, or processes on a CPU, of each node", least=1)
    num_nodes: int = key(1, "machines of one cluster job (docs/pages/clusters.md)", least=1)
    sync_batchnorm: bool = key(False, "GPUs only: BatchNorm over the images of all processes")
    max_epochs: int = key(15, "epochs in all", least=1)
    precision: str = key("auto", "of the arithmetic; auto measures the fastest here", choices=("auto", *PRECISIONS))
    channels_last: bool = key(True, "true: the memory layout in which convolutions are fastest")
    compile: Any = key("auto", "torch.compile; auto: on CUDA, in phases over 10 min", choices=("auto", True, False))
    gradient_clip_val: float | None = key(None, "largest gradient norm", above=0)
    accumulate_grad_batches: int = key(1, "batches per optimizer step", least=1)
    early_stopping: int | None = key(
        None, "epochs in a row without a better checkpoint.monitor that end the last phase, and the run", least=1
    )
    limit_train_batches: Any = key(None, "for trying things out: an integer (batches) or a share", above=0)
    limit_val_batches: Any = key(None, "the same for validation", above=0)
    limit_test_batches: Any = key(None, "the same for the test", above=0)


@dataclass
class FeaturesConfig:
    """Caching of the outputs of stages that stay frozen through a phase."""

    cache: str = key("auto", "compute what frozen stages return once; off: every epoch", choices=("auto", "off"))
    views: int | None = key(None, "stored views of an augmented image; null: 4, or one per epoch", least=1)
    max_gb: float = key(20.0, "limit on what the cache keeps; the least recently used make room", least=0)


@dataclass
class LossConfig:
    """Keys of tlab's losses."""

    label_smoothing: float = key(
        0.0, "share of each target that is spread over all classes, in training", least=0, most=0.99
    )
    gamma: float = key(MISSING, "loss=focal: how much less the images count whose answer is certain", least=0)
    tau: float = key(MISSING, "loss=logit_adjusted: strength; 1 is for the mean accuracy over classes", least=0)


@dataclass
class CheckpointConfig:
    """Which epoch counts as the best, and how often to save."""

    monitor: str = key("val/acc", 'what "best" means; of equal epochs the one with the lower val/loss')
    mode: str | None = key(None, "null: min for a loss, else max", choices=(None, "min", "max"))
    every_n_steps: int | None = key(
        None, "optimizer steps between checkpoints inside an epoch, to resume from after a crash", least=1
    )


@dataclass
class DashboardsConfig:
    """Numbers of images in the dashboards."""

    preview_images: int = key(16, "in the grid of what the network sees; 0: none")
    top_losses: int = key(16, "validation images with the highest loss; 0: none")


@dataclass
class TrainConfig:
    """A training run (tlab-train)."""

    # each choice has its own schema, see `register`
    data: Any = key(MISSING, below=(DataConfig, FolderDataConfig, CsvDataConfig, TorchvisionDataConfig))
    backbone: BackboneConfig = key(MISSING)
    head: dict[str, Any] = key(MISSING, below=(HeadConfig,))
    aug: AugConfig = key(MISSING)
    finetune: FinetuneConfig = key(MISSING)
    optimizer: dict[str, Any] = key(MISSING, below=(OptimizerConfig,))
    scheduler: dict[str, Any] = key(MISSING, "how the rate changes; each choice has its own keys")
    trainer: TrainerConfig = key(MISSING)
    logger: dict[str, Any] = key(MISSING, "what takes the logged values, by name")
    experiment: Any = key(None, "a recipe: settings of many keys in one file")
    features: FeaturesConfig = key(FeaturesConfig)
    loss: dict[str, Any] = key(
        MISSING, "what trains, and val/loss; each choice has its own keys", below=(LossConfig,)
    )
    callbacks: dict[str, Any] = key(
        _open_mapping, "further ones of Lightning or your own, by name: {mine: {_target_: module.Class}}"
    )
    checkpoint: CheckpointConfig = key(CheckpointConfig)
    dashboards: DashboardsConfig = key(DashboardsConfig)
    baseline: dict[str, list[str]] = key(dict, "runs to compare with: name -> overrides (see experiment/demo.yaml)")
    refit: bool = key(
        False,
        "true: when the best epoch is known, train as far once more, on train and val together, for checkpoints/"
        "refit.ckpt, which predict then takes; also of a run that is finished",
    )
    find_lr: bool = key(False, "true: suggest a value for optimizer.lr at each phase's start")
    seed: int = key(0, "everything random follows from it", least=0, most=2**32 - 1)
    run_dir: str = key(MISSING, "the run's directory; hydra.run.dir sets it", path=True)
    debug: bool = key(False, DEBUG)
    resume: str = key(
        "auto",
        "a directory with a run: auto resumes it if the images are the same, anyway also over others of the same "
        "classes, never refuses it",
        choices=("auto", "never", "anyway"),
    )
    advice: str | None = key(
        None, "advice.json of tlab.advise: the run notes it, and whether its val/acc is as expected", path=True
    )
    sweep: str = key(
        MISSING, "with -m: the runs lie in outputs/multirun/NAME; the same name again resumes it", path=True
    )


@dataclass
class BudgetConfig:
    """Limits of a search."""

    trials: int = key(30, "of the study in all, pruned and failed ones counted; kept for the next command", least=1)
    minutes: float | None = key(None, "no other trial is begun after so many minutes of this command", least=0)


@dataclass
class SamplerConfig:
    """Keys of every sampler."""

    seed: int = key(0, "what the choices follow from")


@dataclass
class TuneConfig:
    """A hyperparameter search (tlab-tune)."""

    study: str = key(MISSING, "name of the search; trials lie in outputs/tune/NAME/trial=<n>/seed=<n>/", path=True)
    dir: str = key(
        MISSING,
        "the study's folder, by default outputs/tune/NAME; all that use one study must share it, and with it its "
        "locks, with a database's URL too",
        path=True,
    )
    storage: str | None = key(
        None,
        "null: SQLite in the study's folder; journal: for shared disks, the default with "
        "hydra/launcher=submitit_slurm or ray; or a database's URL",
    )
    overrides: list[str] = key(list, "of the trials; the command line's are gathered here")
    space: dict[str, Any] = key(MISSING, "key -> the values to search; space=NAME has them in a file")
    budget: BudgetConfig = key(BudgetConfig)
    seeds: list[int] | None = key(None, "each trial runs with these and gets the mean; null: [0]; or seed=0,1,2")
    sampler: dict[str, Any] = key(MISSING, below=(SamplerConfig,))
    pruner: dict[str, Any] = key(MISSING, "what ends a trial early; each choice has its own keys")
    workers: int = key(1, "processes that take trials at once, with hydra/launcher=joblib (or another)", least=1)
    worker: int = key(0, "number of the process; set by the launcher")
    resume: str = key("auto", "anyway: also over other images, if classes are the same", choices=("auto", "anyway"))
    debug: bool = key(False, DEBUG)


@dataclass
class _TrustConfig:
    """Keys of all commands that read a trained run."""

    trust: Any = key(
        False,
        "true, only for files you trust: build whatever they name, which may run any code",
        choices=(None, True, False),
    )
    debug: bool = key(False, DEBUG)


@dataclass
class _UseConfig(_TrustConfig):
    """Keys that all commands which let a trained run answer have in common."""

    accelerator: str = key("auto", "what computes", choices=ACCELERATORS)
    precision: str | None = key(None, "null: as in the run", choices=(None, *PRECISIONS))
    calibrate: Any = key(
        "auto",
        "whether probabilities are scaled by the checkpoint's temperature, which changes no prediction; auto: if "
        "it lowers the loss (NLL) of validation images",
        choices=(None, "auto", True, False),
    )


@dataclass
class _ReadConfig(_UseConfig):
    """Keys that evaluate and predict have in common."""

    batch_size: int | None = key(None, "images at a time; null: as in the run", least=1)
    num_workers: int | None = key(None, "processes that decode images", least=0)


@dataclass
class ReadDataConfig:
    """What can be read as an image."""

    max_megapixels: float | None = key(None, "largest readable image; null: as in the run", above=0)


@dataclass
class OtherDataConfig(ReadDataConfig):
    """Images other than the run's own."""

    root: str | None = key(
        None,
        "another folder with the same class names, measured whole where it is not split (for a run with data=csv: "
        "or with such a table); null: the run's own data",
        path=True,
    )
    exclude: Any = key(None, "what to leave out below that folder, as glob patterns: one, or a list of them")
    labels: str | None = key(None, "of a table: its path below root; null: as in a run with data=csv", path=True)
    images: str | None = key(None, "likewise: folder of the images, relative to root", path=True)
    image_column: str | None = key(None, "likewise: column of the image's file name or path")
    label_column: str | None = key(None, "likewise: column of the class name")
    extension: str | None = key(None, "likewise: where two files differ in nothing else")


@dataclass
class PredictedDataConfig(ReadDataConfig):
    """Which images are predicted."""

    exclude: list[str] = key(list, "what to leave out below input, as glob patterns: one, or a list of them")
    images: str | None = key(None, "input=TABLE: folder of the images; null: the table's own", path=True)
    image_column: str | None = key(
        None, "of a table or a submission: column of file names, paths or ids; null: the one whose images are found"
    )
    extension: str | None = key(None, "of a table or a submission: where two files differ in nothing else")


@dataclass
class EvaluateConfig(_ReadConfig):
    """Evaluation of a trained run (tlab-evaluate)."""

    run: str = key(MISSING, RUN, path=True)
    output: str | None = key(
        None,
        "write the metrics to this JSON file too, and evaluation_<split>.json beside it; null: into the run",
        path=True,
    )
    split: str | None = key(
        None,
        "train, val, test, all, or a name in the run's data.tests; null: the first of test, val, train, all",
    )
    report: bool = key(
        False,
        "write report_<split>.html beside evaluation_<split>.json too: errors with their pictures, classes, slices",
    )
    data: OtherDataConfig = key(OtherDataConfig)


@dataclass
class PredictConfig(_ReadConfig):
    """Predictions of a trained run (tlab-predict)."""

    run: Any = key(
        MISSING,
        "run directory or a checkpoint; the mean of several: [RUN1,RUN2], or a folder of runs, such as a sweep's",
        path=True,
        several=True,
    )
    input: Any = key(
        MISSING,
        "an image file, a folder of them (subfolders included), a pattern ('photos/**/*.jpg'), a table of paths or "
        "ids (test.csv), - for paths on standard input, or a list of these",
        path=True,
        several=True,
    )
    output: str | None = key(
        None,
        "path, prediction, probability, the probability of each class, whether the image is like those of training "
        "(known), and the reason where there is none; null: preds.csv, preds.jsonl or submission.csv",
        path=True,
    )
    format: str | None = key(None, "null: by the ending of output, else csv", choices=(None, "csv", "jsonl"))
    tta: str | None = key(
        None, "flip: the mean over each image and its mirror image, at twice the cost", choices=(None, "flip")
    )
    coverage: float | None = key(
        None,
        "also set: the classes among which is the right one with this probability, such as 0.9, if images are like "
        "the run's; it may be empty where the run is right more often",
        above=0,
        most=0.999,
    )
    submission: str | None = key(
        None,
        "a sample submission: output is the same with the predictions in it, for the ids that it lists",
        path=True,
    )
    data: PredictedDataConfig = key(PredictedDataConfig)


@dataclass
class ExportConfig(_TrustConfig):
    """A trained run as a model for others (tlab-export)."""

    run: str = key(MISSING, RUN, path=True)
    format: str | None = key(
        None, "null: by the ending of output, else onnx", choices=(None, "onnx", "torch_export")
    )
    output: str | None = key(
        None, "the model; its card is FILE.md; null: model.onnx, or model.pt2 of torch_export", path=True
    )


@dataclass
class CompareConfig:
    """A comparison of runs (tlab-compare)."""

    sweep: str = key(MISSING, "a sweep's directory, any folder with runs below it, or one run", path=True)
    monitor: str | None = key(None, "metric of metrics.json that decides; null: the runs' own checkpoint.monitor")
    target: Any = key(None, "value of it to count epochs to; null: 95 % of the best mean", least=float("-inf"))
    interval: str = key("t", "95 % interval; bootstrap is BCa", choices=("t", "bootstrap"))
    test: str = key(
        "t", "of paired differences to the best; wilcoxon needs six seeds to reach 0.05", choices=("t", "wilcoxon")
    )
    output: str | None = key(None, "where to write; null: the sweep's own directory", path=True)
    debug: bool = key(False, DEBUG)


@dataclass
class AuditConfig:
    """An audit of the data before training (tlab-audit)."""

    overrides: list[str] = key(list, "of the run whose data are audited; the command line's are gathered here")
    fix: bool = key(
        False,
        "true: also write cleaned.csv (path, label, split) for data=csv, without what cannot be read and without "
        "copies; no image is touched and no label changed",
    )
    output: str = key(
        MISSING, "folder of findings.csv, audit.html, cleaned.csv; by default outputs/audit/<time>", path=True
    )
    debug: bool = key(False, DEBUG)


@dataclass
class AdviseConfig:
    """Advice before training (tlab-advise)."""

    overrides: list[str] = key(list, "of the runs that it is about; the command line's are gathered here")
    output: str | None = key(
        None, "folder of advice.json, which a run can note (advice=FILE); null: outputs/advice/<time>", path=True
    )
    debug: bool = key(False, DEBUG)


@dataclass
class StudyConfig:
    """A study (tlab-study)."""

    name: str = key(MISSING, "which one: a file of conf/studies, listed below")
    output: str = key(
        MISSING, "its folder, by default outputs/study/NAME; the same one again resumes the study", path=True
    )
    x: str = key(
        MISSING, "key whose values lie along the figure, or stages: those of the backbone, one after the other"
    )
    y: str | None = key(None, "metric of metrics.json; null: test/acc, or val/acc where a run has no test images")
    fit: str | None = key(
        None,
        "power_law: of the error over the number of training images, x=data.limit",
        choices=(None, "power_law"),
    )
    settings: list[str] = key(
        list, "of all runs, as tlab.train -m takes them; what the command line gives takes their place"
    )
    curves: dict[str, list[str]] = key(
        _open_mapping,
        "settings of the lines, by name; {stage} is the last stage before a cut, {next} the one behind it, {after} "
        "the number of those behind it, and {NAME} the run of another line",
    )
    title: str = key(MISSING, "what the figure shows, by default the name")
    paper: str = key("", "what is known about it")
    x_label: str = key(MISSING, "what lies along the figure, by default x")
    overrides: list[str] = key(list, "of the runs; the command line's are gathered here")
    debug: bool = key(False, DEBUG)


@dataclass
class ServeConfig(_UseConfig):
    """A page, and an endpoint for programs, of a trained run (tlab-serve)."""

    run: str = key(MISSING, RUN, path=True)
    port: int = key(8000, "at which it answers; 0: any free one, which is printed", least=0, most=65535)
    data: ReadDataConfig = key(ReadDataConfig)


COMMANDS = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
    "compare": CompareConfig,
    "tune": TuneConfig,
    "audit": AuditConfig,
    "advise": AdviseConfig,
    "study": StudyConfig,
    "serve": ServeConfig,
}


def register() -> None:
    """Register the schemas with Hydra, once in a process: it takes a tenth of the time of a composition."""
    store = ConfigStore.instance()
    if "schema_train.yaml" in store.repo:
        return
    for command, node in COMMANDS.items():
        store.store(name=f"schema_{command}", node=node)
    store.store(group="data", name="_schema", node=DataConfig)
    store.store(group="data", name="_schema_folder", node=FolderDataConfig)
    store.store(group="data", name="_schema_csv", node=CsvDataConfig)
    store.store(group="data", name="_schema_torchvision", node=TorchvisionDataConfig)
