"""Which file names count as videos and which as images."""

VIDEO = ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .ts .mts .m2ts .flv .wmv .asf .ogv .3gp".split()  # noqa: SIM905
IMAGE = ".jpg .jpeg .png .webp .bmp".split()  # noqa: SIM905
