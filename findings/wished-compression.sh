#!/usr/bin/env bash
# Layers that skopeo shall compress with zstd stay gzip, without a word, where they have been pushed as gzip before.
#
# Versions: Debian 12's skopeo 1.9.3+ds1-1+b10 (stands for containers/image 5.23, as in podman 4.3 and buildah 1.28),
#   docker-registry 2.8.2+ds1-1.
# Guess: "skopeo copy --dest-compress-format F" ends with layers of format F at the registry, or fails; what this machine
#   pushed earlier, and under which name, makes no difference.
# Seen (below; the image is the same each time, its layer is gzip at the source):
#   - as guessed for the first copy, and after one as zstd or zstd:chunked, whatever is asked for then;
#   - after one as gzip to any repository of that registry, each further one there is gzip, for zstd and zstd:chunked
#     alike. The exit code is 0;
#   - it is this machine's memory that does it (blob-info-cache in /var/lib/containers/cache): without that file another
#     repository gets what was asked for. The same repository gets gzip all the same, since the layer is there.
# Why it matters: who publishes an image as gzip and then, under a second tag, as zstd or zstd:chunked for quick pulls,
#   publishes gzip twice, and looks in vain for the fault at the registry, the mirror or the client that will not pull in
#   parts. Push zstd first, and look at the media types afterwards; newer skopeo (pull request 2682, 2025) can be forced.
set -euo pipefail
tmp=$(mktemp -d)
trap 'kill $(cat "$tmp/registry.pid") 2>/dev/null || true; rm -rf "$tmp"' EXIT
cd "$tmp"
apt-get update -qq
missing=$(apt-get install -s --no-install-recommends skopeo='1.9.3+ds1-1+b10' docker-registry='2.8.2+ds1-1' | awk '/^Inst/ { print $2 }')
# shellcheck disable=SC2086 # a list of words, with all that they need; none where they are installed
[ -z "$missing" ] || apt-get download -qq -o APT::Sandbox::User=root $missing
for deb in *.deb; do [ ! -e "$deb" ] || dpkg -x "$deb" root; done
export PATH="$tmp/root/usr/bin:$PATH" LD_LIBRARY_PATH="$tmp/root/usr/lib/x86_64-linux-gnu" HOME="$tmp"
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >policy.json

cat >compression.py <<'PY'
import gzip, hashlib, io, json, os, random, shutil, socket, subprocess, tarfile, time, urllib.request
def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()
tar = io.BytesIO()
with tarfile.open(fileobj=tar, mode="w") as archive:
    file = tarfile.TarInfo("file")
    file.size = 100_000
    archive.addfile(file, io.BytesIO(random.Random(1).randbytes(file.size)))
oci = "application/vnd.oci.image."
def descriptor(kind, content):
    with open("source/" + digest(content)[7:], "wb") as file:
        file.write(content)
    return {"mediaType": oci + kind, "digest": digest(content), "size": len(content)}
os.mkdir("source")
config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest(tar.getvalue())]}})
with open("source/version", "w") as file:
    file.write("Directory Transport Version: 1.1\n")
with open("source/manifest.json", "w") as file:
    json.dump({"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": descriptor("config.v1+json", config.encode()),
               "layers": [descriptor("layer.v1.tar+gzip", gzip.compress(tar.getvalue(), mtime=0))]}, file)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    host = "127.0.0.1:%d" % free.getsockname()[1]
with open("registry.yml", "w") as file:
    file.write(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {os.getcwd()}/data}}}}\nhttp: {{addr: '{host}'}}\nlog: {{level: error}}\n")
def fresh():
    forget()
    shutil.rmtree("data", ignore_errors=True)
    registry = subprocess.Popen(["docker-registry", "serve", "registry.yml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open("registry.pid", "w") as file:
        file.write(str(registry.pid))
    while socket.socket().connect_ex(("127.0.0.1", int(host.split(":")[1]))): time.sleep(0.05)
    return registry
def forget():
    shutil.rmtree("/var/lib/containers/cache", ignore_errors=True)
def copy(form, name):
    subprocess.run(["skopeo", "--policy", "policy.json", "copy", "-q", "--dest-tls-verify=false", "--dest-compress-format", form,
                    "dir:source", f"docker://{host}/{name}"], check=True)
def format_of(name):
    request = urllib.request.Request(f"http://{host}/v2/{name.replace(':', '/manifests/')}", headers={"Accept": oci + "manifest.v1+json"})
    layer, = json.load(urllib.request.urlopen(request))["layers"]
    return layer["mediaType"].rsplit("+", 1)[1] + (":chunked" if layer.get("annotations") else "")
def told(first, wish, got, where=""):
    print(f"first {first}, then {wish}{where}: {got}{'' if got == wish else '  NOT AS ASKED'}", flush=True)
for first in ("nothing", "gzip", "zstd", "zstd:chunked"):
    for wish in ("gzip", "zstd", "zstd:chunked"):
        registry = fresh()
        if first != "nothing":
            copy(first, "a/first:1")
        copy(wish, "a/second:1")
        told(first, wish, format_of("a/second:1"))
        if first == "gzip" and wish != "gzip":
            forget()
            copy(wish, "a/third:1")
            told(first, wish, format_of("a/third:1"), ", cache removed")
            forget()
            copy(wish, "a/first:2")
            told(first, wish, format_of("a/first:2"), ", cache removed, the same repository")
        registry.terminate()
        registry.wait()
PY
# A machine of its own, as far as that cache is concerned.
unshare --mount sh -c 'mkdir -p /var/lib/containers && mount -t tmpfs none /var/lib/containers && python3 compression.py' >seen
cat seen
diff - seen <<'SEEN'
first nothing, then gzip: gzip
first nothing, then zstd: zstd
first nothing, then zstd:chunked: zstd:chunked
first gzip, then gzip: gzip
first gzip, then zstd: gzip  NOT AS ASKED
first gzip, then zstd, cache removed: zstd
first gzip, then zstd, cache removed, the same repository: gzip  NOT AS ASKED
first gzip, then zstd:chunked: gzip  NOT AS ASKED
first gzip, then zstd:chunked, cache removed: zstd:chunked
first gzip, then zstd:chunked, cache removed, the same repository: gzip  NOT AS ASKED
first zstd, then gzip: gzip
first zstd, then zstd: zstd
first zstd, then zstd:chunked: zstd:chunked
first zstd:chunked, then gzip: gzip
first zstd:chunked, then zstd: zstd
first zstd:chunked, then zstd:chunked: zstd:chunked
SEEN
