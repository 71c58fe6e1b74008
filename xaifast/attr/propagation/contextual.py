"""Contextual decomposition: what the steps of a phrase say by themselves, and all else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...engine.arguments import OfModule, as_tuple, check_inputs, plain_mode
from ...engine.batching import Need, batches, check_batch_size, rows_that_fit, run_in_batches
from ...engine.builder import warn_training
from ...engine.target import Selection, select
from ...errors import wrong_type, wrong_value
from ...graph.capture.modules import check_model
from ...graph.proof.verify import to_compute
from ..listing import Listing
from .contextual_lstm import WHO, Network

HOW = "Phrases are bools [P, T], or [N, P, T] for each sample its own: True at the steps of each."


def check_phrases(phrases: Any, x: Tensor) -> Tensor:
    """Return the phrases as [N or 1, P, T]; by default each step is one."""
    N, T = x.shape[:2]
    if phrases is None:
        return torch.eye(T, dtype=torch.bool, device=x.device).unsqueeze(0)
    if not isinstance(phrases, Tensor) or phrases.dtype != torch.bool:
        raise wrong_type(f"{WHO}: phrases", "must be a tensor of bools", phrases, HOW)
    given = phrases.unsqueeze(0) if phrases.dim() == 2 else phrases
    if given.dim() != 3 or given.shape[2] != T or (phrases.dim() == 3 and len(given) != N):
        raise wrong_value(
            f"{WHO}: phrases", f"must have the shape [P, {T}] or [{N}, P, {T}] for inputs of "
            f"{N} samples and {T} steps", phrases, HOW,
        )  # fmt: skip
    return given.to(x.device)


class ContextualDecomposition(OfModule):
    """Contextual decomposition (CD) of an LSTM: what a phrase says by itself.

    S(x) = beta + gamma,   R = beta

    All values of the network are taken apart into beta, of the steps of the phrase alone, and
    gamma, of the others, of the biases and of what they all do together:

    sigma(beta + gamma + b) = L(beta) + L(gamma) + L(b): the mean of what each adds, over the orders
    that begin with the bias.

    x_t and the beta of h_{t-1} are one term inside the phrase, x_t and the gamma outside. i_t g_t
    and f_t c_{t-1} are sums of products of such terms: beta takes a product if a factor is of beta
    and none of gamma. h_t = o_t (L(beta_c) + L(gamma_c)), with o_t whole. The affine head is
    applied to both, its bias is gamma's. Layers hand on beta and gamma; a bidirectional one takes
    the sequence apart both ways.

    All this is the authors' code, but for the product of two biases: gamma's here, there beta's at
    all steps of a phrase but its last. For single steps, the book's use, both are the same.

    Parameters
    ----------
    model : torch.nn.Module
        Of one input [N, T, ...]: one `nn.LSTM` (of any number of layers and directions, without
        projection) behind an embedding, a dense layer or another function of single steps, and an
        affine head. GRUs are refused: the method is not defined for them.

    Raises
    ------
    TypeError
        If model is not a module in Python.

    References
    ----------
    Murdoch, Liu and Yu 2018, Beyond word importance; book, section 11.5.1 and table 11.2.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> class Sentiment(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embedding = torch.nn.Embedding(50, 8)
    ...         self.lstm = torch.nn.LSTM(8, 16, batch_first=True)
    ...         self.head = torch.nn.Linear(16, 5)
    ...
    ...     def forward(self, tokens):
    ...         return self.head(self.lstm(self.embedding(tokens))[0][:, -1])
    >>> cd = attr.ContextualDecomposition(Sentiment())
    >>> tokens = torch.randint(50, (2, 7))
    >>> cd.attribute(tokens, target=4).shape  # of each word
    torch.Size([2, 7])
    >>> not_good = torch.zeros(1, 7, dtype=torch.bool)
    >>> not_good[0, 2:4] = True
    >>> cd.attribute(tokens, 4, not_good).shape  # of words 2 and 3 together
    torch.Size([2, 1])
    """

    listing = Listing("propagation", "module", "2 * phrases + 2", "11.5.1")

    def __init__(self, model: nn.Module) -> None:
        check_model(WHO, model)
        self._given_model = model

    def attribute(
        self,
        inputs: Tensor,
        target: Any = None,
        phrases: Tensor | None = None,
        return_convergence_delta: bool = False,
        *,
        internal_batch_size: int | str = "auto",
    ) -> Any:
        """Explain an output by what each phrase says by itself.

        Parameters
        ----------
        inputs : Tensor [N, T, ...], floating or token numbers
        target : as in `LRP.attribute`.
        phrases : Tensor of bools [P, T] or [N, P, T], optional
            True at the steps of each phrase, which need not be next to each other; for all samples
            or for each its own. None: every step is a phrase.
        return_convergence_delta : bool, default False
            Also return beta + gamma - S(x): rounding.
        internal_batch_size : int or "auto" (default)
            Rows (phrases x samples) at once; "auto" fits the memory that is free.

        Returns
        -------
        beta : Tensor [N, P], or [N, T] without phrases
            [targets, N, P] for several targets per input; gamma is S(x) - beta.
        delta : Tensor like beta
            Only with return_convergence_delta.

        Raises
        ------
        ModelError
            If the model is not an LSTM with an affine head.
        ValueError, TypeError
            If an argument does not fit.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> class Last(torch.nn.LSTM):
        ...     def forward(self, x):
        ...         return super().forward(x)[0][:, -1]
        >>> model, x = Last(3, 2, batch_first=True), torch.randn(4, 6, 3)
        >>> halves = torch.arange(6) // 3 == torch.arange(2)[:, None]
        >>> beta, delta = attr.ContextualDecomposition(model).attribute(
        ...     x, target=1, phrases=halves, return_convergence_delta=True)
        >>> beta.shape, bool(delta.abs().max() < 1e-6)
        (torch.Size([4, 2]), True)
        """
        check_batch_size(internal_batch_size)
        given = as_tuple(inputs)
        batch = check_inputs(given)
        if len(given) != 1 or given[0].dim() < 2:
            raise wrong_value(
                f"{WHO}: inputs", "must be one tensor [N, T, ...]", inputs,
                "Pass sequences of tokens or of vectors, the batch first.",
            )  # fmt: skip
        with plain_mode(), torch.no_grad():
            (x,) = to_compute(given)
            P = check_phrases(phrases, x)
            warn_training(self.model)
            network = Network.of(self.model, given[0])
            selection = select(target, tuple(network.graph.output.shape), batch)
            found = _in_batches(network, x, P, selection, internal_batch_size)
        dtype = given[0].dtype if given[0].is_floating_point() else found.dtype
        beta, delta = (v if selection.several else v[0] for v in found.to(dtype))
        return (beta, delta) if return_convergence_delta else beta


def _in_batches(
    network: Network, x: Tensor, phrases: Tensor, selection: Selection, size: int | str
) -> Tensor:
    """Beta and the gap, [2, targets, N, P]: some samples at once, and some phrases of each."""
    N, P, layers = len(x), phrases.shape[1], network.layers()
    rows = _rows(network, x) if size == "auto" else int(size)
    at_once = max(1, min(P, rows))
    parts: list[Tensor] = []

    def work(samples: slice) -> None:
        chosen = selection.rows(samples)
        reads, states, scores, slope = network.run(x[samples], chosen)
        bias = scores - (slope * states).sum(-1)  # what the head adds to both
        own = phrases if len(phrases) == 1 else phrases[samples]
        own = own.expand(len(reads), -1, -1)
        found = []
        for part in batches(P, at_once):
            beta, gamma = network.decomposed(reads, own[:, part], slope)
            gap = beta + gamma + (bias - scores).unsqueeze(-1)
            found.append(torch.stack([beta, gap]))
        parts.append(torch.cat(found, -1))

    if P:
        run_in_batches(N, max(1, rows // at_once), work, size == "auto")
    if not parts:
        dtype = layers[0][0].w_h.dtype
        return torch.zeros(2, selection.targets, N, P, dtype=dtype, device=x.device)
    return torch.cat(parts, 2)


def _rows(network: Network, x: Tensor) -> int:
    """Rows at once: of each, outputs of all steps are kept in two parts, in about three copies."""
    directions = network.layers()[0]
    w = directions[0].w_h
    outputs = 2 * x.shape[1] * len(directions) * w.shape[1] * w.element_size()
    gates = 2 * len(w) * w.element_size()
    return rows_that_fit(Need(3 * outputs + 8 * gates, gates), x.device)
