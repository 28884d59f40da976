#!/usr/bin/env bash
# Debian 12's skopeo offers sigstore signatures and has none: it pushes first and refuses then.
#
# Versions: Debian 12's skopeo 1.9.3+ds1-1+b10 and docker-registry 2.8.2+ds1-1.
# Guess: skopeo has --sign-by-sigstore-private-key, so it signs; where it does not, it says so before it does anything.
#   A policy of type sigstoreSigned is checked, or refused when the policy is read.
# Seen (below): Debian builds it without the sigstore code ("Debian-local change: sigstore disabled") and leaves flag,
#   help text and policy type in place. A push that is to be signed ends with exit code 1 AFTER the manifest: the tag is
#   there, unsigned. A policy that asks for a signature is read without a word, and then no image passes: the signature
#   is fetched and not looked at (a right one, made by hand, ended alike); where registries.d does not switch
#   signatures on, the words are those of a missing signature.
# Why it matters: the flag in the help text proves nothing, and a pipeline that stops at the error has published all the
#   same. Whoever tests signatures beside a mirror on Debian 12 cannot take skopeo, or podman built from the same
#   library, as the judge.
set -euo pipefail
tmp=$(mktemp -d)
trap 'kill "${registry:-}" 2>/dev/null || true; rm -rf "$tmp"' EXIT
cd "$tmp"
apt-get update -qq
missing=$(apt-get install -s --no-install-recommends skopeo='1.9.3+ds1-1+b10' docker-registry='2.8.2+ds1-1' | awk '/^Inst/ { print $2 }')
# shellcheck disable=SC2086 # a list of words, with all that they need; none where they are installed
[ -z "$missing" ] || apt-get download -qq -o APT::Sandbox::User=root $missing
for deb in *.deb; do [ ! -e "$deb" ] || dpkg -x "$deb" root; done
export PATH="$tmp/root/usr/bin:$PATH" LD_LIBRARY_PATH="$tmp/root/usr/lib/x86_64-linux-gnu"

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
printf 'version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s/store}}\nhttp: {addr: "127.0.0.1:%s"}\n' \
    "$tmp" "$port" >registry.yml
docker-registry serve registry.yml >registry.log 2>&1 &
registry=$!
for _ in $(seq 50); do python3 -c "import socket; socket.create_connection(('127.0.0.1', $port))" 2>/dev/null && break; sleep 0.1; done

# An image without layers, and a manifest in the place and form of a signature for it.
cat >make.py <<'PY'
import hashlib, json, os
OCI = "application/vnd.oci.image."
def image(folder, payload=None):
    blobs = [json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()]
    layers = []
    describe = lambda data, kind: {"mediaType": kind, "digest": "sha256:" + hashlib.sha256(data).hexdigest(), "size": len(data)}
    if payload:
        blobs.append(payload)
        layers.append(describe(payload, "application/vnd.dev.cosign.simplesigning.v1+json"))
        layers[0]["annotations"] = {"dev.cosignproject.cosign/signature": "bm9uZQ=="}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json",
                           "config": describe(blobs[0], OCI + "config.v1+json"), "layers": layers}).encode()
    os.mkdir(folder)
    names = [("manifest.json", manifest), ("version", b"Directory Transport Version: 1.1\n")]
    for name, data in names + [(hashlib.sha256(blob).hexdigest(), blob) for blob in blobs]:
        open(os.path.join(folder, name), "wb").write(data)
    return hashlib.sha256(manifest).hexdigest()
print("sha256-%s.sig" % image("app"))
image("signature", b'{"critical": {}, "optional": null}')
PY
repository=127.0.0.1:$port/team/app
tag=$(python3 make.py)
echo "docker: {\"$repository\": {use-sigstore-attachments: true}}" >on.yaml
mkdir on off && mv on.yaml on/
touch registries.conf key key.pub passphrase
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >any.json
echo '{"default": [{"type": "sigstoreSigned", "keyPath": "key.pub", "signedIdentity": {"type": "matchRepository"}}]}' >signed.json
copy() {
    local code=0
    skopeo --registries-conf registries.conf "$@" >copy.log 2>&1 || code=$?
    sed -n 's/.*msg="\(.*\)"/\1/p' copy.log
    echo "exit code $code"
}
tags() { python3 -c "import urllib.request as r; print(r.urlopen('http://127.0.0.1:$port/v2/team/app/tags/list').read().decode().strip())"; }
{
    skopeo copy --help | grep -o -- '--sign-by-sigstore-private-key.*' | tr -s ' '
    echo 'push, to be signed:'
    copy --policy any.json --registries.d on copy --dest-tls-verify=false --sign-by-sigstore-private-key key \
        --sign-passphrase-file passphrase dir:app "docker://$repository:1"
    tags
    echo 'pull under a policy, with a signature beside the image:'
    copy --policy any.json copy --dest-tls-verify=false dir:signature "docker://$repository:$tag"
    copy --policy signed.json --registries.d on copy --src-tls-verify=false "docker://$repository:1" dir:on.out
    copy --policy signed.json --registries.d off copy --src-tls-verify=false "docker://$repository:1" dir:off.out
} >seen
cat seen
diff - seen <<'SEEN'
--sign-by-sigstore-private-key PATH Sign the image using a sigstore private key at PATH
push, to be signed:
creating signature: Debian-local change: sigstore disabled
exit code 1
{"name":"team/app","tags":["1"]}
pull under a policy, with a signature beside the image:
exit code 0
Source image rejected: Debian-local change: sigstore disabled
exit code 1
Source image rejected: A signature was required, but no signature exists
exit code 1
SEEN
