"""What registry-api-v2-client gets: whether it is a registry, its tags, and the digest and image of every tag."""

import asyncio
import sys

import registry_api_v2_client as client


async def main(registry, repository, *tags):
    await client.check_registry_connectivity(registry)
    print("tags:", *sorted(await client.list_tags(registry, repository)))
    for tag in tags:
        image = await client.get_image_info(registry, repository, tag)
        print(tag, image["digest"], image["architecture"], image["manifest"]["config"]["digest"])


asyncio.run(main(*sys.argv[1:]))
