"""What drclient gets of every tag: the digests of its layers, which it writes to files."""

import hashlib
import pathlib
import sys
import tempfile

from drclient.registry import DockerRegistryClient

registry, repository, *tags = sys.argv[1:]
client = DockerRegistryClient(registry)
client.authenticate()
for tag in tags:
    manifest = client.get_manifest(repository, tag, expand_config=True)
    print(tag, manifest["mediaType"], manifest["config"]["architecture"])
    with tempfile.TemporaryDirectory() as directory:
        for layer in manifest["layers"]:
            client.get_blob(layer["digest"], directory)
            file, = pathlib.Path(directory).iterdir()
            print(tag, "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest())
            file.unlink()
