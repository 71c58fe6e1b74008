"""LSTM cells made to be explained: recurrent layers to build a network with, and to train.

The book's section 11.4 simplifies the LSTM until relevance has one way back to the inputs: nothing
is forgotten, cell inputs are positive, so that contributions to a cell never cancel, and only the
cell input z sees the network's input (gates see the outputs y of the step before). What a cell
holds is then a sum over time steps, and each step's part of it is its relevance.

    NondecreasingLSTM   input and output gate            Eq. 11.7 - 11.11
    MarkovLSTM          input gate                       Eq. 11.12 - 11.15
    NoGatesLSTM         no gate: redistributes exactly   Eq. 11.16 - 11.18

Letters: x input, z cell input, i input gate, o output gate, c memory cell, y output; W weights of
the input, U recurrent weights, b biases. Cells start at c_0 = y_0 = 0.

Initialisation is the book's advice: biases are negative, or cells that can only grow drift; they
are spread over the units of a layer (b_z from -1 to -5, b_i and b_o from -1 to -4), so that cells
come in at different times. Scale: c grows by about a_g sigma(b_z) sigma(b_i) at each step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .errors import describe, wrong_value

__all__ = ["MarkovLSTM", "NoGatesLSTM", "NondecreasingLSTM"]


class _Cells(nn.Module):
    """The base of the three: z, and the sum of what enters the cells.

    c_t = c_{t-1} + entering(z_t, y_{t-1}),   y_t = leaving(a_h tanh(c_t), y_{t-1})
    """

    def __init__(
        self, input_size: int, hidden_size: int, a_g: float = 2.0, a_h: float = 1.0
    ) -> None:
        super().__init__()
        name = type(self).__name__
        for argument, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise wrong_value(f"{name}: {argument}", "must be an int >= 1", size, "Take 16.")
        for argument, scale in (("a_g", a_g), ("a_h", a_h)):
            if not scale > 0:
                raise wrong_value(
                    f"{name}: {argument}", "must be a number > 0, so that cells do not decrease",
                    describe(scale), "The book takes 2 to 4 for a_g, and 1 to 4 for a_h.",
                )  # fmt: skip
        self.a_g, self.a_h = float(a_g), float(a_h)
        self.cell_input = nn.Linear(input_size, hidden_size)  # W_z, b_z
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise anew: weights as in `torch.nn.Linear`, biases negative."""
        for name, layer in self.named_children():
            layer.reset_parameters()  # type: ignore[operator]
            lowest = -5.0 if name == "cell_input" else -4.0
            with torch.no_grad():
                b: Tensor = layer.bias  # type: ignore[assignment]
                b.copy_(torch.linspace(-1.0, lowest, len(b), dtype=torch.float32, device="cpu"))

    def entering(self, z: Tensor, y: Tensor) -> Tensor:
        """Values that are added to the cells."""
        return z

    def leaving(self, squashed: Tensor, y: Tensor) -> Tensor:
        """Values that the cells show."""
        return squashed

    def forward(self, x: Tensor) -> Tensor:
        """Outputs y [N, T, hidden_size] for x [N, T, input_size]."""
        z = self.a_g * torch.sigmoid(self.cell_input(x))
        c = y = torch.zeros_like(z[:, 0])
        outputs = []
        for z_t in z.unbind(1):
            c = c + self.entering(z_t, y)
            y = self.leaving(self.a_h * torch.tanh(c), y)
            outputs.append(y)
        return torch.stack(outputs, 1)

    def extra_repr(self) -> str:
        """The scales."""
        return f"a_g={self.a_g}, a_h={self.a_h}"


