"""Every causal network is causal, sees what its paper says, and gives the same numbers pixel by pixel from a cache."""

import inspect
from functools import partial

import pytest
import torch

from pyro_vae import networks
from pyro_vae._core.recording import Recorded
from pyro_vae.networks import (
    CausalNetwork,
    GatedPixelCNN,
    MaskedMLP,
    MultiScale,
    PixelAttention,
    PixelCNN,
    PixelCNNPlusPlus,
)

CAUSAL = [
    c
    for c in (getattr(networks, name) for name in networks.__all__)
    if inspect.isclass(c) and issubclass(c, CausalNetwork) and not inspect.isabstract(c)
]
SMALL = {"channels": 16, "kernel_size": 5, "num_layers": 2, "hidden": (400, 300), "activation": "tanh"}
SMALL["net"] = partial(GatedPixelCNN, channels=8, kernel_size=5, num_layers=2)
BLIND = {"PixelCNN", "RowLSTM"}  # networks with a blind spot, by their papers
# in_shape, number of outputs per site, joint_channels, context_shape
CASES = [((1, 5, 4), 2, False, ()), ((2, 4, 3), 2, False, (3,)), ((3, 3, 5), 7, True, (2, 3, 5))]
each = pytest.mark.parametrize("cls", CAUSAL, ids=lambda c: c.__name__)
cases = pytest.mark.parametrize("case", CASES, ids=["grey", "channels", "joint"])


def factory(cls, **options):
    """The class with small sizes, those of its arguments that it has."""
    known = inspect.signature(cls).parameters
    return partial(cls, **{**{key: value for key, value in SMALL.items() if key in known}, **options})


def small(cls, in_shape, outputs=1, joint=False, context_shape=(), **options):
    out_shape = (outputs * (1 if joint else in_shape[0]), *in_shape[1:])
    return factory(cls, **options)(in_shape, out_shape, context_shape=context_shape, joint_channels=joint)


def inputs(net, rows):
    context = torch.randn(rows, *net.context_shape) if net.context_shape else None
    return torch.randn(rows, *net.in_shape), context


def dependence(net, x, context, weights):
    """Gradient of a combination of each site's outputs by each site, (sites, sites), both in the network's order.

    Every row of the batch is the same datum, and gives the gradient of one site.
    """
    x = x.detach().requires_grad_()
    outputs = net(x, context).reshape(net.num_sites, net.num_outputs, net.num_sites)
    total = torch.stack([(outputs[i, :, site] * weights).sum() for i, site in enumerate(net.order)]).sum()
    (gradient,) = torch.autograd.grad(total, x)
    gradient = gradient.reshape(net.num_sites, net.channels_per_site, net.num_sites)
    return gradient.abs().sum(1)[:, net.order]


def one_datum(net):
    x, context = inputs(net, 1)
    context = None if context is None else context.expand(net.num_sites, *net.context_shape)
    return x.expand(net.num_sites, *net.in_shape), context, torch.randn(net.num_outputs)


@cases
@each
def test_a_site_depends_on_those_before_it_only(cls, case):
    net = small(cls, *case)
    arguments = one_datum(net)
    matrix = dependence(net.train(), *arguments)
    assert torch.equal(matrix, matrix.tril(-1))
    assert torch.equal(dependence(net.eval(), *arguments), matrix)
    sees_all = bool(matrix.ne(0).tril(-1).sum() == net.num_sites * (net.num_sites - 1) / 2)
    assert sees_all or cls.__name__ in BLIND
    assert cls.__name__ not in BLIND or case[0] != (3, 3, 5) or not sees_all


