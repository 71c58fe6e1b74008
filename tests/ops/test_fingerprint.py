"""The hash of weights: every change is seen, whatever the dtype, strides and device."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from xaifast import ops, reference

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = [
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8,
    torch.bool, torch.complex64, torch.float8_e4m3fn,
]  # fmt: skip
SIZES = (0, 1, 3, 64, 511, 513, 8191, 8192, 8193, 70001)


def mark(x):
    return ops.fingerprint([x])[0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_hash_is_that_of_the_formula(dtype, device):
    tensors = [torch.randint(0, 99, (n,)).to(dtype).to(device) for n in SIZES]
    tensors += [x[1:] for x in tensors]  # not aligned
    tensors += [torch.randint(0, 99, (2, 3, 5, 7)).to(dtype).to(device), tensors[3][0]]
    tensors += [
        tensors[-2].transpose(1, 3),
        tensors[-2][:, ::2],
        tensors[-2][:1].expand(4, 3, 5, 7),
    ]
    assert ops.fingerprint(tensors) == reference.fingerprint(tensors)
    assert ops.fingerprint(tensors) == [mark(x) for x in tensors]
    assert ops.fingerprint([x.cpu() for x in tensors]) == ops.fingerprint(tensors)


@pytest.mark.parametrize("device", DEVICES)
def test_every_bit_counts(device):
    x = torch.randn(300, device=device)
    bits = x.view(torch.int32)
    seen = {mark(x)}
    for i, bit in itertools.product(range(0, 300, 7), range(32)):
        flip = 1 << bit if bit < 31 else -(1 << 31)
        bits[i] ^= flip
        seen.add(mark(x))
        bits[i] ^= flip
    assert len(seen) == 1 + 43 * 32
    assert mark(x) in seen


def changes(x):
    """What leaves sums, sums of squares, or the set of values as they were."""
    n = len(x)
    for i, j in ((0, 1), (0, n - 1), (1, 129), (2, 258), (5, 16384 + 5), (7, 3 * 16384 + 7)):
        yield "swap", x.index_copy(0, torch.tensor([i, j]), x[[j, i]])
        yield "two signs", x.index_copy(0, torch.tensor([i, j]), -x[[i, j]])
        sums = torch.tensor([x[i] + 0.5, x[j] - 0.5])
        yield "the same sum", x.index_copy(0, torch.tensor([i, j]), sums)
    yield "all signs", -x
    yield "reversed", x.flip(0)
    yield "a step further", x.roll(1)
    yield "a chunk further", x.roll(16384)
    yield "in another order", x[torch.randperm(n)]
    yield "one number, the least", x.index_fill(0, torch.tensor([n // 2]), 1e-45)


@pytest.mark.parametrize("make", [torch.randn, lambda n: torch.randint(0, 5, (n,)) * 1.0 + 1])
def test_changes_that_keep_something_are_seen(make):
    x = make(70001)
    seen = {mark(x)}
    for count, (name, y) in enumerate(changes(x), 2):
        if torch.equal(x, y):  # two equal numbers, exchanged
            y = x + 1e-3 * count
        seen.add(mark(y))
        assert len(seen) == count, name


def test_one_number_in_ten_million_is_seen():
    x = torch.ones(10_000_000)
    before = mark(x)
    for i in (0, 4_999_999, 9_999_999):
        version = x._version
        x.data[i] = 1 + 2**-23
        assert x._version == version
        assert mark(x) != before
        x.data[i] = 1
    assert mark(x) == before


def test_the_layout_counts_as_well():
    x = torch.ones(4, 4, 4, 4)
    y = torch.randn(3, 3)
    marks = [mark(x), mark(x.to(memory_format=torch.channels_last)), mark(x.flatten())]
    marks += [mark(x[:2]), mark(torch.zeros(2, 0)), mark(torch.zeros(0, 2)), mark(y), mark(y.mT)]
    assert len(set(marks)) == len(marks)
    assert mark(y[:, ::2]) == mark(y[:, ::2].contiguous())  # what is not dense


def nested(x):
    return torch.nested.nested_tensor([x, x[:2]], layout=torch.jagged)


OTHERS = {
    "coo": (Tensor.to_sparse, Tensor._values),
    "csr": (Tensor.to_sparse_csr, Tensor.values),
    "csc": (Tensor.to_sparse_csc, Tensor.values),
    "bsr": (lambda x: x.to_sparse_bsr((2, 2)), Tensor.values),
    "bsc": (lambda x: x.to_sparse_bsc((2, 2)), Tensor.values),
    "parameter": (nn.Parameter, lambda x: x.data),
    "inference": (torch.inference_mode()(Tensor.clone), lambda x: x),
    "nested": (nested, Tensor.values),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("kind", OTHERS)
def test_tensors_of_other_kinds(kind):
    make, memory = OTHERS[kind]
    x = make(torch.arange(24.0).view(4, 6))
    before = mark(x)
    assert mark(x) == before
    with torch.inference_mode(x.is_inference()):
        memory(x)[0] += 1
    assert mark(x) != before


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_numbers_are_seen():
    x = torch.randn(5)
    one, other = (torch.quantize_per_tensor(x + d, 0.1, 3, torch.quint8) for d in (0, 1))
    assert mark(one) != mark(other)
    assert mark(one) == mark(torch.quantize_per_tensor(x, 0.1, 3, torch.quint8))


def test_what_has_no_numbers_has_the_hash_of_its_shape():
    on_meta = [torch.empty(n, device="meta") for n in (3, 3, 4)]
    a, b, c = ops.fingerprint(on_meta)
    assert a == b != c
    assert ops.fingerprint([]) == []


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_do_not_matter(threads):
    tensors = [torch.arange(n * 1.0) for n in (5, 3, 100_000, 0, 16384, 1, 40_000)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert ops.fingerprint(tensors) == reference.fingerprint(tensors)
    finally:
        torch.set_num_threads(before)


def test_the_native_op_takes_strided_tensors_of_its_device():
    for other in (torch.ones(2, device="meta"), torch.eye(2).to_sparse()):
        with pytest.raises(NotImplementedError, match="xaifast::fingerprint"):
            torch.ops.xaifast.fingerprint([torch.ones(2), other])
