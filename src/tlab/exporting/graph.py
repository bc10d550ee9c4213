"""A trained run as one graph, from raw images to probabilities, and that graph as the bytes of a file."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from tlab.config.overrides import shell_argument
from tlab.core.error_messages import one_line
from tlab.core.errors import UserError
from tlab.data.augment.evaluation import evaluation_transform
from tlab.exporting.preprocessing import Preprocessing
from tlab.runs.load import Trained

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MOST_BYTES = 2**31 - 2**24  # of weights in one ONNX file, whose format (protobuf) ends at 2 GB
ABOUT = "tlab.json"  # what an exported program says of itself
Run = Callable[[np.ndarray], np.ndarray]  # images uint8 `N 3 H W` -> probabilities `N K`, float32


class Exported(NamedTuple):
    """A model as others get it.

    Attributes:
        content: Content of its file.
        run: Function that runs this content.
    """

    content: bytes
    run: Run


class PhotographClassifier(nn.Module):
    """Preprocessing, network, temperature and softmax.

    Args:
        trained: The run, on the CPU.
        temperature: What logits are divided by.

    Shapes: uint8 `N 3 H W` -> float32 `N K`.
    """

    def __init__(self, trained: Trained, temperature: float) -> None:
        super().__init__()
        square = evaluation_transform(trained.image_size, trained.resize, trained.crop_fraction)
        self.preprocessing = Preprocessing(square)
        self.net = trained.module.net.to(memory_format=torch.contiguous_format)  # as files hold them
        self.temperature = temperature
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Return the probability of each class."""
        logits = self.net(self.preprocessing(image)).float()
        return (logits / self.temperature).softmax(dim=1)


def check_packages() -> None:
    """Raise a `UserError` where the extra `onnx` is not installed."""
    if missing := next((name for name in PACKAGES if find_spec(name) is None), None):
        raise UserError(
            f"format=onnx needs the package {missing}, which is not installed: give "
            "pip install 'tlab-transfer[onnx]', or format=torch_export, which needs none"
        )


def export_graph(trained: Trained, temperature: float, format: str, about: Mapping[str, Any]) -> Exported:
    """Return a run as an ONNX model, or as a program of `torch.export`, and a function that runs just that.

    Args:
        trained: The run, on the CPU.
        temperature: What logits are divided by.
        format: `onnx` or `torch_export`.
        about: What the file says of itself: name -> plain data.

    Raises:
        UserError: The network cannot be exported.
    """
    model = PhotographClassifier(trained, temperature)
    weights = sum(each.numel() * each.element_size() for each in model.state_dict().values())
    if format == "onnx" and weights > MOST_BYTES:
        raise UserError(
            f"format=onnx: the weights take {weights / 1e9:.1f} GB, and one ONNX file holds 2; "
            "give format=torch_export with an output=FILE.pt2"
        )
    run = shell_argument("run", trained.checkpoint)
    example = torch.zeros(2, 3, 57, 91, dtype=torch.uint8)
    shapes = {"image": {0: Dim("batch"), 2: Dim("height"), 3: Dim("width")}}
    with _blamed(run, f"use it as it is, with python -m tlab.predict {run} input=PHOTOS"):
        program = torch.export.export(model, (example,), dynamic_shapes=shapes)
    for module in (each for each in program.graph_module.modules() if isinstance(each, torch.fx.GraphModule)):
        for node in module.graph.nodes:
            node.meta.pop("stack_trace", None)  # names folders of this machine
    if format == "torch_export":
        file = io.BytesIO()
        with _blamed(run, "give format=onnx with an output=FILE.onnx"):
            torch.export.save(program, file, extra_files={ABOUT: json.dumps(about)})
        return Exported(file.getvalue(), _torch_runner(file))
    with _blamed(run, "give format=torch_export with an output=FILE.pt2"):
        content = _onnx_content(program, about)
    return Exported(content, _onnx_runner(content))


@contextmanager
def _blamed(run: str, way_out: str) -> Iterator[None]:
    """Export quietly, without gradients; turn any error into one sentence."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # whatever a backbone's code does that a graph cannot hold
        raise UserError(f"{run} cannot be exported ({one_line(error)}); {way_out}") from error
    finally:
        logger.setLevel(level)


def _torch_runner(file: io.BytesIO) -> Run:
    file.seek(0)
    module = torch.export.load(file).module()

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    return run


def _onnx_content(program: ExportedProgram, about: Mapping[str, Any]) -> bytes:
    exported = torch.onnx.export(
        program,
        dynamo=True,
        input_names=["image"],
        output_names=["probabilities"],
        external_data=False,
        verbose=False,
    )
    assert exported is not None
    model = exported.model_proto
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]  # how torch came to it
    del model.metadata_props[:]
    for name, value in about.items():
        model.metadata_props.add(key=name, value=value if isinstance(value, str) else json.dumps(value))
    return model.SerializeToString()


def _onnx_runner(content: bytes) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(x: np.ndarray) -> np.ndarray:
        return session.run(["probabilities"], {"image": x})[0]

    return run
