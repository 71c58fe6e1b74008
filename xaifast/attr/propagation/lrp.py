"""Layer-wise relevance propagation: the graph engine and a composite, as an explainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ...composites import Composite, Uniform, captum
from ...engine.arguments import Call, OfModule, make_call, plain_mode
from ...engine.batching import check_batch_size
from ...engine.builder import Builder, check_verify, warn_training
from ...engine.precision import check_precision
from ...engine.recorded import Captured, Recording, recording
from ...engine.report import Report, describe_plan
from ...engine.start import check_start, start_of
from ...engine.traversal import Traversal, find_layers
from ...errors import describe, wrong_type, wrong_value
from ...graph.capture.modules import check_model
from ...graph.proof.cuts import check_tables
from ...graph.proof.verify import expected_output
from ...graph.rule import Balance, Rule
from ...rules import Epsilon
from ..listing import Listing

# ---- the explainer ---------------------------------------------------------------------------


class LRP(OfModule):
    """Layer-wise relevance propagation.

    Each node of the model's graph hands the relevance R_k of its output to its inputs,

        R_j = sum_k z_jk / (sum_j z_jk) R_k,

    by the rule that the composite gives it. The model is captured at the first call (for each
    shape of inputs) and never changed; later calls see its current parameters.

    Parameters
    ----------
    model : torch.nn.Module
        Any model that `torch.export` can capture: functional calls, in-place calls, residual adds
        and reused modules are ordinary nodes. It must return one tensor [N, ...].
    composite : Composite, optional
        Which rule goes where; default `Uniform(Epsilon(1e-6))`. Rules of captum's on modules
        (`module.rule = GammaRule()`) are followed as captum follows them; a composite is then an
        error.
    precision : "float32" (default), "tf32" or "bfloat16"
        Of products. "float32": both passes in full float32, whatever PyTorch is set to (it lets
        cuDNN's convolutions use tf32). "tf32": on CUDA, both passes may use it; on the CPU the same
        as "float32". "bfloat16": in the relevance pass, products w^T s round w, s and the result to
        bfloat16 and sum in float32; the forward pass, denominators z, divisions, recurrent layers
        and everything elementwise stay in float32. Not for float64, which stays float64.
    verify : "auto" (default), "always" or "never"
        How a call makes sure that what was captured is still the model. "auto": the model's code
        runs on stand-ins, without its arithmetic, and must do what it did at the capture, and the
        values of weights from which something was derived are hashed; else it is captured anew.
        "always": also runs the model itself on each call's inputs, compares its output with the
        graph's, and takes the convergence delta from it. "never": only parameters that PyTorch
        knows to have changed are noticed; for a model that nothing else changes.

    Raises
    ------
    TypeError
        If model is not a module in Python, composite is not a Composite, or the rule of a module is
        none of captum's four.
    ValueError
        If precision is not one of the three; at the first call, if it does not suit float64; if
        there is a composite beside rules of captum's.

    Notes
    -----
    What float32 rounds, as |R - R64| / |R64| of an image. The rules themselves round by 2e-7 to
    1e-6 by z+, alpha-beta and gamma, and by 2e-5 by epsilon (1e-6), which divides by z where that
    is near 0: there the stabilizer decides, and a larger one makes a steadier map. The forward pass
    decides more: a unit within its rounding of 0 may fall on the other side of its ReLU (or another
    input win a max pooling) and takes its whole relevance along. ResNet-50 with random weights (96
    pixels, about 4 such units in an image) moves by 3e-5 by z+ (1e-5 to 2e-4 in 15 images) and by
    1e-2 by epsilon (6e-3 to 7e-2). zennit's maps in float32 are as far from float64, and so from
    ours; in float64 both agree to 1e-10. Large convolutions (40 million products for a sample) run
    on packed weights. Winograd's algorithm (3x3) rounds in proportion to the largest products that
    an output could have: the bound is on the norm of a layer's output, not on each element, and one
    far below its neighbours may have no digit right. Other layers sum up to 1152 products one after
    the other. Both round 1.2 to 2.6 times as coarsely, layer by layer, as PyTorch's. Where such
    differences matter, explain in float64. Figures: benchmarks/results/precision.md. Relevance that
    overflows is an error that names the node.

    Against float64, on a trained CNN and a random VGG, "bfloat16" moves a map by 0.1 to 1 % of its
    maximum (median over images; 3 % for the worst image, by alpha-beta), with a cosine above
    0.9995; Flat moves by nothing. Each rule: benchmarks/results/precision.md.

    The forward pass is in low precision only where the model's own code says so: casts and autocast
    inside its `forward` run as written, and so does the way back through them (refused: a batch
    norm behind such a layer). A model in float16 or bfloat16 is computed in float32 from its
    weights as they are; autocast around the call is left out of account.

    What is explained is the forward function: relevance passes `detach`, `no_grad` blocks and
    checkpoints as if they were not there; the backward of an autograd Function is not used (its
    forward is), nor are hooks on tensors and backward hooks of modules. Forward hooks that change
    values are part of the function.

    PyTorch's settings belong to the process, not to a thread. They are held during a call and then
    put back, also after an error; calls in another precision wait, other work in other threads
    meanwhile runs at this call's settings.

    References
    ----------
    Bach et al. 2015; book, chapter 10.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr, composites
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> x = torch.rand(2, 4)
    >>> lrp = attr.LRP(model, composite=composites.EpsilonPlus())
    >>> relevance, delta = lrp.attribute(x, target=[0, 2], return_convergence_delta=True)
    >>> relevance.shape, delta.shape
    (torch.Size([2, 4]), torch.Size([2]))
    """

    listing = Listing("propagation", "module", "2 to 5", "10")

    def __init__(
        self,
        model: nn.Module,
        composite: Composite | None = None,
        *,
        precision: str = "float32",
        verify: str = "auto",
    ) -> None:
        check_model("LRP", model)
        self._given_model = model
        if composite is not None and not isinstance(composite, Composite):
            raise wrong_type(
                "LRP: composite", "must be a Composite", composite,
                "Call a preset (composites.EpsilonPlusFlat()), or wrap a rule: "
                "composites.Uniform(rules.Epsilon(1e-6)).",
            )  # fmt: skip
        self._given = composite is not None
        self._rules: tuple[tuple[str, Rule | None], ...] = ()  # of captum's, on the modules
        self.composite = composite if composite is not None else Uniform(Epsilon(1e-6))
        self.precision = check_precision("LRP", precision)
        self.verify = check_verify("LRP", verify)
        self._builder = Builder(model, self.composite, self.precision, self.verify)
        self._warned = False
        self._current()

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        verbose: bool = False,
        *,
        start: str | Tensor = "output",
        layers: Sequence[str] | None = None,
        internal_batch_size: int | str = "auto",
    ) -> Any:
        """Explain an output of the model in terms of its inputs.

        Parameters
        ----------
        inputs : Tensor [N, ...] or tuple of them
            What the model is called with and what gets relevance. Token numbers (integers) may
            enter embeddings (bags, too), tables that are indexed, one-hot, or arithmetic; sliced,
            moved, offset, renamed or joined before. See Returns for the shape of their relevance.
        target : optional
            The output to explain: an int; one int per sample (list or 1-D tensor); a tuple of ints
            for an output with more dimensions, with slices for the sum over a region; a list of
            such tuples; a boolean mask of the output for the sum over it; several targets per input
            as [N, targets] (list of lists or 2-D tensor) or "all". None if there is one output.
        additional_forward_args : optional
            Further positional arguments of the model (a tuple, or one); they get no relevance.
        return_convergence_delta : bool, default False
            Also return, per target and sample, the relevance at the start minus its sum at the
            inputs: what biases and stabilizers absorbed.
        verbose : bool, default False
            Print the plan (which rule goes where) before the work.
        start : "output" (default), "one", "log_odds" or Tensor
            Relevance to start with: the output's value (so relevance sums to it); 1; the log-odds
            of the class by its min-take-most rule (section 10.3.1); or a tensor like the output
            (with a leading axis for several targets), then without target.
        layers : sequence of str, optional
            Module paths; the relevance at their outputs is returned as well.
        internal_batch_size : int or "auto" (default)
            Samples that are processed at once; "auto" fits the memory that is free.

        Returns
        -------
        relevance : Tensor or tuple of Tensor
            Like the inputs; [targets, N, ...] for several targets per input. Of token numbers: if
            one embedding (table, one-hot) reads each of them where it stands, what arrives at its
            output, [N, length, features]; otherwise (a table for each column, several embeddings
            or calls, slices) one number for each token, in the shape of the input: the sum over
            all that is read of it. Either way the sum is conserved; what tokens get that the model
            adds by itself (a class token) is no input's.
        delta : Tensor [N] or [targets, N]
            Only with return_convergence_delta.
        at_layers : dict of str to Tensor
            Only with layers; a list of tensors for a module that is called more than once.

        Raises
        ------
        ModelError
            If some operation has no exact rule; all of them are listed. If the output depends on an
            input only by operations that cut its path (comparisons, casts to integers, numbers
            read in Python); they are named.
        ValueError, TypeError
            If an argument does not fit; before any work. If token numbers are mixed, several into
            one, before they are looked up; names the operation.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> lrp = attr.LRP(torch.nn.Linear(2, 3))
        >>> lrp.attribute(torch.ones(1, 2), target=[[0, 1, 2]]).shape
        torch.Size([3, 1, 2])
        """
        check_batch_size(internal_batch_size)
        if verbose:
            print(self.plan(inputs, additional_forward_args))
        with plain_mode():
            run = self._prepare(inputs, target, additional_forward_args, start, layers)
            relevance, delta, at_layers = run.all_batches(internal_batch_size)
            if return_convergence_delta and self.verify == "always" and start == "output":
                delta = self._from_model(run, relevance)
        result = [run.call.result(relevance)]
        if return_convergence_delta:
            result.append(delta)
        if layers is not None:
            result.append(at_layers)
        return result[0] if len(result) == 1 else tuple(result)

    def report(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        start: str | Tensor = "output",
    ) -> Report:
        """Account for the relevance of `attribute`, node by node: passed on, or absorbed by what.

        Parameters
        ----------
        inputs, target, additional_forward_args, start : as in `attribute`.

        Returns
        -------
        Report
            Sums over batch and targets; prints as a table.

        Raises
        ------
        ModelError, ValueError, TypeError
            As `attribute`.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> report = attr.LRP(torch.nn.Linear(2, 1)).report(torch.ones(1, 2), target=0)
        >>> abs(report.rows[0].gap) < 1e-5
        True
        """
        balances: list[Balance] = []
        with plain_mode():
            run = self._prepare(inputs, target, additional_forward_args, start, None)
            if not run.batch:
                raise wrong_value(
                    "inputs", "must hold at least one sample for a report", "an empty batch",
                    "An empty batch has no relevance to account for.",
                )  # fmt: skip
            run.one_batch(slice(0, run.batch), balances)
        return Report(balances)

    def plan(self, inputs: Tensor | tuple[Tensor, ...], additional_forward_args: Any = None) -> str:
        """Describe, one line per node, what runs: module, operation, rule, facts and kernel.

        Parameters
        ----------
        inputs, additional_forward_args : as in `attribute`.

        Returns
        -------
        str

        Raises
        ------
        ModelError
            If some operation has no exact rule.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> print(attr.LRP(torch.nn.Linear(2, 1)).plan(torch.ones(1, 2)))  # doctest: +ELLIPSIS
        LRP of Linear by Uniform(...
        """
        call = self._call(inputs, None, additional_forward_args)
        with plain_mode():
            built = self._current().build(call.arguments, len(call.inputs))
        return describe_plan(
            self.model, self.composite, built.propagation, call.inputs[0], self.precision
        )

    def core(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        start: str | Tensor = "output",
    ) -> nn.Module:
        """Record what `attribute` computes as a module, for torch.compile or torch.export.

        The module has no Python between its operations, reads the model's parameters where they
        are (training goes on, and the next call sees it), and checks shapes and dtypes, not values:
        NaN gives NaN, and so does a target out of range; relevance that overflows comes back
        infinite or NaN, and `attribute` names the node that made it so. Products in bfloat16 are
        recorded as such; those in float32 follow PyTorch's settings at the time it runs, as in any
        other module.

        Parameters
        ----------
        inputs, target, additional_forward_args, start : as in `attribute`
            Examples; any batch size goes, if the model and the rules allow it.

        Returns
        -------
        torch.nn.Module
            Takes the tensors among inputs and additional_forward_args, then the target as a tensor
            of ints, [N] or [N, targets] (places in the flattened output of a sample), or a boolean
            mask of the output, or the start if that is a tensor. Returns relevance like
            `attribute`.

        Raises
        ------
        ModelError
            If the model or a rule asks for the value of a tensor.
        ValueError, TypeError
            As `attribute`; also for start="log_odds".

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> x, target = torch.ones(2, 3), torch.tensor([0, 1])
        >>> core = attr.LRP(torch.nn.Linear(3, 2)).core(x, target)
        >>> program = torch.export.export(core, (x, target))
        >>> program.module()(x, target).shape
        torch.Size([2, 3])
        """
        return self._recording(inputs, target, additional_forward_args, start).graph(any_batch=True)

    def capture(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        start: str | Tensor = "output",
    ) -> Captured:
        """Prepare `attribute` for many calls of the same shapes; a CUDA graph on CUDA.

        Parameters
        ----------
        inputs, target, additional_forward_args, start : as in `attribute`
            Examples.

        Returns
        -------
        Captured
            A function of inputs, target and additional_forward_args (and start, if that is a
            tensor) that returns what `attribute` does. Weights that rules derive (W+, folded batch
            norms) are kept, and derived again when a parameter has changed. What it saves on the
            CPU is the work between the operations: much of a small model's time, little of a
            large one's.

        Raises
        ------
        ModelError, ValueError, TypeError
            As `core`.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> x = torch.ones(2, 3)
        >>> explain = attr.LRP(torch.nn.Linear(3, 2)).capture(x, target=0)
        >>> explain(2 * x, target=[1, 0]).shape
        torch.Size([2, 3])
        """
        return Captured(self._recording(inputs, target, additional_forward_args, start))

    def has_convergence_delta(self) -> bool:
        """Whether `attribute` can return a convergence delta: yes (captum's interface)."""
        return True

    # -- inside --

    def _from_model(self, run: Traversal, relevance: tuple) -> Tensor:
        """The convergence delta by the model's own output."""
        several = run.start.selection.several
        parts = [R if several else R.unsqueeze(0) for R in relevance]
        arrived = sum(R.reshape(*R.shape[:2], -1).sum(2) for R in parts)
        own = run.start.selection.values(expected_output(self.model, run.args)).to(arrived)
        return own - arrived if several else (own - arrived)[0]

    def _recording(self, inputs, target, additional, start) -> Recording:
        check_start(start)
        call = self._call(inputs, target, additional)
        self._warn()
        found = recording(self._current, call, start)
        check_tables(found.built.graph)
        return found

    def _current(self) -> Builder:
        """The builder for the rules of captum's that the modules have now, if any."""
        rules = captum.rules_of(self.model)
        if rules and self._given:
            raise wrong_value(
                "LRP: composite", "must be None where modules have rules of captum's",
                repr(self.composite), f"Remove {rules[0][0] or 'model'}.rule (the first of "
                f"{len(rules)}), or leave the composite out.",
            )  # fmt: skip
        if rules != self._rules:
            self._rules = rules
            composite = captum.composite_of(rules) if rules else Uniform(Epsilon(1e-6))
            vars(self)["composite"] = composite
            self._builder = Builder(self._given_model, composite, self.precision, self.verify)
        return self._builder

    def _warn(self) -> None:
        if not self._warned:
            warn_training(self.model)
            self._warned = True

    def _prepare(self, inputs, target, additional, start, layers) -> Traversal:
        check_start(start)
        call = self._call(inputs, target, additional)
        self._warn()
        built = self._current().build(call.arguments, len(call.inputs))
        check_tables(built.graph)
        shape = tuple(int(n) for n in built.graph.output.shape)
        begun = start_of(start, target, shape, call.batch)
        watch = find_layers(built.graph, layers)
        if begun.word == "log_odds" and any(built.graph.output in ns for ns in watch.values()):
            raise wrong_value(
                "layers", 'must not name the output when start is "log_odds"', describe(layers),
                "The log-odds start below the logits.",
            )  # fmt: skip
        return Traversal(call, built, begun, watch)

    def _call(self, inputs: Any, target: Any, additional: Any) -> Call:
        return make_call("LRP", self.model, inputs, target, additional, floating=False)
