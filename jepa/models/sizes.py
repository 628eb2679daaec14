"""The encoder sizes of V-JEPA 2 and 2.1 by name, all with patch 16 and tubelets of 2 (arXiv 2506.09985, §2.1)."""

from jepa.models.encoder import EncoderConfig

SIZES = {
    "vit_tiny": EncoderConfig(width=192, depth=12, heads=3),
    "vit_small": EncoderConfig(width=384, depth=12, heads=6),
    "vit_base": EncoderConfig(width=768, depth=12, heads=12),
    "vit_large": EncoderConfig(width=1024, depth=24, heads=16),
    "vit_huge": EncoderConfig(width=1280, depth=32, heads=16),
    "vit_giant": EncoderConfig(width=1408, depth=40, heads=16, mlp_ratio=48 / 11),
    "vit_giant_xformers": EncoderConfig(width=1408, depth=40, heads=22, mlp_ratio=48 / 11),
    # V-JEPA 2's code misspells the ratio's keyword and builds these two with 4 (1598.5 M); 2.1 means 64/13.
    "vit_gigantic": EncoderConfig(width=1664, depth=48, heads=16, mlp_ratio=64 / 13),
    "vit_gigantic_xformers": EncoderConfig(width=1664, depth=48, heads=26, mlp_ratio=64 / 13),
}
