#!/usr/bin/env bash
# A layer whose transfer breaks off once: one client keeps the half of it, and never asks again.
#
# Versions: Debian 12's charliecloud 0.31-1 (with its python3-requests 2.28.1 and python3-urllib3 1.26.12) and skopeo
#   1.9.3+ds1-1+b10; PyPI oras 0.2.43, python-dxf 12.1.1, azure-containerregistry 1.2.0, drclient 0.0.7 (requests 2.34.2,
#   urllib3 2.8.0).
# Guess: each fails in the pull in which the connection is lost, or asks again by itself; the next pull fetches the layer
#   once more and is right.
# Seen (below; the layer is cut at its half once, then the registry is well):
#   - none asks again by itself;
#   - ch-image writes what comes straight to where its download cache looks for it. The pull fails while it unpacks, and
#     so does each later one, without a request for the layer, until the cache is emptied by hand; with a length stated
#     by the registry, which its urllib3 does not compare, as in chunks, where it sees that the end is missing;
#   - all others fail once and are right the next time.
# Why it matters: to break off is the one way in which a registry or a mirror can still say "this is not it" after the
#   header of a layer has been sent. On a cluster with Charliecloud one such moment lasts until a person runs "ch-image
#   reset". A mirror should rather go on from upstream where it stopped than cut, and who sees a Charliecloud fail
#   again and again while others pull should look there first.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
export PATH="$tmp/root/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin"
apt-get update -qq
missing=$(apt-get install -s --no-install-recommends charliecloud='0.31-1' skopeo='1.9.3+ds1-1+b10' |
    awk '/^Inst/ { print $2 }')
# shellcheck disable=SC2086 # a list of words, with all that it needs; none where it is installed
[ -z "$missing" ] || apt-get download -qq -o APT::Sandbox::User=root $missing
for deb in *.deb; do [ ! -e "$deb" ] || dpkg -x "$deb" root; done
export LD_LIBRARY_PATH="$tmp/root/usr/lib/x86_64-linux-gnu"
python3 -m venv py
py/bin/pip install -q oras==0.2.43 python-dxf==12.1.1 azure-containerregistry==1.2.0 drclient==0.0.7 requests==2.34.2 urllib3==2.8.0
for name in ca server; do openssl ecparam -genkey -name prime256v1 -noout -out $name.key; done
openssl req -x509 -new -key ca.key -subj /CN=authority -days 2 -out ca.pem
openssl req -new -key server.key -subj /CN=server -out server.csr
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out server.pem \
    -extfile <(echo subjectAltName=IP:127.0.0.1) 2>/dev/null
# These are what Python's and Go's clients read; what else the environment says is not for them.
export HOME="$tmp" USER=root REQUESTS_CA_BUNDLE="$tmp/ca.pem" SSL_CERT_FILE="$tmp/ca.pem"
unset SSL_CERT_DIR HTTP_PROXY HTTPS_PROXY http_proxy https_proxy
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >policy.json

cat >pull.py <<'PY'
import hashlib, sys
client, host, digest = sys.argv[1:]
if client == "oras":
    import oras.client
    oras.client.OrasClient().download_blob(host + "/a/b", digest, "layer")
    content = open("layer", "rb").read()
elif client == "python-dxf":
    import dxf
    content = b"".join(dxf.DXF(host, "a/b").pull_blob(digest))
elif client == "azure":
    from azure.containerregistry import ContainerRegistryClient
    registry = ContainerRegistryClient("https://" + host, audience="https://" + host)
    content = b"".join(registry.download_blob("a/b", digest))
elif client == "drclient":
    from drclient.registry import DockerRegistryClient
    registry = DockerRegistryClient(host)
    registry.authenticate()
    registry.get_manifest("a/b", "1")
    registry.get_blob(digest, ".", filename="layer")
    content = open("layer", "rb").read()
sys.exit("sha256:" + hashlib.sha256(content).hexdigest() != digest)
PY
cat >cut.py <<'PY'
import gzip, hashlib, http.server, io, json, os, random, shutil, ssl, subprocess, tarfile, threading
def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()
tar = io.BytesIO()
with tarfile.open(fileobj=tar, mode="w") as archive:
    file = tarfile.TarInfo("file")
    file.size = 1 << 20
    archive.addfile(file, io.BytesIO(random.Random(1).randbytes(file.size)))
layer = gzip.compress(tar.getvalue(), mtime=0)
config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest(tar.getvalue())]},
                     "history": [{"created_by": "test"}]}).encode()
