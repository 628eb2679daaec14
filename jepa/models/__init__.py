"""Plain nn.Modules: encoder, predictors and what they are made of."""

import torch  # noqa: F401  first: at the end of its import it asks for the next line's module itself

from jepa.torchvision_ops import declare_missing_operators

declare_missing_operators()  # before the first `import timm`, also where torch loads no entry points
