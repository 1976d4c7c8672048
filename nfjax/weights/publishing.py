"""`nfjax.push_to_hub`: a model to the Hugging Face hub, as timm and nfjax load it."""

import tempfile
from pathlib import Path

import nfjax
from nfjax.models.base import ImageModel
from nfjax.models.registry import is_known
from nfjax.weights.card import FILE, MARK, PLACE, About, card, of_published
from nfjax.weights.loading import load
from nfjax.weights.names import Name, folder_of, model_folder
from nfjax.weights.saving import save

PUSHED = ("config.json", "model.safetensors", FILE, "curves.png")  # of a folder; nothing else leaves the machine


def push_to_hub(
    model: ImageModel | Name,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | None = None,
    about: About | None = None,
) -> str:
    """Publish a model: weights, config.json with the names of its classes, and a model card, in one commit.

    Then `nfjax.load("hf-hub:USER/NAME")` and `timm.create_model("hf-hub:USER/NAME", pretrained=True)` load it.

    Args:
        model: a model; or a name that `nfjax.load` takes, such as a folder that `nfjax.save` wrote or the work folder
            of a run. Of a folder the files themselves are pushed, with its README.md if that is yours.
        repo_id: "user/name"; made if there is no such repository, otherwise a commit is added to it.
        private: make it one that others do not see; an existing one stays as it is.
        revision: a branch, made if there is none; None for main.
        commit_message: None for one that says what is pushed.
        token: of the hub; None for that of `hf auth login` or HF_TOKEN.
        about: what the card says beyond what the model knows: scores, the model it was trained from, more sections.

    Returns:
        The address of the commit.

    Raises:
        port.hub.HubError: there is no token, or the hub does not take it; what happened, and what to do, in a sentence.
        ValueError: `repo_id` is no user/name; and what `nfjax.save` and `nfjax.load` raise.
    """
    from port.pushing import push  # here: huggingface_hub takes 60 ms to import

    folder = None if isinstance(model, ImageModel) else folder_of(model)
    if about is None and isinstance(model, str) and is_known(model) and folder is None:
        about = of_published(model)
    given = None if folder is None else model_folder(folder)
    loaded = model if isinstance(model, ImageModel) else load(model)
    with tempfile.TemporaryDirectory() as made:
        source = save(loaded, Path(made)) if given is None or not _is_timm(given) else given
        found = {name: source / name for name in PUSHED if (source / name).is_file()}
        text = (source / FILE).read_text("utf-8") if FILE in found and about is None else card(loaded, about or About())
        found[FILE] = Path(made, "card.md")
        found[FILE].write_text(text.replace(PLACE, f"hf-hub:{repo_id}") if MARK in text else text, encoding="utf-8")
        message = commit_message or f"{loaded.name}, by nfjax {nfjax.__version__}"
        return push(repo_id, found, message=message, private=private, revision=revision, token=token)


def _is_timm(folder: Path) -> bool:
    """Has a folder the files that are pushed, as timm has them?"""
    return (folder / "model.safetensors").is_file() and '"architecture"' in (folder / "config.json").read_text("utf-8")
