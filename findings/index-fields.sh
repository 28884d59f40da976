#!/usr/bin/env bash
# An index whose descriptors say artifactType or data: skopeo copies another index, and says nothing.
#
# Versions: Debian 12's skopeo 1.9.3+ds1-1+b10 (stands for containers/image 5.23, as in podman 4.3 and buildah 1.28).
# Guess: "skopeo copy --all" from one OCI layout to another leaves every manifest as it is, byte by byte, since nothing
#   has to be converted; what it does not know it passes on.
# Seen (below):
#   - true of all that stands at the top of an index (artifactType, subject, annotations), of annotations, urls and a
#     platform of "unknown" in its descriptors, and of image manifests with any of these;
#   - one descriptor with artifactType or with data, and it writes another index: another digest, both fields lost, and
#     the index's own artifactType and subject lost with them. The exit code is 0, and no line says so;
#   - with --preserve-digests it refuses, since it cannot be converted, to the type that it has.
# Why it matters: the list of referrers is such an index, and so is the tag sha256-... that stands for it at registries
#   without that API. A copy of it made for a closed network or another registry has no artifact types, so that who asks
#   for signatures or SBOMs by type finds none; and a pin or a signature of the index by digest is of another one. Copy by
#   what moves bytes (a mirror, oras, regctl), or compare the digests.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
apt-get update -qq
missing=$(apt-get install -s --no-install-recommends skopeo='1.9.3+ds1-1+b10' | awk '/^Inst/ { print $2 }')
# shellcheck disable=SC2086 # a list of words, with all that it needs; none where it is installed
[ -z "$missing" ] || apt-get download -qq -o APT::Sandbox::User=root $missing
for deb in *.deb; do [ ! -e "$deb" ] || dpkg -x "$deb" root; done
export PATH="$tmp/root/usr/bin:$PATH" LD_LIBRARY_PATH="$tmp/root/usr/lib/x86_64-linux-gnu" HOME="$tmp"
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >policy.json

cat >fields.py <<'PY'
import base64, hashlib, json, os, shutil, subprocess
INDEX, MANIFEST = "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"
def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()
def descriptor(kind, content, **more):
    os.makedirs("in/blobs/sha256", exist_ok=True)
    with open("in/blobs/sha256/" + digest(content)[7:], "wb") as file:
        file.write(content)
    return {"mediaType": kind, "digest": digest(content), "size": len(content), **more}
def written(**value):
    return json.dumps({"schemaVersion": 2, **value}, indent=1).encode()
def manifest(text, **more):
    config = descriptor("application/vnd.oci.image.config.v1+json", b'{"architecture":"%s","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}' % text)
    return written(mediaType=MANIFEST, config=config, layers=[], **more)
amd64, arm64 = manifest(b"amd64"), manifest(b"arm64")
sbom = manifest(b"sbom", artifactType="application/spdx+json", subject=descriptor(MANIFEST, amd64), annotations={"a": "b"})
def image(**more):
    return descriptor(MANIFEST, amd64, platform={"architecture": "amd64", "os": "linux"}, **more)
other = descriptor(MANIFEST, arm64, platform={"architecture": "arm64", "os": "linux"})
unknown = {"architecture": "unknown", "os": "unknown"}
def index(*manifests, **more):
    return written(mediaType=INDEX, manifests=manifests, **more)
cases = {
    "plain": index(image(), other),
    "index: artifactType": index(image(), other, artifactType="application/vnd.acme"),
    "index: subject": index(image(), other, subject=descriptor(MANIFEST, sbom)),
    "index: annotations": index(image(), other, annotations={"a": "b"}),
    "descriptor: annotations": index(image(annotations={"a": "b"}), other),
    "descriptor: urls": index(image(urls=["https://registry.example/a"]), other),
    "descriptor: platform unknown": index(image(), descriptor(MANIFEST, sbom, platform=unknown)),
    "descriptor: artifactType": index(image(), descriptor(MANIFEST, sbom, platform=unknown, artifactType="application/spdx+json")),
    "descriptor: data": index(image(data=base64.b64encode(amd64).decode()), other),
    "descriptor: artifactType, index: artifactType, subject, annotations": index(
        image(), descriptor(MANIFEST, sbom, artifactType="application/spdx+json"),
        artifactType="application/vnd.acme", subject=descriptor(MANIFEST, sbom), annotations={"a": "b"}),
    "list of referrers": index(descriptor(MANIFEST, sbom, artifactType="application/spdx+json", annotations={"a": "b"})),
}
with open("in.layout", "w") as file:
    file.write('{"imageLayoutVersion": "1.0.0"}')
def fields(value):
    top = set(value) - {"schemaVersion", "mediaType", "manifests"}
    return top | {"descriptor's " + name for each in value["manifests"] for name in set(each) - {"mediaType", "digest", "size", "platform"}}
def copy(*options):
    shutil.rmtree("out", ignore_errors=True)
    done = subprocess.run(["skopeo", "--policy", "policy.json", "copy", "--all", *options, "oci:in:it", "oci:out:it"], capture_output=True, text=True)
    return done.returncode, done.stderr
shutil.copy("in.layout", "in/oci-layout")
for name, content in cases.items():
    with open("in/index.json", "w") as file:
        json.dump({"schemaVersion": 2, "manifests": [descriptor(INDEX, content, annotations={"org.opencontainers.image.ref.name": "it"})]}, file)
    code, told = copy()
    assert code == 0, told
    got = json.load(open("out/index.json"))["manifests"][0]["digest"]
    if got == digest(content):
        print(f"{name}: the same")
        continue
    lost = fields(json.loads(content)) - fields(json.load(open("out/blobs/sha256/" + got[7:])))
    warned = [line for line in told.splitlines() if "level=warn" in line]
    code, told = copy("--preserve-digests")
    refused = "to itself" if code and f'converted to type \\"{INDEX}' in told else told
    print(f"{name}: ANOTHER DIGEST, lost: {', '.join(sorted(lost))}; {len(warned)} warnings; with --preserve-digests: cannot convert it {refused}")
PY
python3 fields.py >seen
cat seen
diff - seen <<'SEEN'
plain: the same
index: artifactType: the same
index: subject: the same
index: annotations: the same
descriptor: annotations: the same
descriptor: urls: the same
descriptor: platform unknown: the same
descriptor: artifactType: ANOTHER DIGEST, lost: descriptor's artifactType; 0 warnings; with --preserve-digests: cannot convert it to itself
descriptor: data: ANOTHER DIGEST, lost: descriptor's data; 0 warnings; with --preserve-digests: cannot convert it to itself
descriptor: artifactType, index: artifactType, subject, annotations: ANOTHER DIGEST, lost: artifactType, descriptor's artifactType, subject; 0 warnings; with --preserve-digests: cannot convert it to itself
list of referrers: ANOTHER DIGEST, lost: descriptor's artifactType; 0 warnings; with --preserve-digests: cannot convert it to itself
SEEN
