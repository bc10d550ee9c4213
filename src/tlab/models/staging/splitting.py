"""Cut the traced glue of a network into stages: one tensor in, one tensor out."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress

import torch
from torch import fx, nn
from torch.nn.modules.module import register_module_forward_hook

from tlab.core.errors import UserError
from tlab.models.stages import blank_image, evaluating
from tlab.models.staging.tracing import (
    CLASSIFIERS,
    POOL_FUNCTIONS,
    features_node,
    has_parameters,
    needed_nodes,
    parameter_count,
    parents,
    trace,
)
from tlab.models.tokens import unpooled

FEWEST_STAGES = 4  # a network with fewer automatic stages has its largest one opened (a ViT: patches and 12 blocks)


def split(
    model: nn.Module,
    stages: Mapping[str, str] | None = None,
    classifier: str | None = None,
    tokens_at: int | None = None,
) -> tuple[dict[str, nn.Module], str]:
    """Cut `model` into stages up to its classifier.

    A stage begins at its first module. Glue before that module belongs to the stage before it, except that pooling
    and flattening between two automatic stages open the later one, so that `upto` keeps the map unpooled.

    Args:
        model: A network that takes an image batch `B C H W` and returns logits.
        stages: Stage name -> path of its first module, in the order of execution; None: the children of the root
            are the stages, the largest is opened while there are fewer than four, layers that only normalize
            belong to the stage before them.
        classifier: Path of the classifier; None: the last layer with parameters.
        tokens_at: Side in pixels of images that the network takes: end with all tokens, where it pools them itself;
            None: end with what it pools.

    Returns:
        Stage name -> module (sharing the parameters of `model` under their original paths), and the path of the
        classifier ("" where there is none).

    Raises:
        NotTraceableError: The glue of the model cannot be represented as a graph.
        UserError: `stages` names a module that does not exist, or is out of order, or cuts two tensors.
    """
    graph, classifier = trace(model, classifier)
    modules = dict(model.named_modules())
    features = features_node(graph, classifier, modules)
    if tokens_at is not None:
        features = unpooled(model, graph, features, tokens_at)
    nodes = needed_nodes(graph, features)
    starts = _given(nodes, stages) if stages else _automatic(nodes, modules)
    parts: dict[str, nn.Module] = {}
    begin, incoming = 0, nodes[0]
    for name, end in zip(starts, [*list(starts.values())[1:], len(nodes)], strict=True):
        outgoing = features if end == len(nodes) else _crossing(nodes, end)[0]
        parts[name] = _stage(model, nodes[begin:end], incoming, outgoing)
        begin, incoming = end, outgoing
    _unshare(parts)
    return parts, classifier


def whole(model: nn.Module, image_size: int, classifier: str | None = None) -> tuple[dict[str, nn.Module], str]:
    """Make one stage `body` of a network whose forward cannot be traced; arguments as for `split`.

    Raises:
        UserError: The network gives no features without its classifier.
    """
    modules = dict(model.named_modules())
    called: list[nn.Module] = []
    image = blank_image(model, image_size)
    try:
        with register_module_forward_hook(lambda module, *_: called.append(module)), evaluating(model):
            model(image)
    except Exception as error:  # whatever the model raises
        raise UserError(f"this network does not run on images of data.image_size={image_size} ({error})") from error
    last = next((module for module in reversed(called) if module is not model and module._parameters), None)
    path = classifier or next((path for path, module in modules.items() if module is last), "")
    layer = modules.get(path)
    if not isinstance(layer, CLASSIFIERS):
        raise UserError(
            "tlab finds no classifier in this network, choose another backbone.name, or give "
            "backbone.classifier=<path of its last layer>"
        )
    model.set_submodule(path, nn.Identity())
    features = None
    with suppress(Exception), evaluating(model):  # it may not do without its classifier
        features = model(image)
    if not isinstance(features, torch.Tensor) or features.flatten(1).shape[1] % layer.weight.shape[1]:
        raise UserError(
            f"this network does not return the features in front of {path}, so tlab cannot put a new head there; "
            "choose another backbone.name or give backbone.classifier"
        )
    return {"body": model}, path


def _crossing(nodes: Sequence[fx.Node], index: int) -> list[fx.Node]:
    """Return the values made before `index` and used from there on (parameters apart)."""
    after = set(nodes[index:])
    return [node for node in nodes[:index] if node.op != "get_attr" and after & set(node.users)]


def _stage(model: nn.Module, nodes: Sequence[fx.Node], incoming: fx.Node, outgoing: fx.Node) -> fx.GraphModule:
    graph = fx.Graph()
    copies = {incoming: graph.placeholder("x")}

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:  # a parameter fetched before the cut and used after it
            copies[node] = graph.node_copy(node, copied)
        return copies[node]

    for node in nodes:
        if node.op not in ("placeholder", "get_attr"):
            copied(node)
    graph.output(copied(outgoing))
    return fx.GraphModule(model, graph, class_name="Stage")


def _unshare(parts: Mapping[str, nn.Module]) -> None:
    """Give each stage its own copy of stateless modules (a ReLU or dropout) that several stages call.

    Otherwise freezing one stage would put the dropout of another into evaluation mode.
    """
    seen: set[nn.Module] = set()
    for part in parts.values():
        own = dict(part.named_modules())
        for path, module in own.items():
            if module in seen and not module.state_dict() and not any(module.children()):
                part.set_submodule(path, copy.deepcopy(module))
        seen |= set(own.values())


def _given(nodes: Sequence[fx.Node], stages: Mapping[str, str]) -> dict[str, int]:
    """Find where each stage of an explicit map begins."""
    starts: dict[str, int] = {}
    called = [str(node.target) for node in nodes if node.op == "call_module"]
    paths = dict.fromkeys(part for path in called for part in (*parents(path), path))
    for name, path in stages.items():
        if "." in name or name == "head" or hasattr(nn.ModuleDict(), name):
            raise UserError(f"backbone.stages: {name!r} cannot name a stage, choose another word without a dot")
        own = (
            number
            for number, node in enumerate(nodes)
            if node.op in ("call_module", "get_attr") and f"{node.target}.".startswith(f"{path}.")
        )
        index = next(own, None)
        if index is None:
            raise UserError(
                f"backbone.stages.{name}={path} is no module that the network calls before its classifier; "
                f"there are {', '.join(paths)}"
            )
        if starts and index <= max(starts.values()):
            raise UserError(
                f"backbone.stages.{name}={path} is called before the stage above it, list stages in order"
            )
        if starts and len(_crossing(nodes, index)) != 1:
            raise UserError(
                f"backbone.stages.{name}={path} cannot begin a stage, because more than one tensor reaches it and "
                f"what follows; choose another of {', '.join(paths)}"
            )
        starts[name] = index
    return starts


def _automatic(nodes: Sequence[fx.Node], modules: dict[str, nn.Module]) -> dict[str, int]:
    """Find the stages by the general rule (see `split`)."""
    layers = {index: str(node.target) for index, node in enumerate(nodes) if has_parameters(node, modules)}
    opened: set[str] = set()
    while True:
        # the shortest leading part of each path that is not opened
        prefixes = {
            index: next((part for part in parents(path) if part not in opened), path)
            for index, path in layers.items()
        }
        heads = _heads(nodes, layers, prefixes, modules)
        closed = [prefix for prefix in heads.values() if prefix not in layers.values()]
        if len(heads) >= FEWEST_STAGES or not closed:
            break
        opened.add(max(closed, key=lambda prefix: _size(prefix, prefixes, layers, modules)))
    # "head" is the name of the new classifier's group
    starts = {"head_layers" if path == "head" else path.replace(".", "_"): index for index, path in heads.items()}
    return starts or {"body": 0}


def _size(prefix: str, prefixes: dict[int, str], layers: dict[int, str], modules: dict[str, nn.Module]) -> int:
    """Return the number of parameters in the layers of a stage; a layer that is called twice counts once."""
    paths = {layers[index] for index, own in prefixes.items() if own == prefix}
    return sum(parameter_count(modules[path]) for path in paths)


def _heads(
    nodes: Sequence[fx.Node], layers: dict[int, str], prefixes: dict[int, str], modules: dict[str, nn.Module]
) -> dict[int, str]:
    """Return where stages begin: node index -> path of the stage, merged where no clean cut is possible."""
    weighty = {
        prefixes[index]
        for index, path in layers.items()
        if any(parameter.ndim > 1 for parameter in modules[path].parameters())
    }
    heads: dict[int, str] = {}
    seen: set[str] = set()
    previous = 0
    for index, prefix in prefixes.items():
        if not seen:
            heads[0] = prefix
        elif prefix in weighty - seen:
            pooled = next((i for i in range(previous + 1, index) if _opens_next(nodes[i], modules)), index)
            if (clean := next((i for i in (pooled, index) if len(_crossing(nodes, i)) == 1), None)) is not None:
                heads[clean] = prefix
        seen.add(prefix)
        previous = index
    return heads


def _opens_next(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Tell whether `node` pools globally or flattens, which belongs to the stage after it."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return isinstance(module, nn.Flatten) or ("Adaptive" in type(module).__name__ and not module.state_dict())
    if node.op == "call_method":
        return node.target in ("flatten", "mean")
    return node.target in POOL_FUNCTIONS and node.target not in (torch.nn.functional.dropout, torch.squeeze)
