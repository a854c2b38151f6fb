"""Heads fitted to labels, as networks: numbers only, no pickle.

A head looks at one pixel: what lies around it is seen by the network before it. Only a
conv head looks around itself (`geoscale.models.conv_head`).
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from geoscale.card import ModelCard
from geoscale.errors import CardError, WeightsError
from geoscale.heads import LEAST, Head
from geoscale.models.backbones import Backbone
from geoscale.models.calibration import make_calibration
from geoscale.models.conv_head import ConvHead
from geoscale.models.graph import take_tensor
from geoscale.models.state import load_strict

BODY, HEAD, CALIBRATION = "body.", "head.", "calibration."


class Bands(nn.Module):
    """The input itself: what a head without a network looks at."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, channel, y, x), unchanged."""
        return x


class Indices(nn.Module):
    """Spectral indices of the input's bands, by their formulas.

    Parameters
    ----------
    names : sequence of str
        What formulas call each channel: ``R``, ``N``; empty where none does.
    formulas : sequence of str
        Sums, products, quotients and powers of these names and of numbers.
    scale : float
        Channels are divided by this first, to reflectance.

    Raises
    ------
    CardError
        If a formula holds anything else.
    """

    def __init__(
        self, names: Sequence[str], formulas: Sequence[str], scale: float = 1.0
    ) -> None:
        super().__init__()
        self.names, self.scale = list(names), scale
        self.formulas = [(f, ast.parse(f, mode="eval").body) for f in formulas]
        for text, tree in self.formulas:
            check_formula(text, tree, self.names)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channel, y, x) → (n, index, y, x); where one has no value it is 0."""
        known = {n: x[:, i] / self.scale for i, n in enumerate(self.names) if n}
        like = x[:, 0]
        made = [_evaluate(tree, known) + torch.zeros_like(like)
                for _, tree in self.formulas]  # fmt: skip
        return torch.nan_to_num(torch.stack(made, 1), 0.0, 0.0, 0.0).clamp(-1e3, 1e3)


_DO: dict[type, Any] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.Pow: operator.pow,
}  # fmt: skip


def check_formula(text: str, tree: ast.AST, names: Sequence[str]) -> None:
    """Refuse a formula that is more than arithmetic of known names.

    Raises
    ------
    CardError
        Naming what is not allowed.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in names:
            raise CardError(
                f"formula `{text}` names `{node.id}`; known are "
                f"{', '.join(n for n in names if n)}"
            )
        allowed = (ast.BinOp, ast.UnaryOp, ast.USub, ast.Name, ast.Load, *_DO)
        number = isinstance(node, ast.Constant) and isinstance(node.value, int | float)
        if not (number or isinstance(node, allowed)):
            raise CardError(
                f"formula `{text}` holds {type(node).__name__}; it may hold names, "
                "numbers and + - * / **"
            )


def _evaluate(tree: ast.AST, known: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, ast.Constant):
        return float(tree.value)  # type: ignore[arg-type]
    if isinstance(tree, ast.Name):
        return known[tree.id]
    if isinstance(tree, ast.UnaryOp):
        return -_evaluate(tree.operand, known)
    assert isinstance(tree, ast.BinOp)
    left, right = _evaluate(tree.left, known), _evaluate(tree.right, known)
    return _DO[type(tree.op)](left, right)


class Features(nn.Module):
    """What a network gives for every pixel of its input.

    Parameters
    ----------
    body : torch.nn.Module
        Gives (n, feature, y, x) or fewer places, which are then interpolated
        bilinearly, by the middles of places and pixels.
    take : str, optional
        Entry of its dict.
    with_bands : bool
        Append the input.
    """

    def __init__(
        self, body: nn.Module, take: str | None = None, with_bands: bool = False
    ) -> None:
        super().__init__()
        self.body, self._take, self._with_bands = body, take, with_bands

    def forward(self, x: Tensor) -> Tensor:
        """(n, channel, y, x) → (n, feature, y, x), float32."""
        made = take_tensor(self.body(x), self._take).float()
        if made.shape[-2:] != x.shape[-2:]:
            made = functional.interpolate(
                made, x.shape[-2:], mode="bilinear", align_corners=False
            )
        return torch.cat((made, x.float()), 1) if self._with_bands else made


