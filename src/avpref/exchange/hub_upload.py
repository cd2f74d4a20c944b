"""Upload of an exported folder to a hub, with huggingface_hub. Nothing else of the product uploads anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from avpref.errors import AvprefError

RepoType = Literal["dataset", "model"]


@dataclass(frozen=True)
class HubTarget:
    """A repository of a hub: its id (``owner/name``), and whether it is private if it is created now."""

    repo_id: str
    repo_type: RepoType
    is_private: bool = True


def upload(folder: Path, target: HubTarget) -> str:
    """Upload the files of ``folder`` as one commit; the repository is created unless it exists. Returns the commit's URL.

    The hub and the token are those of huggingface_hub (``HF_ENDPOINT``, ``HF_TOKEN``, ``hf auth login``). Raises AvprefError where
    the hub refuses or does not answer; the folder stays as it is.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(target.repo_id, repo_type=target.repo_type, private=target.is_private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=target.repo_id, repo_type=target.repo_type, folder_path=folder, commit_message="Upload with avpref"
        )
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, httpx.HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        again = f"hf upload {target.repo_id} {folder} --repo-type {target.repo_type}"
        fix = f"hf auth login, or correct the repository's name; then: {again}"
        raise AvprefError(
            f"{folder} was not uploaded to {target.repo_id}: {reason}", "a hub that accepts the upload", fix
        ) from error
    return str(commit.commit_url)