class NoGatesLSTM(_Cells):
    """A recurrent layer without gates: relevance is redistributed exactly over the sequence.

    z_t = a_g sigma(W_z x_t + b_z)
    c_t = z_t + c_{t-1}
    y_t = a_h tanh(c_t)

    The step t of the input holds the share z_t / c_T of what a cell says at the end, which is what
    LRP-epsilon gives.

    Parameters
    ----------
    input_size, hidden_size : int
        F and H.
    a_g : float, default 2
        Scale of the cell input; the book takes 2, 3 or 4.
    a_h : float, default 1
        Scale of the output; the book takes 1, 2 or 4.

    Raises
    ------
    ValueError
        If an argument is not positive.

    References
    ----------
    Book, section 11.4.3 (Eq. 11.16 - 11.18).

    Examples
    --------
    >>> import torch
    >>> from xaifast import cells
    >>> layer, x = cells.NoGatesLSTM(3, 8), torch.randn(2, 10, 3)
    >>> layer(x).shape
    torch.Size([2, 10, 8])
    """


class MarkovLSTM(_Cells):
    """A recurrent layer whose outputs tell the whole state: the Markov property is kept.

    z_t = a_g sigma(W_z x_t + b_z)
    i_t = sigma(U_i y_{t-1} + b_i)
    c_t = i_t z_t + c_{t-1}
    y_t = a_h tanh(c_t)

    Without forget and output gates no memory is erased or hidden for a later time.

    Parameters
    ----------
    input_size, hidden_size : int
        F and H.
    a_g : float, default 2
        Scale of the cell input; the book takes 2, 3 or 4.
    a_h : float, default 1
        Scale of the output; the book takes 1, 2 or 4.

    Raises
    ------
    ValueError
        If an argument is not positive.

    References
    ----------
    Book, section 11.4.2 (Eq. 11.12 - 11.15).

    Examples
    --------
    >>> import torch
    >>> from xaifast import cells
    >>> layer, x = cells.MarkovLSTM(3, 8), torch.randn(2, 10, 3)
    >>> layer(x).shape
    torch.Size([2, 10, 8])
    """

    def __init__(
        self, input_size: int, hidden_size: int, a_g: float = 2.0, a_h: float = 1.0
    ) -> None:
        super().__init__(input_size, hidden_size, a_g, a_h)
        self.input_gate = nn.Linear(hidden_size, hidden_size)  # U_i, b_i
        self.reset_parameters()

    def entering(self, z: Tensor, y: Tensor) -> Tensor:
        """i_t z_t."""
        return torch.sigmoid(self.input_gate(y)) * z


class NondecreasingLSTM(MarkovLSTM):
    """A recurrent layer whose memory cells never decrease.

    z_t = a_g sigma(W_z x_t + b_z)
    i_t = sigma(U_i y_{t-1} + b_i)
    c_t = i_t z_t + c_{t-1}
    o_t = sigma(U_o y_{t-1} + b_o)
    y_t = o_t a_h tanh(c_t)

    All contributions to a cell are positive, so none cancel.

    Parameters
    ----------
    input_size, hidden_size : int
        F and H.
    a_g : float, default 2
        Scale of the cell input; the book takes 2, 3 or 4.
    a_h : float, default 1
        Scale of the output; the book takes 1, 2 or 4.

    Raises
    ------
    ValueError
        If an argument is not positive.

    References
    ----------
    Book, section 11.4.1 (Eq. 11.7 - 11.11, assumptions A1 to A9).

    Examples
    --------
    >>> import torch
    >>> from xaifast import cells
    >>> layer, x = cells.NondecreasingLSTM(3, 8), torch.randn(2, 10, 3)
    >>> layer(x).shape
    torch.Size([2, 10, 8])
    """

    def __init__(
        self, input_size: int, hidden_size: int, a_g: float = 2.0, a_h: float = 1.0
    ) -> None:
        super().__init__(input_size, hidden_size, a_g, a_h)
        self.output_gate = nn.Linear(hidden_size, hidden_size)  # U_o, b_o
        self.reset_parameters()

    def leaving(self, squashed: Tensor, y: Tensor) -> Tensor:
        """o_t a_h tanh(c_t)."""
        return torch.sigmoid(self.output_gate(y)) * squashed