oci = "application/vnd.oci.image."
manifest = json.dumps({"schemaVersion": 2, "mediaType": oci + "manifest.v1+json",
    "config": {"mediaType": oci + "config.v1+json", "digest": digest(config), "size": len(config)},
    "layers": [{"mediaType": oci + "layer.v1.tar+gzip", "digest": digest(layer), "size": len(layer)}]}).encode()
cut, chunked, transfers = False, False, 0
class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        global cut, transfers
        is_layer = self.path.endswith(digest(layer).replace(":", "%3A")) or self.path.endswith(digest(layer))
        content = layer if is_layer else manifest if "/manifests/" in self.path else config if "/blobs/" in self.path else b"{}"
        wanted = self.headers["Range"] if is_layer else None
        if wanted:
            first, last = wanted[6:].split("-")
            last = min(int(last or len(layer)), len(layer) - 1)
            content = layer[int(first):last + 1]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Type", oci + "manifest.v1+json" if content is manifest else "application/octet-stream")
        self.send_header("Docker-Content-Digest", digest(layer if is_layer else content))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(layer)}")
        in_chunks = is_layer and chunked and not wanted
        self.send_header(*("Transfer-Encoding", "chunked") if in_chunks else ("Content-Length", str(len(content))))
        self.end_headers()
        if self.command == "HEAD":
            return
        ends = True
        if is_layer:
            transfers += 1
            ends, cut = not cut, False
        part = content if ends else content[:len(content) // 2]
        self.wfile.write(b"%x\r\n%s\r\n%s" % (len(part), part, b"0\r\n\r\n" if ends else b"") if in_chunks else part)
        self.close_connection = not ends
    do_HEAD = do_GET
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
server.handle_error = lambda *_: None
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("server.pem", "server.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
host = "127.0.0.1:%d" % server.server_port
def ch_image():
    return subprocess.run(["ch-image", "--storage", "images", "--no-cache", "pull", "--arch", "amd64", host + "/a/b:1"], capture_output=True,
                          env=os.environ | {"PYTHONPATH": os.path.abspath("root/usr/lib/python3/dist-packages")}).returncode
def skopeo():
    shutil.rmtree("copied", ignore_errors=True)
    return subprocess.run(["skopeo", "--policy", "policy.json", "copy", f"docker://{host}/a/b:1", "dir:copied"], capture_output=True).returncode
def library(name):
    return lambda: subprocess.run(["py/bin/python", "pull.py", name, host, digest(layer)], capture_output=True).returncode
clients = {"ch-image": ch_image, "skopeo": skopeo} | {name: library(name) for name in ("oras", "python-dxf", "azure", "drclient")}
for name, pull in clients.items():
    # azure asks for ranges, and those come with a length here.
    for chunked in (False, True)[:1 if name == "azure" else 2]:
        shutil.rmtree("images", ignore_errors=True)
        seen = []
        for cut in (True, False, False):
            transfers = 0
            seen.append(f"{'FAILS' if pull() else 'right'} ({transfers} transfer{'' if transfers == 1 else 's'})")
        print(f"{name}, cut {'in chunks' if chunked else 'with a length'}: {', then '.join(seen)}", flush=True)
    # Without a cut, so that a client that cannot pull at all is not taken for one that noticed.
    shutil.rmtree("images", ignore_errors=True)
    assert pull() == 0, name
PY
python3 cut.py >seen
cat seen
diff - seen <<'SEEN'
ch-image, cut with a length: FAILS (1 transfer), then FAILS (0 transfers), then FAILS (0 transfers)
ch-image, cut in chunks: FAILS (1 transfer), then FAILS (0 transfers), then FAILS (0 transfers)
skopeo, cut with a length: FAILS (1 transfer), then right (1 transfer), then right (1 transfer)
skopeo, cut in chunks: FAILS (1 transfer), then right (1 transfer), then right (1 transfer)
oras, cut with a length: FAILS (1 transfer), then right (1 transfer), then right (1 transfer)
oras, cut in chunks: FAILS (1 transfer), then right (1 transfer), then right (1 transfer)
python-dxf, cut with a length: FAILS (1 transfer), then right (1 transfer), then right (1 transfer)
python-dxf, cut in chunks: FAILS (1 transfer), then right (1 transfer), then right (1 transfer)
azure, cut with a length: FAILS (1 transfer), then right (1 transfer), then right (1 transfer)
drclient, cut with a length: FAILS (1 transfer), then right (1 transfer), then right (1 transfer)
drclient, cut in chunks: FAILS (1 transfer), then right (1 transfer), then right (1 transfer)
SEEN
