"""What azure-containerregistry gets of every tag: its type, its digest, and the digests of its blobs."""

import hashlib
import sys

from azure.containerregistry import ContainerRegistryClient

registry, repository, *tags = sys.argv[1:]
client = ContainerRegistryClient(registry, audience=registry)
for tag in tags:
    answer = client.get_manifest(repository, tag)
    print(tag, answer.media_type, answer.digest)
    manifest = answer.manifest
    if "manifests" in manifest:
        manifest = client.get_manifest(repository, manifest["manifests"][-1]["digest"]).manifest
    for descriptor in [manifest["config"], *manifest["layers"]]:
        content = b"".join(client.download_blob(repository, descriptor["digest"]))
        print(tag, "sha256:" + hashlib.sha256(content).hexdigest())
