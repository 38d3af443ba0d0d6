"""What a model of single slices cannot do, and what is known to be wrong with the data it learned from."""

_ALWAYS = (
    "It sees one slice at a time and knows only its own classes. Whatever an image shows, it names one of them.",
    "A high probability is no guarantee, least of all for images from scanners, sequences or clinics unlike those "
    "of the training images.",
)
_SYNTHETIC = "The images are synthetic. The numbers show that the software works, nothing about patients."

# Measured on the Kaggle set "Brain Tumor Classification (MRI)".
_KAGGLE = (
    "The source of an image nearly gives its class away. All gliomas of the Training folder are dim, contrast-enhanced "
    "slices of one collection with a wide black border; the tumour-free images come from the web, 99 % of them in "
    "other sizes. A model can score well by telling collections apart, and then fail on images from a new place. The "
    "gliomas of the Testing folder look different: bright, tightly cropped, of several sequences, some of them CT.",
    "The published Training and Testing folders overlap: 251 of the 394 Testing images (64 %) equal a Training image "
    "pixel by pixel, among them every one without a tumour. Comparing pixels alone, with nothing learnt, reaches 78 % "
    "on that folder. So nothing clean is left there to measure how well healthy images are recognised.",
    "Most Training images are neighbouring slices of 225 patients. A validation split that separates images and not "
    "patients is too optimistic by far: see under The model how its split was made.",
    "Some labels are doubtful: 14 images filed as pituitary tumours are meningiomas in the collection they came from, "
    "and at least 5 Testing gliomas are Training meningiomas.",
)


def list_limits(*, synthetic: bool, kaggle_set: bool) -> list[str]:
    """The limits of a model, a sentence or more for each.

    Args:
      synthetic: trained on phantoms.
      kaggle_set: trained on the Kaggle set "Brain Tumor Classification (MRI)".
    """
    if synthetic:
        return [_SYNTHETIC, *_ALWAYS]
    return [*_ALWAYS, *(_KAGGLE if kaggle_set else ())]
