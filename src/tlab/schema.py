"""The types of the configuration's keys.

Hydra merges every YAML file and override into these dataclasses, so an unknown key or a value of the wrong type
is refused before anything is imported. Nodes typed `dict[str, Any]` belong to the `_target_` that they name.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig

# Keys that earlier versions had. Runs made with them go on, are measured and are compared as if they had none.
GONE = ("data.augment_on", "data.decode_on", "data.module.augment_on", "data.module.decode_on")


def _open_mapping() -> Any:
    """Return an empty mapping in which any key may be set, without a plus sign."""
    return DictConfig({}, flags={"struct": False})


@dataclass
class DataConfig:
    """Which images, and how they are read (data=folder and data=demo)."""

    root: str | None = MISSING
    image_size: int = MISSING
    batch_size: int = MISSING
    num_workers: int | None = None
    val_fraction: float = MISSING
    test_fraction: float = MISSING
    split_seed: int = MISSING
    exclude: list[str] = MISSING
    normalize: str = MISSING
    unreadable: str = MISSING
    resize: str = MISSING
    crop_fraction: float = MISSING
    store: str = MISSING
    balanced: bool = MISSING
    class_weights: bool = MISSING
    source: dict[str, Any] = MISSING
    module: dict[str, Any] = MISSING


@dataclass
class CsvDataConfig(DataConfig):
    """data=csv."""

    labels: str = MISSING
    images: str = MISSING
    image_column: str = MISSING
    label_column: str = MISSING
    extension: str | None = None


@dataclass
class TorchvisionDataConfig(DataConfig):
    """data=torchvision."""

    name: str = MISSING


@dataclass
class BackboneConfig:
    """Which network, which weights, which stages."""

    _target_: str = MISSING
    name: str = MISSING
    library: str = "torchvision"
    weights: str | None = "DEFAULT"
    weights_classes: str | None = None
    upto: str | None = None
    stages: dict[str, str] | None = None
    classifier: str | None = None
    batchnorm_momentum: float | None = None
    input_size: int = 224
    kwargs: dict[str, Any] = field(default_factory=_open_mapping)


@dataclass
class AugConfig:
    """What happens to a training image: named transforms in order, then mixing."""

    transforms: dict[str, Any] = MISSING
    mix: dict[str, Any] | None = None


@dataclass
class PhaseConfig:
    """One phase of the plan: who trains, for how long, at which rate, and what else is different in it."""

    train: Any = MISSING
    epochs: int | None = None
    lr_scale: float = 1.0
    until: Any = None  # of finetuning.plan.Until; OmegaConf cannot fill a typed node that is null
    scheduler: Any = None  # arguments of the scheduler that are other ones here
    weight_decay: float | None = None
    aug: Any = None  # as the group aug


@dataclass
class FinetuneConfig:
    """The fine-tuning plan."""

    head_epochs: int | None = MISSING
    head_first: bool = False
    last_stages: int | None = None
    backbone_lr_scale: float = 1.0
    stage_lr_decay: float = 1.0
    stage_lr_scales: Any = None
    l2_sp: float = 0.0
    ema: float | None = None
    pretrained: bool = True
    phases: dict[str, PhaseConfig] = MISSING


@dataclass
class TrainerConfig:
    """Hardware, precision and length."""

    accelerator: str = MISSING
    strategy: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    sync_batchnorm: bool = False
    max_epochs: int = 15
    precision: str = "auto"
    channels_last: bool = True
    compile: Any = "auto"  # auto, true or false
    gradient_clip_val: float | None = None
    accumulate_grad_batches: int = 1
    early_stopping: int | None = None
    limit_train_batches: Any = None
    limit_val_batches: Any = None
    limit_test_batches: Any = None


@dataclass
class FeaturesConfig:
    """What is kept of the stages that stay frozen through a phase."""

    cache: str = "auto"
    views: int | None = None
    max_gb: float = 20.0


@dataclass
class LossConfig:
    """The training loss."""

    label_smoothing: float = 0.0


@dataclass
class CheckpointConfig:
    """Which epoch is the best one."""

    monitor: str = "val/acc"
    mode: str | None = None
    every_n_steps: int | None = None


@dataclass
class DashboardsConfig:
    """How much is drawn."""

    preview_images: int = 16
    top_losses: int = 16


@dataclass
class TrainConfig:
    """One run."""

    data: Any = MISSING  # each choice has its own schema, see `register`
    backbone: BackboneConfig = MISSING
    head: dict[str, Any] = MISSING
    aug: AugConfig = MISSING
    finetune: FinetuneConfig = MISSING
    optimizer: dict[str, Any] = MISSING
    scheduler: dict[str, Any] = MISSING
    trainer: TrainerConfig = MISSING
    logger: dict[str, Any] = MISSING
    experiment: Any = None
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    dashboards: DashboardsConfig = field(default_factory=DashboardsConfig)
    baseline: dict[str, list[str]] = field(default_factory=dict)
    find_lr: bool = False
    seed: int = 0
    run_dir: str = MISSING
    debug: bool = False
    resume: str = "auto"
    sweep: str = MISSING


@dataclass
class BudgetConfig:
    """When a search ends."""

    trials: int = 30
    minutes: float | None = None


@dataclass
class TuneConfig:
    """One hyper-parameter search."""

    study: str = MISSING
    dir: str = MISSING
    storage: str | None = None
    overrides: list[str] = field(default_factory=list)
    space: dict[str, Any] = MISSING
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    seeds: list[int] | None = None
    sampler: dict[str, Any] = MISSING
    pruner: dict[str, Any] = MISSING
    workers: int = 1
    worker: int = 0
    resume: str = "auto"
    debug: bool = False


def register() -> None:
    """Make the schemas known to Hydra."""
    store = ConfigStore.instance()
    store.store(name="schema", node=TrainConfig)
    store.store(name="schema_tune", node=TuneConfig)
    store.store(group="data", name="_schema", node=DataConfig)
    store.store(group="data", name="_schema_csv", node=CsvDataConfig)
    store.store(group="data", name="_schema_torchvision", node=TorchvisionDataConfig)
