"""A set of images, held as one tensor on a device or read from files when a batch needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_vae._core.checks import check_arguments, refusal, require
from pyro_vae._core.html import folded
from pyro_vae.data.contexts import JoinedRows
from pyro_vae.data.fingerprints import data_fingerprint
from pyro_vae.data.kinds import Column, DataKind, column_names, kind_words, shortened
from pyro_vae.data.lazy import LazyRows, chunks
from pyro_vae.data.missing import aminmax, check_observed, has_missing
from pyro_vae.data.random_pixels import sample_pixels

Index = Tensor | slice | Sequence[int]
_INTEGERS = (torch.uint8, torch.int32)


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    r"""Images as integers :math:`u` that stand for :math:`x = u / u_{\max} \in [0, 1]`.

    Args:
        images: uint8 pixels; a floating tensor for continuous data, or an int32 tensor of counts, whose values are not
            scaled (then ``max_value`` is not used); or rows that are read when a batch needs them, whose pixels must
            lie in the same range. NaN is a missing entry.
        labels: int64 class labels, -1 for an unlabelled image, or ``None``.
        max_value: the integer that stands for 1: 255 for grey bytes, 16 for digits, 1 once binarized.
        dynamic: whether :meth:`batch` samples binary pixels at every call, with :math:`P(x = 1) = u / u_{\max}`.
        paired: whether programs are called with images and labels, ``(x, y)``, instead of images alone.
        rows: positions of the images in the data before they were split, by which errors name them; ``None`` for those
            in this set.
        kind: the kind of data, if it was detected or chosen, see :func:`pyro_vae.data.load`.
        columns: names, kinds and levels of the columns of a table.
        classes: the names of the classes 0, 1, ..., if they have names.

    Shape:
        ``images`` is ``(N, *data_shape)``, ``labels`` and ``rows`` are ``(N,)``; ``data_shape`` is ``(C, H, W)`` for
        images.

    Raises:
        ValueError: zero-length data, another dtype, pixels above ``max_value``, labels of another length, ``dynamic``
            with floating pixels outside [0, 1], or ``paired`` without labels.

    Example:
        >>> import torch
        >>> images = ImageSet(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8))
        >>> images.data_shape, len(images)
        ((1, 1, 3), 1)
        >>> images.batch([0])
        tensor([[[[0.0000, 0.2000, 1.0000]]]])
    """

    images: Tensor | LazyRows
    labels: Tensor | None = None
    max_value: int = 255
    dynamic: bool = False
    paired: bool = False
    rows: Tensor | None = None
    kind: DataKind | None = None
    columns: tuple[Column, ...] = ()
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_arguments(ImageSet.__init__, vars(self), "ImageSet")
        self._check_images()
        self._check_labels()
        self._check_range()

    def __len__(self) -> int:
        return self.images.shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {self.describe()}"

    def _repr_html_(self) -> str:
        return folded(f"{type(self).__name__} of {self.describe()}", [])

    def describe(self) -> str:
        """Number, shape and kind of the data, columns, classes and missing entries in words."""
        what = f"{len(self)} data {self.data_shape}"
        parts = [what if self.kind is None else f"{what}: {kind_words(self.kind, self.max_value)}"]
        parts += [f"({column_names(self.columns)})"] if self.kind == "mixed" else []
        parts += [f"in {len(self.classes)} classes ({shortened(self.classes)})"] if self.classes else []
        tensor = self.images if isinstance(self.images, Tensor) else None
        missing = 0 if tensor is None or not self.missing else int(tensor.isnan().sum())
        share = missing / self.images.numel()
        return " ".join(parts) + (f", {missing} entries missing ({share:.1%})" if missing else "")

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one datum, ``(C, H, W)`` for images."""
        return tuple(self.images.shape[1:])

    @property
    def missing(self) -> bool:
        """Whether entries are missing, NaN; the model must then be of incomplete data, ``VAE(..., missing=True)``."""
        return has_missing(self.images)

    @property
    def device(self) -> torch.device:
        """Device of the images and of their batches."""
        return self.images.device

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set on another device."""
        labels, rows = (None if t is None else t.to(device) for t in (self.labels, self.rows))
        return replace(self, images=self.images.to(device), labels=labels, rows=rows)

    def subset(self, index: Index) -> ImageSet:
        """The images and labels at ``index``, in that order."""
        labels = None if self.labels is None else _take(self.labels, index)
        rows = torch.arange(len(self), device=self.device) if self.rows is None else self.rows
        images = self.images[index] if isinstance(self.images, LazyRows) else _take(self.images, index)
        return replace(self, images=images, labels=labels, rows=_take(rows, index))

    def partly_labelled(self, index: Index) -> ImageSet:
        """The same set, paired, with the labels at ``index`` and -1 elsewhere.

        Raises:
            ValueError: the set has no labels.
        """
        if self.labels is None:
            raise refusal("ImageSet", "partial labels require a labelled set", "labels=None")
        labels = torch.full_like(self.labels, -1)
        labels[index] = self.labels[index]
        return replace(self, labels=labels, paired=True)

    def unpaired(self) -> ImageSet:
        """The same set, whose programs are called without labels."""
        return replace(self, paired=False)

    def fingerprint(self, *, labels: bool = False) -> str:
        """A hash of the images, their order, scale and binarization, the same on every device; 16 hexadecimal digits.

        Args:
            labels: hash the labels too.
        """
        name = f"images/{self._scale}{' dynamic' if self.dynamic else ''}"
        with_labels = {"labels": self.labels} if labels and self.labels is not None else {}
        images = self.images
        if isinstance(images, Tensor) and self.missing:
            images = images.masked_fill(images.isnan(), torch.nan)  # one NaN
        return data_fingerprint(name, images, **with_labels)

    def arguments(
        self, index: Index, *, dtype: torch.dtype | None = None, pixels: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The arguments of programs: the :meth:`batch`, and its labels if the set is ``paired``."""
        x = self.batch(index, dtype=dtype, pixels=pixels)
        return (x, _take(self.labels, index)) if self.paired and self.labels is not None else (x,)

    def batch(
        self,
        index: Index,
        *,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
        pixels: Tensor | None = None,
    ) -> Tensor:
        """Images at ``index`` as data of a model: binary samples if ``dynamic``, else ``u / max_value``.

        Args:
            index: a tensor of positions, a list or a slice.
            dtype: dtype of the batch; ``None`` is the default dtype. Floating data are converted without scaling.
            generator: generator of the binary samples; ``None`` is the global one. A generator on another device
                samples there, so that a seeded CPU generator gives the same batch on every device.
            pixels: entries of ``images`` at ``index``, if they have been read already.

        Returns:
            The batch, on the set's device.

        Shape:
            ``(B, *data_shape)``
        """
        dtype = torch.get_default_dtype() if dtype is None else dtype
        pixels = _take(self.images, index) if pixels is None else pixels  # (B, *data_shape)
        if self.dynamic:
            return self._sample(pixels, dtype, generator)
        return pixels.to(dtype) if self._scale == 1 else pixels.to(dtype) / self._scale

    def _sample(self, pixels: Tensor, dtype: torch.dtype, generator: torch.Generator | None) -> Tensor:
        if not pixels.is_floating_point():
            return sample_pixels(pixels, self.max_value, dtype=dtype, generator=generator)
        device = self.device if generator is None else generator.device
        noise = torch.rand(pixels.shape, generator=generator, device=device, dtype=torch.float32)
        return (noise.to(self.device) < pixels).to(dtype).masked_fill(pixels.isnan(), torch.nan)

    def mean(self, *, dtype: torch.dtype | None = None) -> Tensor:
        """Mean over the set of the expectation of :meth:`batch`, of observed entries if some are missing.

        Shape:
            ``data_shape``

        Raises:
            ValueError: an entry is missing throughout.
        """
        check_observed(self.images, owner="ImageSet")
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if isinstance(self.images, Tensor) and self.missing:
            return self.images.nanmean(0, dtype=torch.float64).to(dtype)
        total = torch.float64 if self.images.is_floating_point() else torch.int64
        sums = torch.stack([part.sum(0, dtype=total) for part in chunks(self.images)]).sum(0)  # data_shape
        return (sums.double() / (len(self) * self._scale)).to(dtype)

    @property
    def _scale(self) -> int:
        return self.max_value if self.images.dtype == torch.uint8 else 1

    def _check_images(self) -> None:
        dtype, shape = self.images.dtype, f"shape={tuple(self.images.shape)}"
        right, advice = dtype in _INTEGERS or dtype.is_floating_point, "Convert with images.to(torch.uint8)"
        require(
            right,
            "ImageSet",
            "images must be uint8, floating, or counts of int32",
            f"dtype={dtype}",
            advice,
        )
        require(self.images.dim() >= 2, "ImageSet", "images must be (N, *data_shape)", shape)
        advice = "Check the file, the index or the split sizes it comes from"
        some = self.images.numel() > 0
        require(some, "ImageSet", "images must hold at least one image", f"zero-length data of {shape}", advice)

    def _check_range(self) -> None:
        value, advice = f"max_value={self.max_value}", "Pass the largest pixel"
        require(1 <= self.max_value <= 255, "ImageSet", "max_value must lie in 1..255", value, advice)
        if isinstance(self.images, LazyRows) or (self.images.dtype != torch.uint8 and not self.dynamic):
            return
        low, high = aminmax(self.images)
        rule, value = f"pixels must lie in [0, {self._scale}]", f"pixels from {low:.6g} to {high:.6g}"
        advice = "Pass the right max_value, or rescale floating data to [0, 1] before binarizing them"
        require(low >= 0 and high <= self._scale, "ImageSet", rule, value, advice)

    def _check_labels(self) -> None:
        if self.labels is None:
            advice = "Pass one class per image, or -1"
            require(not self.paired, "ImageSet", "paired requires labels", "labels=None", advice)
            return
        right = self.labels.dtype == torch.int64 and self.labels.shape == (len(self),)
        value = f"{self.labels.dtype} of shape={tuple(self.labels.shape)} on {self.labels.device}"
        advice = "Pass one integer class per image, or labels=None"
        rule = f"labels must be int64 of shape ({len(self)},) on the device of the images"
        require(right and self.labels.device == self.images.device, "ImageSet", rule, value, advice)


def fingerprint(data: object) -> str | None:
    """The fingerprint of a tensor, a tuple of these or an image set, with labels if it is paired; None of others."""
    if isinstance(data, tuple) and all(isinstance(part, Tensor) for part in data):
        data = JoinedRows(data)
    if isinstance(data, JoinedRows):
        return data.fingerprint()
    if isinstance(data, ImageSet):
        return data.fingerprint(labels=data.paired)
    return data_fingerprint("data", data) if isinstance(data, Tensor | LazyRows) else None


def _take(values: Tensor | LazyRows, index: Index) -> Tensor:
    if isinstance(values, LazyRows):
        return values.read(index)
    if not isinstance(index, Tensor):
        return values[index]
    index = index.to(values.device)
    if index.dtype != torch.int64 or index.dim() != 1:
        return values[index]
    # thirty times as fast as brackets, but without negative positions
    return values.index_select(0, torch.where(index < 0, index + len(values), index))
