"""What oras pulls of every tag: the digests of its files; and the tags that it lists."""

import hashlib
import pathlib
import sys
import tempfile

import oras.client

registry, repository, *tags = sys.argv[1:]
host = registry.split("://")[1]
client = oras.client.OrasClient(insecure=registry.startswith("http:"))
print("tags:", *sorted(client.get_tags(f"{host}/{repository}")))
for tag in tags:
    with tempfile.TemporaryDirectory() as directory:
        for file in client.pull(f"{host}/{repository}:{tag}", outdir=directory):
            print(tag, "sha256:" + hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest())
