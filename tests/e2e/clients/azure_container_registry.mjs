// What @azure/container-registry gets of every tag: its type, its digest, and the digests of its blobs.
import { ContainerRegistryContentClient } from '@azure/container-registry';
import { createHash } from 'node:crypto';

const [registry, repository, ...tags] = process.argv.slice(2);
const anybody = { getToken: async () => ({ token: 'none', expiresOnTimestamp: Date.now() + 3600000 }) };
const client = new ContainerRegistryContentClient(registry, repository, anybody, { audience: registry });
for (const tag of tags) {
	const answer = await client.getManifest(tag);
	console.log(tag, answer.mediaType, answer.digest);
	let manifest = answer.manifest;
	if (manifest.manifests) {
		manifest = (await client.getManifest(manifest.manifests.at(-1).digest)).manifest;
	}
	for (const descriptor of [manifest.config, ...manifest.layers]) {
		const hash = createHash('sha256');
		const { content } = await client.downloadBlob(descriptor.digest);
		for await (const chunk of content) {
			hash.update(chunk);
		}
		console.log(tag, `sha256:${hash.digest('hex')}`);
	}
}