class LinearHead(nn.Module):
    """Standardised features times a matrix.

    Parameters
    ----------
    inputs, classes : int
        Features of a pixel; channels of the output.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))
        self.weight = nn.Parameter(torch.zeros(classes, inputs))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        """(n, feature, y, x) → (n, class, y, x), logits."""
        z = (x - self.mean[:, None, None]) / self.std[:, None, None]
        return functional.conv2d(z, self.weight[:, :, None, None], self.bias)


class ForestHead(nn.Module):
    """A random forest: logarithms of the mean probabilities of its trees.

    Parameters
    ----------
    classes, trees, nodes, depth : int
        As in `geoscale.heads.Head`.
    """

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    root: Tensor
    heat: Tensor

    def __init__(self, classes: int, trees: int, nodes: int, depth: int) -> None:
        super().__init__()
        self._depth = depth
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.zeros(nodes, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(nodes))
        self.register_buffer("value", torch.zeros(nodes, classes))
        self.register_buffer("root", torch.zeros(trees, dtype=torch.int64))
        self.register_buffer("heat", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """(n, feature, y, x) → (n, class, y, x), logits."""
        n, features, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(-1, features)
        total = torch.zeros(len(pixels), self.value.shape[1], device=x.device)
        # tree by tree: all at once would take the memory of a hundred patches
        for root in self.root:
            node = root.expand(len(pixels))
            for _ in range(self._depth):
                value = pixels.gather(1, self.feature[node][:, None])[:, 0]
                lower = value <= self.threshold[node]
                node = torch.where(lower, self.left[node], self.right[node])
            total = total + self.value[node]
        logits = torch.log((total / len(self.root)).clamp_min(LEAST)) / self.heat
        return logits.reshape(n, height, width, -1).permute(0, 3, 1, 2)


def make_head(head: Head, classes: int) -> nn.Module:
    """Make a head without its numbers.

    Parameters
    ----------
    head : Head
        What the card says.
    classes : int
        Channels of its output.

    Returns
    -------
    torch.nn.Module
        (n, feature, y, x) → (n, class, y, x), logits.
    """
    if head.kind == "linear":
        return LinearHead(head.inputs, classes)
    if head.kind == "conv":
        return ConvHead(head.inputs, classes, head.hidden)
    return ForestHead(classes, head.trees, head.nodes, head.depth)


class Headed(nn.Module):
    """A network, and behind it a head that was fitted to labels.

    Parameters
    ----------
    body : torch.nn.Module
        The network.
    head : Head
        What the card says of the head.
    classes : int
        Channels of the output.
    take : str, optional
        Entry of the network's dict.
    """

    def __init__(
        self, body: nn.Module, head: Head, classes: int, take: str | None = None
    ) -> None:
        super().__init__()
        self._take = take
        self.features = Features(body, take, head.with_bands)
        self.head = make_head(head, classes)
        spec = head.calibration
        self.calibration = None if spec is None else make_calibration(spec, classes)

    def forward(self, x: Tensor) -> Any:
        """(n, channel, y, x) → (n, class, y, x), logits, as the card takes them."""
        logits = self.head(self.features(x))
        if self.calibration is not None:
            logits = self.calibration(logits)
        return logits if self._take is None else {self._take: logits}


def add_head(
    body: nn.Module, card: ModelCard, state: Mapping[str, Tensor], path: Path
) -> nn.Module:
    """Put a card's head behind its network; both take their weights.

    Parameters
    ----------
    body : torch.nn.Module
        Network without weights.
    card : ModelCard
        Its output has a head.
    state : mapping of str to Tensor
        ``body.…`` and ``head.…``.
    path : Path
        Named in errors.

    Returns
    -------
    torch.nn.Module
        Gives logits.

    Raises
    ------
    WeightsError
        If the weights do not fit.
    """
    assert card.output.head is not None
    left = [k for k in state if not k.startswith((BODY, HEAD, CALIBRATION))]
    if left:
        raise WeightsError(
            f"weights {path}: `{left[0]}` belongs neither to the network (`{BODY}`) "
            f"nor to the head (`{HEAD}`); take the file that `geoscale fit` wrote"
        )
    made = Headed(body, card.output.head, len(card.output.classes), card.output.take)
    inner = _inside(state, BODY)
    if isinstance(body, Backbone):
        body.take(inner, path)
    else:
        load_strict(body, inner, path)
    load_strict(made.head, _inside(state, HEAD), path)
    if made.calibration is not None:
        load_strict(made.calibration, _inside(state, CALIBRATION), path)
    elif _inside(state, CALIBRATION):
        raise WeightsError(
            f"weights {path} hold a calibration that the card does not name; take the "
            "card that `geoscale fit` wrote beside them"
        )
    return made


def _inside(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def give_body(body: nn.Module) -> dict[str, Tensor]:
    """Name the tensors of a network as `add_head` reads them.

    Parameters
    ----------
    body : torch.nn.Module
        From `geoscale.models.build.build_module`.

    Returns
    -------
    dict of str to Tensor
        ``body.…``, contiguous.
    """
    target: Any = body
    if isinstance(body, Backbone):
        # as torchgeo's files name them, which `Backbone.take` reads
        deep = body.name.startswith("panopticon")
        target = body.body.model if deep else body.body
    return {BODY + k: v.detach().contiguous().clone()
            for k, v in target.state_dict().items()}  # fmt: skip
