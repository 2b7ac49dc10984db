"""A Hugging Face Hub on loopback: the part of its protocol that moves files to it and back."""

import base64
import json
from contextlib import contextmanager
from hashlib import sha1

from fastapi import FastAPI, HTTPException, Request, Response
from huggingface_hub import constants

from helpers.serving import running


class Hub:
    """Repositories: the content of each file by its path, and the number of commits."""

    def __init__(self):
        self.files = {}
        self.commits = {}
        self.visibility = {}

    def repo(self, owner, name):
        """The files of a repository, and the id of its newest commit."""
        repo = f"{owner}/{name}"
        if repo not in self.files:
            raise HTTPException(404, headers={"X-Error-Code": "RepoNotFound"})
        return self.files[repo], f"{self.commits[repo]:040x}"

    def create(self, owner, name, visibility):
        """Make a repository, unless it is there."""
        repo = f"{owner}/{name}"
        self.files.setdefault(repo, {".gitattributes": b""})
        self.commits.setdefault(repo, 1)
        self.visibility.setdefault(repo, visibility)

    def commit(self, owner, name, lines):
        """Apply the lines of a commit."""
        files, _ = self.repo(owner, name)
        for line in map(json.loads, lines):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.commits[f"{owner}/{name}"] += 1


def application(hub):
    """The routes of the Hub."""
    app = FastAPI()
    repo = "/api/models/{owner}/{name}"

    @app.post("/api/repos/create")
    async def create(request: Request):
        asked = await request.json()
        hub.create(asked["organization"], asked["name"], asked.get("visibility"))
        return {"url": f"{request.base_url}{asked['organization']}/{asked['name']}"}

    @app.post("/api/validate-yaml")
    async def validate(request: Request):
        card = (await request.json())["content"]
        return {
            "errors": [] if card.startswith("---\n") else [{"message": "no metadata"}],
            "warnings": [],
        }

    @app.get(repo)
    @app.get(repo + "/revision/{revision}")
    def info(owner: str, name: str):
        files, commit = hub.repo(owner, name)
        siblings = [{"rfilename": path} for path in files]
        return {"id": f"{owner}/{name}", "sha": commit, "siblings": siblings}

    @app.get(repo + "/tree/{revision}")
    def tree(owner: str, name: str):
        files, _ = hub.repo(owner, name)
        return [
            {"type": "file", "path": path, "size": len(content), "oid": etag(content)}
            for path, content in files.items()
        ]

    @app.post(repo + "/preupload/{revision}")
    async def preupload(request: Request):
        asked = (await request.json())["files"]
        modes = [{"uploadMode": "regular", "shouldIgnore": False, **file} for file in asked]
        return {"files": modes}

    @app.post(repo + "/commit/{revision}")
    async def commit(owner: str, name: str, request: Request):
        hub.commit(owner, name, (await request.body()).splitlines())
        _, made = hub.repo(owner, name)
        return {
            "success": True,
            "commitOid": made,
            "commitUrl": f"{request.base_url}{owner}/{name}",
        }

    @app.api_route("/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    def resolve(owner: str, name: str, path: str):
        files, commit = hub.repo(owner, name)
        if path not in files:
            raise HTTPException(404, headers={"X-Error-Code": "EntryNotFound"})
        headers = {
            "ETag": f'"{etag(files[path])}"',
            constants.HUGGINGFACE_HEADER_X_REPO_COMMIT: commit,
        }
        return Response(files[path], headers=headers)

    return app


def etag(content):
    """The id of a file's content, as Git computes it."""
    return sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving(monkeypatch, cache):
    """Run a Hub that Hugging Face's client then talks to, with an empty cache."""
    hub = Hub()
    with running(application(hub)) as address:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        yield hub
