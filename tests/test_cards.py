from synthaug.cards import dataset_card, model_card

DATASET = {
    "name": "pleural_effusion-0123abcd",
    "counts": {"pleural_effusion": 16},
    "plan": [{"labels": {"pleural_effusion": 1.0}, "count": 16, "prompt": "chest radiograph: a | b"}],
    "image_size": 256,
    "seed": 0,
    "checkpoint": {"name": "embedded", "sha256": "ab12"},
    "negative_prompt": None,
    "command": "synthaug generate --label pleural_effusion",
    "limits": ["Small."],
    "data_terms": "Inherited from NIH.",
    "attribution": ["NIH Clinical Center"],
    "versions": {"torch": "2"},
}


def test_a_data_set_card_says_what_it_must():
    card = dataset_card(DATASET)
    for text in (
        "# pleural_effusion-0123abcd",
        "SYNTHETIC",
        "Not for diagnosis",
        "- pleural effusion (`pleural_effusion`): 16",
        "| 16 | pleural_effusion 1 | chest radiograph: a \\| b |",
        "| image size | 256 |",
        "| seed | 0 |",
        "| checkpoint sha256 | ab12 |",
        "synthaug generate --label pleural_effusion",
        "- Small.",
        "- Inherited from NIH.",
        "- NIH Clinical Center",
        "| torch | 2 |",
    ):
        assert text in card, text
    assert "negative prompt" not in card
    assert card.endswith("\n") and not card.endswith("\n\n")


def test_a_card_is_deterministic_and_leaves_out_what_is_unknown():
    assert dataset_card(DATASET) == dataset_card(dict(DATASET))
    bare = dataset_card({})
    assert "SYNTHETIC" in bare and "## Plan" not in bare and "## Versions" not in bare
    assert "None" not in bare + model_card({})


def test_a_model_card_lists_training_figures_and_attribution():
    card = model_card(
        {
            "name": "embedded",
            "description": "A small latent diffusion model.",
            "findings": ["no_finding", "pleural_effusion"],
            "recipe": "embedded",
            "duration": "20 minutes on one GPU",
            "figures": {"label_fidelity": {"value": 0.91234567, "n": 400}},
            "limits": ["Small data."],
            "attribution": ["Wang et al., CVPR 2017"],
            "license": "Apache-2.0",
        }
    )
    for text in (
        "# embedded",
        "Not for diagnosis",
        "- no finding (`no_finding`)",
        "| duration | 20 minutes on one GPU |",
        "| label fidelity value | 0.912346 |",
        "| label fidelity n | 400 |",
        "## Attribution\n\n- Wang et al., CVPR 2017",
        "## License\n\nApache-2.0",
    ):
        assert text in card, text
    assert card.startswith("---\nlicense: apache-2.0\ntags:")
    assert "license:" not in model_card({"license": "as agreed with the hospital"}).partition("# ")[0]
