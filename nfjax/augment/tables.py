"""Which operations the policies are made of, how likely and how strong: what the papers and timm publish."""

Steps = tuple[tuple[str, float, float], ...]

RAND_OPS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast",
    "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
)  # fmt: skip
_GROWING = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
RAND_INCREASING_OPS = tuple(f"{name}Increasing" if name in _GROWING else name for name in RAND_OPS)

# Further sets of RandAugment; a dict gives relative weights. "3aw" and "weights" are timm's own.
RAND_SETS: dict[str, tuple[str, ...] | dict[str, float]] = {
    "3a": ("SolarizeIncreasing", "Desaturate", "GaussianBlur"),
    "3aw": {
        "SolarizeIncreasing": 6, "Desaturate": 6, "GaussianBlur": 6, "Rotate": 3, "ShearX": 2, "ShearY": 2,
        "PosterizeIncreasing": 1, "AutoContrast": 1, "ColorIncreasing": 1, "SharpnessIncreasing": 1,
        "ContrastIncreasing": 1, "BrightnessIncreasing": 1, "Equalize": 1, "Invert": 1,
    },
    "weights": {
        "Rotate": 3, "ShearX": 2, "ShearY": 2, "TranslateXRel": 1, "TranslateYRel": 1, "ColorIncreasing": 0.25,
        "SharpnessIncreasing": 0.25, "AutoContrast": 0.25, "SolarizeIncreasing": 0.05, "SolarizeAdd": 0.05,
        "ContrastIncreasing": 0.05, "BrightnessIncreasing": 0.05, "Equalize": 0.05, "PosterizeIncreasing": 0.05,
        "Invert": 0.05,
    },
}  # fmt: skip

# 1912.02781 has neither colour, contrast, brightness nor sharpness; timm does.
AUGMIX_OPS = (
    "AutoContrast", "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing", "Equalize",
    "Rotate", "PosterizeIncreasing", "SolarizeIncreasing", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
)  # fmt: skip

# Operation, probability, magnitude, and what follows it. 1805.09501, table 9 of the appendix.
_ORIGINAL = """
PosterizeOriginal 0.4 8, Rotate 0.6 9 | Solarize 0.6 5, AutoContrast 0.6 5
Equalize 0.8 8, Equalize 0.6 3        | PosterizeOriginal 0.6 7, PosterizeOriginal 0.6 6
Equalize 0.4 7, Solarize 0.2 4        | Equalize 0.4 4, Rotate 0.8 8
Solarize 0.6 3, Equalize 0.6 7        | PosterizeOriginal 0.8 5, Equalize 1 2
Rotate 0.2 3, Solarize 0.6 8          | Equalize 0.6 8, PosterizeOriginal 0.4 6
Rotate 0.8 8, Color 0.4 0             | Rotate 0.4 9, Equalize 0.6 2
Equalize 0 7, Equalize 0.8 8          | Invert 0.6 4, Equalize 1 8
Color 0.6 4, Contrast 1 8             | Rotate 0.8 8, Color 1 2
Color 0.8 8, Solarize 0.8 7           | Sharpness 0.4 7, Invert 0.6 8
ShearX 0.6 5, Equalize 1 9            | Color 0.4 0, Equalize 0.6 3
Equalize 0.4 7, Solarize 0.2 4        | Solarize 0.6 5, AutoContrast 0.6 5
Invert 0.6 4, Equalize 1 8            | Color 0.6 4, Contrast 1 8
Equalize 0.8 8, Equalize 0.6 3
"""

# The policy of the TPU implementation of EfficientNet.
_V0 = """
Equalize 0.8 1, ShearY 0.8 4        | Color 0.4 9, Equalize 0.6 3
Color 0.4 1, Rotate 0.6 8           | Solarize 0.8 3, Equalize 0.4 7
Solarize 0.4 2, Solarize 0.6 2      | Color 0.2 0, Equalize 0.8 8
Equalize 0.4 8, SolarizeAdd 0.8 3   | ShearX 0.2 9, Rotate 0.6 8
Color 0.6 1, Equalize 1 2           | Invert 0.4 9, Rotate 0.6 0
Equalize 1 9, ShearY 0.6 3          | Color 0.4 7, Equalize 0.6 0
Posterize 0.4 6, AutoContrast 0.4 7 | Solarize 0.6 8, Color 0.6 9
Solarize 0.2 4, Rotate 0.8 9        | Rotate 1 7, TranslateYRel 0.8 9
ShearX 0 0, Solarize 0.8 4          | ShearY 0.8 0, Color 0.6 4
Color 1 0, Rotate 0.6 2             | Equalize 0.8 4, Equalize 0 8
Equalize 1 4, AutoContrast 0.6 2    | ShearY 0.4 7, SolarizeAdd 0.6 7
Posterize 0.8 2, Solarize 0.6 10    | Solarize 0.6 8, Equalize 0.6 1
Color 0.8 6, Rotate 0.4 5
"""

_THREE = "Solarize 1 5 | Desaturate 1 10 | GaussianBlurRand 1 10"  # DeiT III (2204.07118)


def _steps(text: str, posterize: str = "") -> tuple[Steps, ...]:
    """A table as sequences of steps, with another way of posterising if one is given."""
    sequences = []
    for sequence in text.strip().replace("\n", "|").split("|"):
        steps = [step.split() for step in sequence.split(",")]
        names = [posterize if posterize and name.startswith("Posterize") else name for name, _, _ in steps]
        sequences.append(tuple((name, float(p), float(m)) for name, (_, p, m) in zip(names, steps, strict=True)))
    return tuple(sequences)


# With an r, posterising takes away more as the magnitude grows.
AUTO_POLICIES = {
    "original": _steps(_ORIGINAL),
    "originalr": _steps(_ORIGINAL, "PosterizeIncreasing"),
    "v0": _steps(_V0),
    "v0r": _steps(_V0, "PosterizeIncreasing"),
    "3a": _steps(_THREE),
}
