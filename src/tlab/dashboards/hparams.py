"""A run's settings and final metrics in TensorBoard's HParams tab."""

from collections.abc import Collection, Mapping, Sequence

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

FINAL_TAG = "~final"  # the tilde comes after all letters, so the curves come first


@rank_zero_only
def log_hparams(
    loggers: Sequence[Logger],
    hparams: Mapping[str, float | bool | str | None],
    metrics: Mapping[str, float],
    step: int = 0,
    swept: Collection[str] = (),
    run: str | None = None,
) -> None:
    """Write a finished run's row of the HParams tab; call it once, when the final metrics are known.

    TensorBoard keeps the first description of a run that it reads, so a row that is written before the metrics
    exist cannot be corrected; Lightning's own (`default_hp_metric`, `save_hyperparameters`) must stay off. The
    final metrics are scalars `~final/<name>`, below all curves, since they are those of the best epoch and not of
    the last one; the tab shows them under their plain names.

    Args:
        loggers: The run's loggers, of which only TensorBoard's is used.
        hparams: Name, such as `optimizer.lr`, -> value.
        metrics: Name, such as `val/acc`, -> final value.
        step: Step at which the final metrics are drawn.
        swept: Settings that come first in the tab: of five or more it ticks only the first five.
        run: Name of the run in the tab; None: a hash of its settings.
    """
    logger = next((logger for logger in loggers if isinstance(logger, TensorBoardLogger)), None)
    if logger is None:
        return
    # Imported late: TensorBoard's plugins take half a second
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2

    settings = {name: "null" if value is None else value for name, value in hparams.items()}
    kinds = {bool: "DATA_TYPE_BOOL", str: "DATA_TYPE_STRING"}
    experiment = api_pb2.Experiment(
        hparam_infos=[
            api_pb2.HParamInfo(name=name, type=kinds.get(type(value), "DATA_TYPE_FLOAT64"), differs=name in swept)
            for name, value in settings.items()
        ],
        metric_infos=[summary_v2.Metric(f"{FINAL_TAG}/{name}", display_name=name).as_proto() for name in metrics],
    )
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
    described = {
        metadata.EXPERIMENT_TAG: plugin_data_pb2.HParamsPluginData(experiment=experiment),
        metadata.SESSION_END_INFO_TAG: plugin_data_pb2.HParamsPluginData(session_end_info=end),
    }
    board = logger.experiment
    events = board._get_file_writer()
    for tag, data in described.items():
        about = metadata.create_summary_metadata(data)
        events.add_summary(Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)]))
    events.add_summary(summary_v2.hparams_pb(settings, trial_id=run))
    for name, value in metrics.items():
        board.add_scalar(f"{FINAL_TAG}/{name}", value, step)
    board.close()  # Lightning had closed it, and writing has opened it again: a thread and a file
