"""The networks of the QCFS and PASCAL repositories, under the names that their checkpoints use.

VGG-16, ResNet-18 and ResNet-34, and a ResNet-20 whose shortcuts are 1×1 convolutions (option B), as in
putshua/ANN_SNN_QCFS and BrainSeek-Lab/PASCAL. The names of layers are theirs, so that state dicts fit; everything else
is written anew. Their ResNets for ImageNet are those for 32×32 images: the stem does not shrink an image of 224×224
either. Their VGG-16 for ImageNet has a wider first linear layer; one of them is without batch norms, and with maximum
pooling.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """Stages that each end in a pooling by two, and three linear layers; [N, 3, H, W] -> [N, classes].

    Args:
        stages: channels of the convolutions of each stage.
        hidden: width of the two hidden linear layers.
        classes: number of classes.
        size: pixels that the stages leave of an image, in either direction: 1 of 32, 7 of 224.
        plain: without batch norms, and with maximum instead of average pooling.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[int]] = VGG16,
        hidden: int = 4096,
        classes: int = 10,
        *,
        size: int = 1,
        plain: bool = False,
    ) -> None:
        super().__init__()
        channels = 3
        for index, widths in enumerate(stages, 1):
            layers: list[nn.Module] = []
            for width in widths:
                norm = [] if plain else [nn.BatchNorm2d(width)]
                layers += [nn.Conv2d(channels, width, 3, padding=1), *norm, nn.ReLU(), nn.Dropout(0.0)]
                channels = width
            layers.append(nn.MaxPool2d(2) if plain else nn.AvgPool2d(2))
            self.add_module(f"layer{index}", nn.Sequential(*layers))
        self.classifier = nn.Sequential(
            nn.Flatten(),
            *(nn.Linear(channels * size**2, hidden), nn.ReLU(), nn.Dropout(0.0)),
            *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.0)),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


class ProjectionBlock(nn.Module):
    """Two 3×3 convolutions, and a 1×1 convolution as the shortcut where shapes change."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.residual_function = nn.Sequential(
            *_convolution(channels, out_channels, 3, stride), nn.ReLU(), *_convolution(out_channels, out_channels, 3, 1)
        )
        changes = stride != 1 or channels != out_channels
        self.shortcut = nn.Sequential(*(_convolution(channels, out_channels, 1, stride) if changes else ()))
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.residual_function(x) + self.shortcut(x))


class ProjectionResNet(nn.Module):
    """A stem without pooling, stages of residual blocks, and a linear layer; [N, 3, H, W] -> [N, classes].

    Args:
        widths: channels of each stage; every stage but the first halves the image.
        blocks: number of residual blocks of each stage.
        classes: number of classes.
    """

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], classes: int = 10) -> None:
        super().__init__()
        channels = widths[0]
        self.conv1 = nn.Sequential(*_convolution(3, channels, 3, 1), nn.ReLU())
        for stage, (width, number) in enumerate(zip(widths, blocks, strict=True)):
            strides = [1 if stage == 0 else 2] + [1] * (number - 1)
            inputs = [channels] + [width] * (number - 1)
            made = [ProjectionBlock(old, width, stride) for old, stride in zip(inputs, strides, strict=True)]
            self.add_module(f"conv{stage + 2}_x", nn.Sequential(*made))
            channels = width
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


def _convolution(channels: int, out_channels: int, size: int, stride: int) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(channels, out_channels, size, stride, padding=size // 2, bias=False)
    return conv, nn.BatchNorm2d(out_channels)


def vgg16(classes: int = 10) -> VGG:
    """For 32×32 images: 15 activations, 34 million parameters."""
    return VGG(classes=classes)


def vgg16_imagenet(classes: int = 1000) -> VGG:
    """For 224×224 images: 15 activations, 138 million parameters."""
    return VGG(classes=classes, size=7)


def vgg16_plain_imagenet(classes: int = 1000) -> VGG:
    """For 224×224 images, without batch norms: 15 activations, 138 million parameters."""
    return VGG(classes=classes, size=7, plain=True)


def resnet18(classes: int = 10) -> ProjectionResNet:
    """17 activations, 11 million parameters."""
    return ProjectionResNet((64, 128, 256, 512), (2, 2, 2, 2), classes)


def resnet34(classes: int = 10) -> ProjectionResNet:
    """33 activations, 21 million parameters."""
    return ProjectionResNet((64, 128, 256, 512), (3, 4, 6, 3), classes)


def resnet20_projection(classes: int = 10) -> ProjectionResNet:
    """19 activations, 0.27 million parameters."""
    return ProjectionResNet((16, 32, 64), (3, 3, 3), classes)