RECORDED = [
    *(pytest.param(cls, False, id=cls.__name__) for cls in CAUSAL),
    pytest.param(MaskedMLP, True, id="MaskedMLP-compiled", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("cls", "compiled"), RECORDED)
def test_its_recording_is_causal_too(cls, compiled):
    few = {"net": partial(GatedPixelCNN, channels=4, num_layers=1)} if cls is MultiScale else {"num_layers": 1}
    net = small(cls, (2, 3, 3), 2, **({} if cls is MaskedMLP else few))
    x, _, weights = one_datum(net)
    state = [*net.parameters(), *net.buffers()]
    matrix = Recorded(lambda x: dependence(net, x, None, weights), state, compiled=compiled)(x)
    assert torch.equal(matrix, matrix.tril(-1))
    torch.testing.assert_close(matrix, dependence(net, x, None, weights))


@cases
@each
def test_the_cache_gives_the_outputs_of_full_passes(cls, case):
    net = small(cls, *case)
    (x, context), store, full = inputs(net, 3), {}, None
    with torch.no_grad():
        full = net(x, context).reshape(3, net.num_outputs, net.num_sites)
    known = torch.full_like(x, 9.0)  # what is not known yet does not matter
    sites = [t.reshape(3, net.channels_per_site, net.num_sites) for t in (known, x)]
    for step, site in enumerate(net.order):
        outputs = net.advance(known, context, step, store)
        torch.testing.assert_close(outputs, full[..., site], rtol=1e-12, atol=1e-12)
        sites[0][..., site] = sites[1][..., site]


@pytest.mark.parametrize("context_shape", [(3,), (2, 4, 5)], ids=["vector", "image"])
@each
def test_the_context_reaches_every_site(cls, context_shape):
    net = small(cls, (2, 4, 5), context_shape=context_shape)
    x, _, weights = one_datum(net)
    context = torch.randn(context_shape).expand(net.num_sites, *context_shape).requires_grad_()
    outputs = net(x, context).reshape(net.num_sites, net.num_outputs, net.num_sites)
    total = torch.stack([(outputs[i, :, i] * weights).sum() for i in range(net.num_sites)]).sum()
    (gradient,) = torch.autograd.grad(total, context)
    assert gradient.flatten(1).any(1).all()


@each
def test_input_and_context_broadcast(cls):
    net = small(cls, (1, 3, 4), 2, context_shape=(3,))
    x, context = torch.randn(5, 1, 3, 4), torch.randn(2, 5, 3)
    together = net(x, context)
    assert together.shape == (2, 5, 2, 3, 4)
    torch.testing.assert_close(together[1, 3], net(x[3], context[1, 3]), rtol=1e-12, atol=1e-12)


@each
def test_gradients_reach_every_parameter_of_a_causal_network(cls):
    net = small(cls, (2, 5, 4), 2, context_shape=(3,))
    net(*inputs(net, 8)).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@each
def test_a_causal_network_keeps_dtypes(cls):
    torch.set_default_dtype(torch.float32)
    net, x = small(cls, (2, 3, 4), context_shape=(3,)), torch.randn(2, 2, 3, 4)
    assert net(x, torch.randn(2, 3)).dtype == torch.float32
    assert net.double()(x.double(), torch.randn(2, 3).double()).dtype == torch.float64


@pytest.mark.parametrize("limit", [1, 2, 3, 5, None])
@pytest.mark.parametrize("cls", [PixelCNN, GatedPixelCNN])
def test_the_receptive_field_is_limited(cls, limit):
    net = cls((1, 9, 9), (1, 9, 9), channels=16, num_layers=4, receptive_field=limit)
    x = torch.randn(1, 9, 9, requires_grad=True)
    i, j = 7, 4
    (gradient,) = torch.autograd.grad(net(x)[0, i, j], x)
    rows, columns = gradient[0].nonzero().unbind(1)
    distance = max((rows - i).abs().max(), (columns - j).abs().max())
    assert distance == min(net.receptive_field, i)
    assert net.receptive_field == min(limit or 9, {PixelCNN: 4, GatedPixelCNN: 5}[cls])


@pytest.mark.parametrize("context_shape", [(), (3,), (2, 4, 5)], ids=["none", "vector", "image"])
def test_biases_of_pixels_end_equivariance_but_not_causality(context_shape):
    shape, options = (1, 4, 5), {"channels": 8, "num_layers": 2, "context_shape": context_shape}
    net = GatedPixelCNN(shape, shape, positional=True, **options)
    plain = GatedPixelCNN(shape, shape, **options)
    plain.load_state_dict({name: value for name, value in net.state_dict().items() if name != "position"})
    x, context = inputs(net, 3)
    torch.testing.assert_close(net(x, context), plain(x, context), rtol=1e-12, atol=1e-12)  # they start at 0
    torch.nn.init.normal_(net.position)
    row = net.position[:, :, 2, 3].detach().clone()
    net.position.data[:, :, 2, 3] += 1
    before, store = net(x, context), {}
    net.position.data[:, :, 2, 3] = row
    changed = (net(x, context) - before).abs().amax((0, 1)).flatten()
    assert changed[13] > 1e-3
    assert not changed[:10].any()  # of the rows above
    arguments = one_datum(net)
    matrix = dependence(net, *arguments)
    assert torch.equal(matrix, matrix.tril(-1))
    full = net(x, context).detach().flatten(1)
    for step in range(20):
        outputs = net.advance(x, context, step, store)[:, 0]
        torch.testing.assert_close(outputs, full[:, step], rtol=1e-12, atol=1e-12)


def test_the_order_of_a_masked_mlp_is_any_permutation():
    order = torch.randperm(12).tolist()
    net = MaskedMLP((1, 3, 4), (1, 3, 4), order=order, hidden=(300,))
    matrix = dependence(net, *one_datum(net))
    assert net.order == order
    assert torch.equal(matrix, matrix.tril(-1))


def test_without_hidden_layers_a_masked_mlp_is_logistic_regressions():
    net = MaskedMLP((5,), (5,), hidden=())
    (layer,) = net.layers
    x = torch.randn(7, 5)
    expected = [x[:, :i] @ layer.weight[i, :i] + layer.bias[i] for i in range(5)]
    torch.testing.assert_close(net(x), torch.stack(expected, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("net", [partial(MaskedMLP, hidden=(200,)), GatedPixelCNN])
def test_three_scales_are_causal_and_cached(net):
    net = MultiScale((1, 5, 6), (2, 5, 6), net=net, num_scales=3)
    matrix = dependence(net, *one_datum(net))
    assert torch.equal(matrix, matrix.tril(-1))
    assert matrix.ne(0).tril(-1).sum() == 30 * 29 / 2  # with all sites before
    assert net.order[:6] == [0, 4, 24, 28, 2, 12]
    x, store = torch.randn(2, 1, 5, 6), {}
    full = net(x).reshape(2, 2, 30).detach()
    for step, site in enumerate(net.order):
        torch.testing.assert_close(net.advance(x, None, step, store), full[..., site], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PixelCNN((1, 4, 4), (1, 4, 4), kernel_size=4), "PixelCNN: kernel_size must be odd and positive, got"),
        (lambda: GatedPixelCNN((1, 4, 4), (1, 4, 4), kernel_size=0), "GatedPixelCNN: kernel_size must be odd"),
        (lambda: PixelCNNPlusPlus((1, 4, 4), (1, 4, 4), kernel_size=2), "PixelCNNPlusPlus: kernel_size must be odd"),
        (lambda: PixelCNN((3, 4, 4), (4, 4, 4)), "PixelCNN: out_shape must hold the same number of outputs for every"),
        (lambda: PixelCNN((1, 4, 4), (1, 4, 5)), "PixelCNN: out_shape must hold the same number of outputs for every"),
        (lambda: PixelCNN((16,), (16,)), r"PixelCNN: in_shape must be \(channels, height, width\), got in_shape"),
        (lambda: PixelCNN((1, 4, 4), (1, 4, 4), channels=0), "PixelCNN: channels must be at least 1, got channels=0"),
        (lambda: PixelCNN((1, 4, 4), (1, 4, 4), receptive_field=0), "PixelCNN: receptive_field must be at least 1"),
        (
            lambda: PixelCNN((1, 4, 4), (1, 4, 4), context_shape=(1, 2, 2)),
            r"PixelCNN: context_shape must be \(\), \(D,\) or \(channels, 4, 4\), got context_shape=\(1, 2, 2\)",
        ),
        (
            lambda: PixelAttention((1, 4, 4), (1, 4, 4), channels=5),
            "PixelAttention: channels must be a multiple of num_heads, got channels=5, num_heads=2",
        ),
        (lambda: MaskedMLP((4,), (4,), order=[0, 1, 1, 2]), "MaskedMLP: order must be a permutation of 0, ..., 3, got"),
        (lambda: MultiScale((1, 4, 4), (1, 4, 4), num_scales=1), "MultiScale: num_scales must be at least 2, got"),
        (
            lambda: MultiScale((1, 4, 3), (1, 4, 3), num_scales=4),
            "MultiScale: the larger side of the image must have at",
        ),
        (lambda: MaskedMLP((4,), (3,)), "MaskedMLP: out_shape must hold the same number of outputs for every site"),
        (lambda: MaskedMLP((4,), (0,)), "MaskedMLP: out_shape must be a tuple of positive integers, got"),
        (
            lambda: MaskedMLP((4,), (4,))(torch.zeros(2, 5)),
            r"MaskedMLP: the input must have shape \(4,\), got \(5,\)",
        ),
        (
            lambda: MaskedMLP((4,), (4,), context_shape=(3,))(torch.zeros(2, 4)),
            r"MaskedMLP: the context must have shape \(3,\), got none",
        ),
        (
            lambda: MaskedMLP((4,), (4,), context_shape=(3,))(torch.zeros(2, 4), torch.zeros(2, 4)),
            r"MaskedMLP: the context must have shape \(3,\), got \(2, 4\)",
        ),
        (
            lambda: MaskedMLP((4,), (4,))(torch.zeros(2, 4), torch.zeros(2, 4)),
            r"MaskedMLP: the context must have shape \(\), got \(2, 4\)",
        ),
    ],
)
def test_bad_arguments_of_causal_networks_raise_one_line(build, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        build()
    assert "\n" not in str(caught.value)


def test_partial_networks_are_classes_of_the_contract():
    assert {cls.__name__ for cls in CAUSAL} >= {"MaskedMLP", *BLIND, "DiagonalLSTM"}
    assert partial(PixelCNN, channels=4)((1, 4, 4), (1, 4, 4)).head.hidden.in_channels == 4
