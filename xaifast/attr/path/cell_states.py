"""The memory cells of an LSTM as the output of a model, so that any explainer can explain one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import ModelError, wrong_type
from ...graph.weights import check_flat


class CellStates(nn.Module):
    """The memory cells c_t of an LSTM layer at all steps: targets of any explainer.

    f(x) = c [N, T, H],   c_t = f_t c_{t-1} + i_t g_t

    `IntegratedGradients` computes any number of them natively, from one forward pass. The module
    shares the weights of the layer. Its input is that of the layer, with the batch first.

    Parameters
    ----------
    lstm : torch.nn.LSTM
        One layer in one direction, without a projection.

    Raises
    ------
    TypeError, ValueError
        If lstm is another module, has more layers or directions, or a pre-hook or a forward of its
        own.

    References
    ----------
    Book, sections 19.2.3 and 19.3.3.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> lstm = torch.nn.LSTM(5, 10, batch_first=True)
    >>> ig = attr.IntegratedGradients(attr.CellStates(lstm))
    >>> x = torch.randn(2, 30, 5)
    >>> ig.attribute(x, target=(-1, 4)).shape  # cell 4 after the last step
    torch.Size([2, 30, 5])
    >>> every_cell = [[(-1, cell) for cell in range(10)]]
    >>> ig.attribute(x, target=every_cell).shape
    torch.Size([10, 2, 30, 5])
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        if not isinstance(lstm, nn.LSTM):
            raise wrong_type(
                "CellStates: lstm", "must be a torch.nn.LSTM", lstm,
                "Pass the layer itself, such as model.lstm.",
            )  # fmt: skip
        if lstm.num_layers != 1 or lstm.bidirectional or lstm.proj_size:
            raise ModelError(
                f"CellStates: lstm must have one layer, one direction and no projection; got {lstm}"
                ". Build a layer with the weights of the part to explain."
            )
        self.lstm = lstm
        self.weights()

    def weights(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """W_ih, W_hh and the sum of the biases."""
        check_flat(self.lstm)
        own = type(self.lstm).forward is not nn.LSTM.forward or "forward" in vars(self.lstm)
        if own or self.lstm._forward_pre_hooks:
            raise ModelError(
                "CellStates: lstm must have no forward pre-hook and no forward but nn.LSTM's, for "
                "the cells are computed from its weights. Take it away, or copy the weights into "
                "an nn.LSTM."
            )

        def read(name: str) -> Tensor:
            return getattr(self.lstm, name)

        bias = read("bias_ih_l0") + read("bias_hh_l0") if self.lstm.bias else None
        return read("weight_ih_l0"), read("weight_hh_l0"), bias

    def forward(self, x: Tensor) -> Tensor:
        """C [N, T, H] for x [N, T, F]."""
        w_ih, w_hh, bias = self.weights()
        h = c = x.new_zeros(x.shape[0], w_hh.shape[1])
        cells = []
        for a in nn.functional.linear(x, w_ih, bias).unbind(1):
            i, f, g, o = (a + h @ w_hh.T).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            cells.append(c)
        return torch.stack(cells, 1)
