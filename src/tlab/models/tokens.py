"""Find a transformer's tokens as they are before the network pools them itself."""

import operator

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tlab.models.stages import blank_image, evaluating
from tlab.models.staging.tracing import needed_nodes


def unpooled(model: nn.Module, graph: fx.Graph, features: fx.Node, image_size: int) -> fx.Node:
    """Return the node of all tokens `B N C` from which the network makes its features.

    Whatever picks or pools them (the choice of the class token, a mean without it, attention) is left out. A norm
    that acts after it is put in front of it, in `graph`: it sees one token at a time anyway.

    Args:
        model: The network.
        graph: Graph of its glue.
        features: Node that is pooled for the classifier, see `tracing.features_node`.
        image_size: Side in pixels of the blank image that is run to see shapes.

    Returns:
        The node; `features` where these are maps, or computed from tokens by more than pooling and norms.
    """
    shapes = _shapes(model, graph, image_size)
    if len(shapes.get(features, ())) not in (2, 3):
        return features
    modules = dict(model.named_modules())
    order = {node: number for number, node in enumerate(needed_nodes(graph, features)) if node.op != "get_attr"}
    norms: list[str] = []
    reached = {features}
    while reached:
        node = max(reached, key=order.__getitem__)
        is_tokens = len(reached) == 1 and len(shapes[node]) == 3 and shapes[node][1] > 1
        pools = len(shapes[node]) == 2 and [len(shapes[each]) for each in node.all_input_nodes] == [3]
        module = modules[str(node.target)] if node.op == "call_module" else None
        if module is not None and _is_norm(module) and len(reached) == 1:
            norms.insert(0, str(node.target))
        elif is_tokens and node.target is not operator.getitem:
            last = features
            for path in norms:
                with graph.inserting_after(last):
                    node = last = graph.call_module(path, (node,))
            return node
        elif module is not None and any(True for _ in module.parameters()) and not pools:
            return features
        reached = (reached - {node}) | (order.keys() & node.all_input_nodes)
    return features


def _shapes(model: nn.Module, graph: fx.Graph, image_size: int) -> dict[fx.Node, tuple[int, ...]]:
    """Return the shape of each node's tensor; () for other values."""
    run = fx.Interpreter(model, garbage_collect_values=False, graph=graph)
    try:
        with evaluating(model):
            run.run(blank_image(model, image_size))
    except Exception:  # an image of another size than a layer wants: `StagedBackbone` raises the error
        return {}
    return {node: tuple(value.shape) if isinstance(value, Tensor) else () for node, value in run.env.items()}


def _is_norm(module: nn.Module) -> bool:
    """Tell whether `module` normalizes each token by itself."""
    small = all(parameter.ndim <= 1 for parameter in module.parameters())
    return "Norm" in type(module).__name__ and small and not isinstance(module, _BatchNorm)
