import threading
from types import SimpleNamespace

from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from tlab.dashboards.hparams import log_hparams
from tlab.dashboards.scalars import Scalars

SETTINGS = {
    "seed": 1,
    "optimizer.lr": 0.01,
    "optimizer.nesterov": True,
    "backbone.name": "vgg16",
    "backbone.weights": None,
}


def plugin_data(board, tag):
    content = board.SummaryMetadata(tag).plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)


def test_the_row_holds_settings_and_final_metrics_after_a_fit(fit, events, state):
    trainer = fit(Scalars(state))
    log_hparams(trainer.loggers, SETTINGS, {"val/acc": 0.5, "val/loss": 1.25}, step=6)
    board = events()
    start = plugin_data(board, metadata.SESSION_START_INFO_TAG).session_start_info
    assert start.hparams["optimizer.lr"].number_value == 0.01
    assert start.hparams["optimizer.nesterov"].bool_value is True
    assert start.hparams["backbone.weights"].string_value == "null"
    experiment = plugin_data(board, metadata.EXPERIMENT_TAG).experiment
    assert [(m.name.tag, m.display_name) for m in experiment.metric_infos] == [
        ("~final/val/acc", "val/acc"),
        ("~final/val/loss", "val/loss"),
    ]
    assert {info.name for info in experiment.hparam_infos} == set(SETTINGS)
    assert [(e.step, e.value) for e in board.Scalars("~final/val/acc")] == [(6, 0.5)]
    assert [e.step for e in board.Scalars("val/acc")] == [2, 5]  # the curve has its epochs and nothing else


def test_tensorboard_serves_the_row(tmp_path):
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    for name, acc in {"a": 0.5, "b": 0.75}.items():
        log_hparams([TensorBoardLogger(tmp_path, "", name)], {**SETTINGS, "name": name}, {"val/acc": acc})
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(tmp_path))
    context = backend_context.Context(SimpleNamespace(data_provider=provider))
    found = context.experiment_from_metadata(
        RequestContext(), "", include_metrics=True, hparams_run_to_tag_to_content=context.hparams_metadata(
            RequestContext(), ""
        ), data_provider_hparams=None,
    )  # fmt: skip
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=9, allowed_statuses=[api_pb2.STATUS_SUCCESS]
    )
    handler = list_session_groups.Handler(RequestContext(), context, "", request)
    values = {
        group.hparams["name"].string_value: group.metric_values[0].value for group in handler.run().session_groups
    }
    assert [info.display_name for info in found.metric_infos] == ["val/acc"]
    assert values == {"a": 0.5, "b": 0.75}


def test_what_was_swept_comes_first_and_the_run_has_its_name(tmp_path):
    log_hparams(
        [TensorBoardLogger(tmp_path, "", "a")], SETTINGS, {"val/acc": 0.5}, swept={"seed"}, run="aug=none/seed=1"
    )
    (file,) = (tmp_path / "a").glob("events.*")
    board = EventAccumulator(str(file)).Reload()
    infos = plugin_data(board, metadata.EXPERIMENT_TAG).experiment.hparam_infos
    assert [info.name for info in infos if info.differs] == ["seed"]
    assert plugin_data(board, metadata.SESSION_START_INFO_TAG).session_start_info.group_name == "aug=none/seed=1"


def test_no_writer_is_left_open(fit, state):
    before = set(threading.enumerate())
    trainer = fit(Scalars(state))
    log_hparams(trainer.loggers, SETTINGS, {"val/acc": 0.5}, step=6)
    assert set(threading.enumerate()) - before == set()


def test_without_a_logger_nothing_happens(tmp_path):
    log_hparams([], SETTINGS, {"val/acc": 0.5})
