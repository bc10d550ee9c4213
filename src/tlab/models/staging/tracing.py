"""Read the order in which a model calls its blocks, without looking inside the blocks.

Only the glue of a model is traced with `torch.fx`: the forward of the root, of plain containers, of a child that
holds most of the network (a ViT's `encoder`) and of whatever wraps the classifier. Every block stays a leaf that
runs its own Python, so what it does differently in training (stochastic depth, dropout, BatchNorm) stays alive.
"""

import math
import operator
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

CONTAINERS = (nn.Sequential, nn.ModuleList)
CLASSIFIERS = (nn.Linear, nn.Conv2d)
# Plain functions and methods that only pool, reshape or drop: what tlab's Head does by itself.
POOL_FUNCTIONS = (F.adaptive_avg_pool2d, F.adaptive_max_pool2d, torch.flatten, torch.squeeze, torch.mean, F.dropout)
POOL_METHODS = ("flatten", "mean", "squeeze", "reshape", "view", "contiguous")
POOL_MODULES = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten, nn.Dropout, nn.Dropout2d, nn.Identity)


class NotTraceableError(Exception):
    """The glue of this model depends on its data or on its mode in a way that a graph cannot represent."""


class _OneInput(nn.Module):
    """Calls `model` with an image batch alone, so that its optional arguments keep their defaults."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class _GlueTracer(fx.Tracer):
    proxy_buffer_attributes = True  # a buffer has its value when a stage runs: weights are loaded after the trace

    def __init__(self, opened: set[nn.Module]) -> None:
        super().__init__()
        self.opened = opened

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m not in self.opened


def parameter_count(module: nn.Module) -> int:
    """Return the number of scalar parameters below `module`."""
    return sum(parameter.numel() for parameter in module.parameters())


def _opened(model: nn.Module, ancestors: set[nn.Module], half: float) -> set[nn.Module]:
    """Return the modules whose own forward is traced; `half` is the size above which a child is opened too."""
    opened = {model}
    for child in model.children():
        from_torch = type(child).__module__.startswith("torch.nn.")
        big = parameter_count(child) > half and any(child.children()) and not from_torch
        if type(child) in CONTAINERS or child in ancestors or big:
            opened |= _opened(child, ancestors, half)
    return opened


def _trace_once(model: nn.Module, opened: set[nn.Module]) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Return the graph, and the tensors that the forward makes without the input, by their names in the graph."""
    wrapper = _OneInput(model)
    try:
        graph = _GlueTracer({wrapper, *opened}).trace(wrapper)
    except Exception as error:  # whatever the model's own code raises when it meets a proxy instead of a tensor
        raise NotTraceableError(str(error)) from error
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix("model.")
    constants = {name: value.detach() for name, value in vars(wrapper).items() if isinstance(value, Tensor)}
    return graph, constants


def _trace_both_modes(model: nn.Module, opened: set[nn.Module]) -> fx.Graph:
    """Trace in training and in evaluation mode; what differs must be dropout, which becomes a module.

    Tensors that the forward makes without the input (rotary position embeddings) become non-persistent buffers.
    """
    mode = model.training
    try:
        traces = [_trace_once(model.train(flag), opened) for flag in (True, False)]
    finally:
        model.train(mode)
    (train, constants), (evaluation, others) = traces
    pairs = zip(constants.values(), others.values(), strict=False)
    same = all(a.shape == b.shape and (a.is_meta or torch.equal(a, b)) for a, b in pairs)
    if constants.keys() != others.keys() or not same:
        raise NotTraceableError("its forward makes other tensors in training than in evaluation")
    for name, value in constants.items():
        model.register_buffer(name, value, persistent=False)
    nodes = zip(train.nodes, evaluation.nodes, strict=False)
    differing = [(node, other) for node, other in nodes if _text(node) != _text(other)]
    dropouts = all(node.target is other.target is F.dropout for node, other in differing)
    if len(train.nodes) != len(evaluation.nodes) or not dropouts:
        raise NotTraceableError("its forward takes another path in training than in evaluation")
    # A graph would keep the mode of its trace in `F.dropout(x, training=self.training)`, a module does not
    for number, (node, _) in enumerate(differing):
        probability = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
        model.add_module(f"glue_dropout{number}", nn.Dropout(probability))
        with train.inserting_before(node):
            module = train.call_module(f"glue_dropout{number}", (node.all_input_nodes[0],))
        node.replace_all_uses_with(module)
        train.erase_node(node)
    return train


