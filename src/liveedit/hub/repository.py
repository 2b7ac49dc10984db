"""Repositories on the Hugging Face Hub: a folder goes there, and comes back."""

from collections.abc import Callable, Sequence
from pathlib import Path

from liveedit.errors import BadInput, StorageError

__all__ = ["download", "upload"]


def upload(
    folder: Path,
    repo: str,
    what: str,
    check: Callable[[str, Sequence[str]], None],
    *,
    private: bool,
    replaced: Sequence[str] = (),
) -> str:
    """Upload a folder as the repository ``repo``, which is made if need be; return its address.

    ``check`` gets ``repo`` and the files there, and raises :class:`BadInput` where they are
    something else; files that match ``replaced`` are deleted. Needs a token with the right to write
    (``hf auth login``). Raises :class:`StorageError` where the upload of ``what`` fails.
    """
    from huggingface_hub import HfApi

    try:
        hub = HfApi()
        found = hub.create_repo(repo, private=private, exist_ok=True)
        check(repo, hub.list_repo_files(found.repo_id))
        hub.upload_folder(
            repo_id=found.repo_id,
            folder_path=folder,
            commit_message=what[:1].upper() + what[1:],
            delete_patterns=list(replaced) or None,
        )
    except BadInput:
        raise
    except Exception as error:  # of whichever HTTP library the client uses
        reason = str(error).partition("\n")[0]
        raise StorageError(
            f"cannot upload the {what} to Hugging Face as {repo}: {reason}"
        ) from error
    return str(found)


def download(repo: str, what: str, patterns: Sequence[str]) -> Path:
    """The local copy of those files of a repository that match ``patterns``.

    Raises :class:`BadInput` where the Hub has no such repository, or cannot be reached and this
    machine has no copy.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=list(patterns)))
    except Exception:  # of whichever HTTP library the client uses
        raise BadInput(
            f"no {what} in {repo}: give a folder, or an id that Hugging Face has"
        ) from None
