"""Networks against the same sums done by hand in NumPy."""

import math

import numpy as np
import pytest
import torch
from scipy.special import expit

from pyro_vae.networks import (
    MLP,
    ConvDecoder,
    ConvEncoder,
    GatedConvDecoder,
    GatedConvEncoder,
    GatedMLP,
    ResidualConvDecoder,
    ResidualConvEncoder,
    build_network,
)
from pyro_vae.networks.base import activation_layer

NETWORKS = {
    "MLP": lambda: MLP((3, 4), (2, 5), hidden=(30, 20)),
    "GatedMLP": lambda: GatedMLP((3, 4), (2, 5), hidden=(30, 20)),
    "ConvEncoder": lambda: ConvEncoder((2, 9, 6), (2, 5), channels=(8, 12), kernel_size=5),
    "ConvDecoder": lambda: ConvDecoder((2, 5), (2, 9, 6), channels=(12, 8), kernel_size=5),
    "GatedConvEncoder": lambda: GatedConvEncoder((2, 9, 6), (2, 5), channels=(8, 12), kernel_size=5),
    "GatedConvDecoder": lambda: GatedConvDecoder((2, 5), (2, 9, 6), channels=(12, 8), features=7, kernel_size=5),
    "ResidualConvEncoder": lambda: ResidualConvEncoder((2, 9, 6), (2, 5), channels=(8, 12), blocks=2, kernel_size=5),
    "ResidualConvDecoder": lambda: ResidualConvDecoder((2, 5), (2, 9, 6), channels=(12, 8), blocks=2, features=7),
}


def arrays(net):
    return [p.detach().numpy() for p in net.parameters()]


def randomize(net):
    """Randomise biases, too: their initial zeros would hide a missing one."""
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0.0, 0.5)
    return net


# ---------------------------------------------------------------- values

ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda a: np.maximum(a, 0),
    "softplus": lambda a: np.log1p(np.exp(a)),
    "gelu": lambda a: a * 0.5 * (1 + np.vectorize(math.erf)(a / math.sqrt(2))),
    "silu": lambda a: a * expit(a),
    "elu": lambda a: np.where(a > 0, a, np.expm1(a)),
    "leaky_relu": lambda a: np.where(a > 0, a, 0.01 * a),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_is_its_formula(activation):
    net = randomize(MLP((2, 3), (4, 2), hidden=(5, 7), activation=activation))
    x = torch.randn(11, 2, 3)
    w1, b1, w2, b2, w3, b3 = arrays(net)
    f = ACTIVATIONS[activation]
    h = f(f(x.numpy().reshape(11, 6) @ w1.T + b1) @ w2.T + b2)  # (11, 7)
    np.testing.assert_allclose(net(x).detach().numpy(), (h @ w3.T + b3).reshape(11, 4, 2), rtol=1e-12, atol=1e-12)


def test_every_activation_is_tested():
    with pytest.raises(ValueError, match=f"must be one of {', '.join(map(repr, ACTIVATIONS))}, got"):
        activation_layer("sigmoid")


def test_mlp_without_hidden_layers_is_linear():
    net = randomize(MLP((3,), (2,), hidden=()))
    w, b = arrays(net)
    x = torch.randn(5, 3)
    np.testing.assert_allclose(net(x).detach().numpy(), x.numpy() @ w.T + b, rtol=1e-12)


def test_gated_mlp_is_its_formula():
    net = randomize(GatedMLP((6,), (3,), hidden=(4, 5)))
    w1, b1, w2, b2, w3, b3 = arrays(net)
    x = torch.randn(7, 6)

    def gated(h, w, b, n):  # the first half of the rows is A, the second B
        return (h @ w[:n].T + b[:n]) * expit(h @ w[n:].T + b[n:])

    h = gated(gated(x.numpy(), w1, b1, 4), w2, b2, 5)
    np.testing.assert_allclose(net(x).detach().numpy(), h @ w3.T + b3, rtol=1e-12, atol=1e-12)


def correlate(x, w, b, stride):
    """A convolution layer by loops, zeros around: x (C, H, W), w (O, C, k, k)."""
    k = w.shape[-1]
    x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    rows, columns = (range(0, n - k + 1, stride) for n in x.shape[1:])
    patches = np.array([[x[:, i : i + k, j : j + k] for j in columns] for i in rows])  # (H', W', C, k, k)
    return np.einsum("hwckl,ockl->ohw", patches, w) + b[:, None, None]