def _text(node: fx.Node) -> str:
    return f"{node.op} {node.target} {node.args} {node.kwargs}"


def trace(model: nn.Module, classifier: str | None = None) -> tuple[fx.Graph, str]:
    """Trace the glue of `model` and find its classifier.

    Args:
        model: A network that takes one image batch `B C H W` and returns logits.
        classifier: Path of the last layer; None finds it: the last layer with parameters that the model calls.

    Returns:
        The graph of the whole model, and the path of the classifier in it ("" where the model has none).

    Raises:
        NotTraceableError: The glue depends on the data or on the mode.
    """
    try:
        return _trace_from(model, classifier, half=parameter_count(model) / 2)
    except NotTraceableError:
        return _trace_from(model, classifier, half=math.inf)


def _trace_from(model: nn.Module, classifier: str | None, half: float) -> tuple[fx.Graph, str]:
    modules = dict(model.named_modules())
    ancestors = {modules[path] for path in parents(classifier or "")}
    while True:
        graph = _trace_both_modes(model, _opened(model, ancestors, half))
        if classifier is not None:
            return graph, classifier
        modules = dict(model.named_modules())
        last = next((node for node in reversed(graph.nodes) if has_parameters(node, modules)), None)
        if last is None:
            raise NotTraceableError("none of the layers it calls has parameters")
        module = modules[str(last.target)]
        if not any(module.children()) or len(module._parameters) > 0:
            return graph, str(last.target) if isinstance(module, CLASSIFIERS) else ""
        # The last layer is inside a block: a head module such as timm's ClassifierHead, which has to be opened.
        ancestors |= {module, *(modules[path] for path in parents(str(last.target)))}


def parents(path: str) -> Iterator[str]:
    """Yield `a`, `a.b` for `a.b.c`."""
    parts = path.split(".")
    for length in range(1, len(parts)):
        yield ".".join(parts[:length])


def has_parameters(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Tell whether `node` calls a module that owns parameters."""
    return node.op == "call_module" and any(True for _ in modules[str(node.target)].parameters())


def only_pools(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Tell whether `node` only pools globally, reshapes or drops (what `Head` replaces)."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        # timm has its own pooling modules, all with this word in their names.
        own = "Pool" in type(module).__name__ and "Adaptive" in type(module).__name__
        return (own or isinstance(module, POOL_MODULES)) and not any(module.state_dict())
    if node.op == "call_method":
        return node.target in POOL_METHODS
    return node.op == "call_function" and node.target in POOL_FUNCTIONS


def features_node(graph: fx.Graph, classifier: str, modules: dict[str, nn.Module]) -> fx.Node:
    """Return the node whose value is pooled for the classifier.

    Steps back from the classifier over pooling, flattening and dropout; anything else (a LayerNorm, the choice of
    the class token) is part of the features.
    """
    wanted = ("call_module", classifier) if classifier else ("output", "output")
    last = next((node for node in graph.nodes if (node.op, node.target) == wanted), None)
    if last is None:
        raise NotTraceableError(f"it never calls {classifier}")
    node = last.args[0]
    while isinstance(node, fx.Node) and only_pools(node, modules) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    if not isinstance(node, fx.Node):
        raise NotTraceableError("it returns more than one tensor")
    return node


def needed_nodes(graph: fx.Graph, features: fx.Node) -> list[fx.Node]:
    """Return, in order, the nodes that `features` depends on, and the model's own checks of its input.

    What is made of parameters alone, and by no module, is left out: each stage that uses it computes it.
    """
    wanted = {features}
    for node in reversed(graph.nodes):
        check = node.op == "call_function" and node.target in (torch._assert, operator.setitem)
        if node in wanted or (check and node < features):
            wanted |= {node, *node.all_input_nodes}
    changing: set[fx.Node] = set()
    for node in graph.nodes:
        filled = any(user.target is operator.setitem for user in node.users)
        if node.op in ("placeholder", "call_module") or filled or changing & set(node.all_input_nodes):
            changing.add(node)
    return [node for node in graph.nodes if node in wanted and (node in changing or node.op == "get_attr")]
