"""Known limits of a model: of single-slice classification, and of the data set it was trained on."""

_ALWAYS = (
    "It sees one slice at a time and knows only its own classes. It assigns one of them to every image.",
    "A high probability is no guarantee, least of all for images from scanners, sequences or clinics unlike those "
    "of the training images.",
)
_SYNTHETIC = "The images are synthetic. The numbers show that the software works. They say nothing about patients."

# Measured on the Kaggle set "Brain Tumor Classification (MRI)".
_KAGGLE = (
    "The source of an image almost determines its class. All gliomas of the Training folder are dim, contrast-enhanced "
    "slices of one collection with a wide black border. The tumour-free images come from the web, and 99 % of them "
    "have other sizes. A model can score well by distinguishing collections and then fail on external data. The "
    "gliomas of the Testing folder look different: bright, tightly cropped, of several sequences, and some are CT.",
    "The published Training and Testing folders overlap. 251 of the 394 Testing images (64 %) equal a Training image "
    "pixel by pixel, among them every image without a tumour. A lookup of equal pixels, without any learning, reaches "
    "an accuracy of 78 % on that folder. No clean image is left in it to measure the recall of healthy images.",
    "Most Training images are neighbouring slices of 225 patients. A validation split by image instead of by patient "
    "is far too optimistic. The section The model says how this model's split was made.",
    "Some labels are doubtful. 14 images labelled as pituitary tumours are meningiomas in the collection they came "
    "from, and at least 5 Testing gliomas are Training meningiomas.",
)


def list_limits(*, synthetic: bool, kaggle_set: bool) -> list[str]:
    """Returns the limits of a model, one or more sentences for each.

    Args:
      synthetic: whether the model was trained on phantoms.
      kaggle_set: whether it was trained on the Kaggle set "Brain Tumor Classification (MRI)".
    """
    if synthetic:
        return [_SYNTHETIC, *_ALWAYS]
    return [*_ALWAYS, *(_KAGGLE if kaggle_set else ())]
