// What nodegistry gets of every tag: the type and digest of its manifest, and its image's architecture.
import nodegistry from 'nodegistry';

const [registry, repository, ...tags] = process.argv.slice(2);
const client = new nodegistry.registries.StandardRegistry({ request: { url: `${registry}/v2` } });
const images = client.repository(repository);
for (const tag of tags) {
	const manifest = await images.getManifest(tag);
	console.log(tag, manifest.mediaType, manifest.config.repoDigest);
	const config = await images.getConfig(manifest);
	console.log(tag, config.architecture, manifest.config.digest);
}
