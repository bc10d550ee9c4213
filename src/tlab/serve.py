"""A trained run as a page and an endpoint on this machine: `python -m tlab.serve run=RUN_OR_CKPT [port=8000]`."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from tlab.command import quiet, run_command
from tlab.config.schema import ServeConfig
from tlab.config.validation import check_values
from tlab.core.errors import UserError
from tlab.core.text import short_path

PACKAGES = ("fastapi", "uvicorn", "python_multipart")


def run(cfg: DictConfig) -> None:
    """Answer questions about images until a signal comes."""
    check_values(cfg, ServeConfig)
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(
            f"tlab.serve needs {' and '.join(missing)}, not installed here: pip install 'tlab-transfer[serve]'"
        )
    from tlab.serving.server import listen

    with listen(cfg.port) as listening:
        from tlab.core.hardware import stay_within_cores
        from tlab.runs.load import load_trained
        from tlab.runs.trained_model import TrainedModel
        from tlab.serving.app import build_app, metadata
        from tlab.serving.predictor import Predictor
        from tlab.serving.server import serve

        quiet()
        stay_within_cores()
        trained = load_trained(Path(cfg.run), bool(cfg.trust))
        if cfg.data.max_megapixels is not None:
            options = replace(trained.decode_options, max_megapixels=cfg.data.max_megapixels)
            trained = replace(trained, decode_options=options)
        model = TrainedModel(trained, cfg.accelerator, cfg.precision, cfg.calibrate)
        predictor, port = Predictor(model), listening.getsockname()[1]
        app = build_app(predictor, metadata(model), port)
        print(f"checkpoint: {short_path(trained.checkpoint)}")
        print(f"page:       http://127.0.0.1:{port}  (Ctrl-C ends it)", flush=True)
        serve(app, predictor, listening)


def main() -> None:
    """Entry point of `python -m tlab.serve`."""
    run_command(run, "serve")


if __name__ == "__main__":
    main()
