from bt_jax.reports import limits


def test_every_model_knows_only_its_classes() -> None:
    for synthetic in (False, True):
        for kaggle_set in (False, True):
            points = limits.list_limits(synthetic=synthetic, kaggle_set=kaggle_set)
            assert any("knows only its own classes" in point for point in points)
            assert any("no guarantee" in point for point in points)


def test_the_faults_of_the_kaggle_set_are_told_of_models_that_learned_from_it() -> None:
    told = "\n".join(limits.list_limits(synthetic=False, kaggle_set=True))
    for fault in ("251 of the 394", "The source of an image almost determines its class", "225 patients", "14 images"):
        assert fault in told
    assert "251" not in "\n".join(limits.list_limits(synthetic=False, kaggle_set=False))


def test_of_phantoms_first_that_they_are_phantoms() -> None:
    points = limits.list_limits(synthetic=True, kaggle_set=True)
    assert points[0].startswith("The images are synthetic.")
    assert "251" not in "\n".join(points)
