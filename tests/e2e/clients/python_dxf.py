"""What python-dxf gets of every tag: its digest, and for each of its platforms the digests of the layers."""

import hashlib
import sys

import dxf

registry, repository, *tags = sys.argv[1:]
client = dxf.DXF(registry.split("://")[1], repository, insecure=registry.startswith("http:"))
print("tags:", *sorted(client.list_aliases()))
for tag in tags:
    print(tag, client.head_manifest_and_response(tag)[0])
    layers = client.get_alias(tag, sizes=True)
    platforms = layers if isinstance(layers, dict) else {"one": layers}
    for platform in sorted(platforms):
        for digest, size in platforms[platform]:
            content = b"".join(client.pull_blob(digest))
            assert len(content) == size
            print(tag, platform, "sha256:" + hashlib.sha256(content).hexdigest())
