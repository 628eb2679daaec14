"""Plain nn.Modules: encoder, predictors and what they are made of."""

from jepa.torchvision_ops import make_torchvision_importable

make_torchvision_importable()  # before the first `import timm`