def pixel_shuffle(y):
    """Eq. 4 of Shi et al.: (4 C, H, W) -> (C, 2 H, 2 W)."""
    out = np.empty((y.shape[0] // 4, 2 * y.shape[1], 2 * y.shape[2]))
    for c in range(len(out)):
        for i in range(2):
            for j in range(2):
                out[c, i::2, j::2] = y[4 * c + 2 * i + j]
    return out


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_conv_encoder_is_its_formula(kernel_size):
    net = randomize(ConvEncoder((2, 7, 5), (3,), channels=(3, 4), kernel_size=kernel_size))
    w1, b1, w2, b2, w3, b3 = arrays(net)
    x = torch.randn(2, 7, 5)
    h = np.maximum(correlate(x.numpy(), w1, b1, 2), 0)
    h = np.maximum(correlate(h, w2, b2, 2), 0)
    assert h.shape == (4, 2, 2)
    np.testing.assert_allclose(net(x).detach().numpy(), w3 @ h.ravel() + b3, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_conv_decoder_is_its_formula(kernel_size):
    net = randomize(ConvDecoder((3,), (2, 7, 5), channels=(4, 3), kernel_size=kernel_size))
    w1, b1, w2, b2, w3, b3 = arrays(net)
    z = torch.randn(3)
    h = (w1 @ z.numpy() + b1).reshape(4, 2, 2)
    h = pixel_shuffle(correlate(np.maximum(h, 0), w2, b2, 1))
    h = pixel_shuffle(correlate(np.maximum(h, 0), w3, b3, 1))
    assert h.shape == (2, 8, 8)
    np.testing.assert_allclose(net(z).detach().numpy(), h[:, :7, :5], rtol=1e-12, atol=1e-12)


def gate(h):
    """The first half of the channels times the logistic function of the second."""
    half = len(h) // 2
    return h[:half] * expit(h[half:])


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_gated_conv_encoder_is_its_formula(kernel_size):
    net = randomize(GatedConvEncoder((2, 7, 5), (3,), channels=(3, 4), kernel_size=kernel_size))
    w1, b1, w2, b2, w3, b3 = arrays(net)
    x = torch.randn(2, 7, 5)
    h = gate(correlate(gate(correlate(x.numpy(), w1, b1, 2)), w2, b2, 2))
    assert h.shape == (4, 2, 2)
    np.testing.assert_allclose(net(x).detach().numpy(), w3 @ h.ravel() + b3, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_gated_conv_decoder_is_its_formula(kernel_size):
    net = randomize(GatedConvDecoder((3,), (11, 7, 5), channels=(4, 3), features=6, kernel_size=kernel_size))
    w1, b1, w2, b2, w3, b3, w4, b4 = arrays(net)
    z = torch.randn(3)
    h = gate((w1 @ z.numpy() + b1).reshape(8, 2, 2))
    h = pixel_shuffle(gate(correlate(h, w2, b2, 1)))
    h = pixel_shuffle(gate(correlate(h, w3, b3, 1)))
    assert h.shape == (6, 8, 8)
    h = np.einsum("oc,chw->ohw", w4[..., 0, 0], h[:, :7, :5]) + b4[:, None, None]
    np.testing.assert_allclose(net(z).detach().numpy(), h, rtol=1e-12, atol=1e-12)


def residual(h, weights, count):
    """``count`` pre-activation blocks; takes their weights off the front of the list."""
    for _ in range(count):
        w1, b1, w2, b2 = (weights.pop(0) for _ in range(4))
        h = h + correlate(np.tanh(correlate(np.tanh(h), w1, b1, 1)), w2, b2, 1)
    return h


@pytest.mark.parametrize("blocks", [0, 1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_residual_conv_encoder_is_its_formula(kernel_size, blocks):
    net = ResidualConvEncoder(
        (2, 7, 5), (3,), channels=(3, 4), blocks=blocks, activation="tanh", kernel_size=kernel_size
    )
    weights, x = arrays(randomize(net)), torch.randn(2, 7, 5)
    h = x.numpy()
    for _ in range(2):
        h = residual(correlate(h, weights.pop(0), weights.pop(0), 2), weights, blocks)
    assert h.shape == (4, 2, 2)
    w, b = weights
    np.testing.assert_allclose(net(x).detach().numpy(), w @ np.tanh(h).ravel() + b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("blocks", [0, 1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_residual_conv_decoder_is_its_formula(kernel_size, blocks):
    options = {"channels": (4, 3), "features": 6, "blocks": blocks, "activation": "tanh", "kernel_size": kernel_size}
    net = ResidualConvDecoder((3,), (11, 7, 5), **options)
    weights, z = arrays(randomize(net)), torch.randn(3)
    h = (weights.pop(0) @ z.numpy() + weights.pop(0)).reshape(4, 2, 2)
    for _ in range(2):
        h = np.tanh(residual(h, weights, blocks))
        h = pixel_shuffle(correlate(h, weights.pop(0), weights.pop(0), 1))
    assert h.shape == (6, 8, 8)
    w, b = weights
    h = np.einsum("oc,chw->ohw", w[..., 0, 0], np.tanh(h[:, :7, :5])) + b[:, None, None]
    np.testing.assert_allclose(net(z).detach().numpy(), h, rtol=1e-12, atol=1e-12)


def test_residual_conv_encoder_without_halvings_is_linear():
    net = randomize(ResidualConvEncoder((2, 3, 2), (4,), channels=()))
    x = torch.randn(2, 3, 2)
    torch.testing.assert_close(net(x) + net(-x), 2 * net(torch.zeros(2, 3, 2)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(28, 20), (7, 5), (1, 1), (28, 28), (1, 9), (2, 3), (33, 16)])
@pytest.mark.parametrize("channels", [(), (4,), (4, 3), (4, 3, 2)])
def test_images_of_any_size(size, channels):
    image, code = (2, *size), (2, 3)
    assert ConvDecoder(code, image, channels=channels)(torch.randn(6, *code)).shape == (6, *image)
    assert ConvEncoder(image, code, channels=channels)(torch.randn(6, *image)).shape == (6, *code)
    assert GatedConvDecoder(code, image, channels=channels)(torch.randn(6, *code)).shape == (6, *image)
    assert GatedConvEncoder(image, code, channels=channels)(torch.randn(6, *image)).shape == (6, *code)
    assert ResidualConvDecoder(code, image, channels=channels)(torch.randn(6, *code)).shape == (6, *image)
    assert ResidualConvEncoder(image, code, channels=channels)(torch.randn(6, *image)).shape == (6, *code)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_equals_its_data_one_by_one(name):
    net = randomize(NETWORKS[name]())
    x = torch.randn(2, 3, *net.in_shape)
    one_by_one = torch.stack([torch.stack([net(datum) for datum in row]) for row in x])
    torch.testing.assert_close(net(x), one_by_one, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_empty_batch_is_empty(name):
    net = NETWORKS[name]()
    assert net(torch.zeros(0, *net.in_shape)).shape == (0, *net.out_shape)


# ---------------------------------------------------------------- dropout


@pytest.mark.parametrize("cls", [MLP, GatedMLP])
def test_dropout_only_while_training(cls):
    with_dropout, without = cls((4,), (3,), hidden=(50, 40), dropout=0.3), cls((4,), (3,), hidden=(50, 40))
    without.load_state_dict(dict(zip(without.state_dict(), with_dropout.state_dict().values(), strict=True)))
    x = torch.randn(5, 4)
    with_dropout.train()
    assert not torch.equal(with_dropout(x), with_dropout(x))
    with_dropout.eval()
    assert torch.equal(with_dropout(x), without(x))
    assert torch.equal(without.train()(x), without.eval()(x))


@pytest.mark.parametrize(("cls", "unit"), [(MLP, math.tanh(1.0)), (GatedMLP, float(expit(1.0)))])
def test_dropout_drops_the_stated_fraction(cls, unit):
    """Every hidden unit is 1 before dropout, so the output is the kept fraction over 1 - p."""
    n, p = 10_000, 0.2
    net = cls((1,), (1,), hidden=(n,), dropout=p)
    w1, b1, w2, b2 = net.parameters()
    for parameter, value in ((w1, 1.0), (b1, 0.0), (w2, 1 / (n * unit)), (b2, 0.0)):
        torch.nn.init.constant_(parameter, value)
    z = (net(torch.ones(1)).item() - 1) / math.sqrt(p / (1 - p) / n)
    assert abs(z) < 4.5
    assert net(torch.ones(1)).item() != 1.0


# ---------------------------------------------------------------- initial weights


def check_glorot(weight, fan_in, fan_out):
    """Uniform between the bounds: none beyond, the largest close to them, the variance b^2 / 3."""
    bound = math.sqrt(6 / (fan_in + fan_out))
    w = weight.detach().flatten()
    assert w.abs().max() <= bound
    # P(the largest of n < (1 - t) b) = (1 - t)^n < e^-20 for t = 20 / n.
    assert w.abs().max() > bound * (1 - 20 / len(w))
    standard_error = bound**2 * math.sqrt(4 / 45 / len(w))  # of w^2: E w^4 - (E w^2)^2 = b^4 (1/5 - 1/9)
    assert abs((w.square().mean() - bound**2 / 3) / standard_error) < 4.5


def test_mlp_starts_at_glorot():
    net = MLP((30,), (50,), hidden=(40, 20))
    w1, b1, w2, b2, w3, b3 = net.parameters()
    for weight, fans in ((w1, (30, 40)), (w2, (40, 20)), (w3, (20, 50))):
        check_glorot(weight, *fans)
    assert not any(b.any() for b in (b1, b2, b3))


def test_gated_mlp_starts_each_half_at_glorot():
    net = GatedMLP((30,), (50,), hidden=(40, 20))
    w1, b1, w2, b2, w3, b3 = net.parameters()
    for weight, fans in ((w1, (30, 40)), (w2, (40, 20))):
        for half in weight.chunk(2):
            check_glorot(half, *fans)
    check_glorot(w3, 20, 50)
    assert not any(b.any() for b in (b1, b2, b3))
    assert not torch.equal(*w1.chunk(2))


@pytest.mark.parametrize(
    ("cls", "shapes", "fans"),
    [
        (ConvEncoder, ((2, 8, 8), (50,)), [(2 * 9, 10 * 9), (10 * 9, 12 * 9), (12 * 4, 50)]),
        (ConvDecoder, ((50,), (2, 8, 8)), [(50, 10 * 4), (10 * 9, 48 * 9), (12 * 9, 8 * 9)]),
    ],
)
def test_convolutions_start_at_glorot(cls, shapes, fans):
    parameters = list(cls(*shapes, channels=(10, 12)).parameters())
    for weight, (fan_in, fan_out) in zip(parameters[::2], fans, strict=True):
        check_glorot(weight, fan_in, fan_out)
    assert not any(bias.any() for bias in parameters[1::2])


def test_gated_convolutions_start_each_half_at_glorot():
    encoder = GatedConvEncoder((2, 8, 8), (50,), channels=(10, 12))
    w1, b1, w2, b2, w3, b3 = encoder.parameters()
    decoder = GatedConvDecoder((50,), (30, 8, 8), channels=(10, 12), features=5)
    w4, b4, w5, b5, w6, b6, w7, b7 = decoder.parameters()
    fans = ((w1, 2 * 9, 10 * 9), (w2, 10 * 9, 12 * 9), (w5, 10 * 9, 48 * 9), (w6, 12 * 9, 20 * 9))
    for weight, fan_in, fan_out in fans:
        for half in weight.chunk(2):
            check_glorot(half, fan_in, fan_out)
        assert not torch.equal(*weight.chunk(2))
    for weight, fan_in, fan_out in ((w3, 12 * 4, 50), (w4, 50, 20 * 4), (w7, 5, 30)):
        check_glorot(weight, fan_in, fan_out)
    assert not any(b.any() for b in (b1, b2, b3, b4, b5, b6, b7))


def test_residual_convolutions_start_at_glorot():
    encoder = ResidualConvEncoder((2, 8, 8), (50,), channels=(10, 12))
    decoder = ResidualConvDecoder((50,), (30, 8, 8), channels=(10, 12), features=5)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    in_out = [(2, 10), (10, 10), (10, 10), (10, 12), (12, 12), (12, 12)], [(10, 10), (10, 10), (10, 48)]
    convolutions = [[(i * 9, o * 9) for i, o in fans] for fans in (*in_out, [(12, 12), (12, 12), (12, 20)])]
    fans = [*convolutions[0], (12 * 4, 50), (50, 10 * 4), *convolutions[1], *convolutions[2], (5, 30)]
    for weight, (fan_in, fan_out) in zip(parameters[::2], fans, strict=True):
        check_glorot(weight, fan_in, fan_out)
    assert not any(bias.any() for bias in parameters[1::2])


def test_the_seed_decides_the_weights():
    torch.manual_seed(5)
    one = arrays(GatedMLP((3,), (2,)))
    torch.manual_seed(5)
    two = arrays(GatedMLP((3,), (2,)))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLP((0,), (3,)), r"MLP: in_shape must be a tuple of positive integers, got in_shape=\(0,\)\."),
        (lambda: MLP((3,), ()), r"MLP: out_shape must not be empty, got out_shape=\(\)\."),
        (
            lambda: GatedMLP((3,), (2, -1)),
            r"GatedMLP: out_shape must be a tuple of positive integers, got out_shape=\(2, -1\)\.",
        ),
        (
            lambda: MLP((3,), (3,), hidden=(5, 0)),
            r"MLP: hidden must be a tuple of positive integers, got hidden=\(5, 0\)\.",
        ),
        (
            lambda: GatedMLP((3,), (3,), hidden=(0,)),
            r"GatedMLP: hidden must be a tuple of positive integers, got hidden=\(0,\)\.",
        ),
        (
            lambda: MLP((3,), (3,), activation="sine"),
            r"MLP: activation must be one of .*, got activation='sine'\.",
        ),
        (
            lambda: ConvEncoder((784,), (3,)),
            r"ConvEncoder: in_shape must be \(channels, height, width\), got in_shape=\(784,\)\. Give",
        ),
        (
            lambda: ConvDecoder((3,), (784,)),
            r"ConvDecoder: out_shape must be \(channels, height, width\), got out_shape=\(784,\)\. Give",
        ),
        (
            lambda: ConvEncoder((1, 8, 8), (3,), channels=(0,)),
            r"ConvEncoder: channels must be a tuple of positive integers, got channels=\(0,\)\.",
        ),
        (
            lambda: ConvDecoder((3,), (1, 8, 8), channels=(4, -4)),
            r"ConvDecoder: channels must be a tuple of positive integers, got channels=\(4, -4\)\.",
        ),
        (
            lambda: ConvEncoder((1, 8, 8), (3,), kernel_size=4),
            r"ConvEncoder: kernel_size must be odd and positive, got kernel_size=4\.",
        ),
        (
            lambda: ConvDecoder((3,), (1, 8, 8), kernel_size=-1),
            r"ConvDecoder: kernel_size must be odd and positive, got kernel_size=-1\.",
        ),
        (
            lambda: GatedConvEncoder((784,), (3,)),
            r"GatedConvEncoder: in_shape must be \(channels, height, width\), got in_shape=\(784,\)\. Give",
        ),
        (
            lambda: GatedConvDecoder((3,), (784,)),
            r"GatedConvDecoder: out_shape must be \(channels, height, width\), got out_shape=\(784,\)\. Give",
        ),
        (
            lambda: GatedConvDecoder((3,), (1, 8, 8), features=0),
            r"GatedConvDecoder: features must be at least 1, got features=0\.",
        ),
        (
            lambda: GatedConvEncoder((1, 8, 8), (3,), channels=(0,)),
            r"GatedConvEncoder: channels must be a tuple of positive integers, got channels=\(0,\)\.",
        ),
        (
            lambda: GatedConvDecoder((3,), (1, 8, 8), kernel_size=2),
            r"GatedConvDecoder: kernel_size must be odd and positive, got kernel_size=2\.",
        ),
        (
            lambda: ResidualConvEncoder((1, 8, 8), (3,), blocks=-1),
            r"ResidualConvEncoder: blocks must be at least 0, got blocks=-1\.",
        ),
        (
            lambda: ResidualConvDecoder((3,), (8, 8)),
            r"ResidualConvDecoder: out_shape must be \(channels, height, width\), got out_shape=\(8, 8\)\. Give",
        ),
        (
            lambda: ResidualConvDecoder((3,), (1, 8, 8), blocks=-2),
            r"ResidualConvDecoder: blocks must be at least 0, got blocks=-2\.",
        ),
        (
            lambda: MLP((3, 2), (3,))(torch.zeros(5, 6)),
            r"MLP: the input must end in in_shape=\(3, 2\), got shape=\(5, 6\)\. Reshape",
        ),
        (
            lambda: MLP((3, 2), (3,))(torch.zeros(2)),
            r"MLP: the input must end in in_shape=\(3, 2\), got shape=\(2,\)\.",
        ),
        (lambda: MLP((3,), (3,))(torch.zeros(())), r"MLP: the input must end in in_shape=\(3,\), got shape=\(\)\."),
    ],
)
def test_bad_arguments_raise_one_line_errors(build, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        build()
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("cls", [MLP, GatedMLP])
@pytest.mark.parametrize("dropout", [-0.1, 1.5])
def test_bad_dropout_raises_with_the_class_name(cls, dropout):
    with pytest.raises(ValueError, match="dropout") as caught:
        cls((3,), (3,), dropout=dropout)
    assert str(caught.value).startswith(f"{cls.__name__}: dropout must be")


# ---------------------------------------------------------------- build_network


def test_build_network_calls_a_factory_with_the_shapes():
    net = build_network(MLP, (3, 2), (4,))
    assert isinstance(net, MLP)
    assert (net.in_shape, net.out_shape) == ((3, 2), (4,))


def test_build_network_takes_a_module_as_it_is():
    module = torch.nn.Linear(3, 4)
    assert build_network(module, (3,), (4,)) is module
