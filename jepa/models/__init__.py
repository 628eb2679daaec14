"""Plain nn.Modules: encoder, predictors and what they are made of."""

from jepa.torchvision_ops import declare_missing_operators

declare_missing_operators()  # before the first `import timm`, also where torch loads no entry points
