#!/usr/bin/env bash
# SSL_CERT_FILE adds a private CA for some programs and takes all public CAs away from others.
#
# Versions: Debian 12's OpenSSL 3.0 (Python 3.11), curl 7.88.1, skopeo 1.9.3 (stands for Go); PyPI httpx 0.28.1
#   (its own list of public CAs is not the system's, so never P here); rustls-native-certs 0.8.5 (Rust).
# Guess: SSL_CERT_FILE and SSL_CERT_DIR mean the same to all who read them: the file takes the place of the system's
#   file; a folder is read only if its files are named by hash (openssl rehash), by Rust as by OpenSSL.
# Seen (table below; P: the system's "public" CA is trusted, C: the corporate one is):
#   - SSL_CERT_FILE=corporate.pem: OpenSSL, curl and Go trust both, since the system's folder still counts;
#     rustls-native-certs and httpx trust the corporate CA ALONE;
#   - SSL_CERT_DIR with a plain corporate.pem in it: Go and rustls-native-certs read it, OpenSSL and curl do not;
#     rustls-native-certs again trusts nothing else;
#   - both set: curl does not look at SSL_CERT_FILE any more;
#   - a file that is missing: curl fails at everything, Rust trusts nobody (with an error in its list), Python and Go go on.
# Why it matters: the line that lets dockerd and skopeo pull from a registry in the house cuts a mirror written in Rust
#   off from Docker Hub. One spelling works for all: a file with the system's CAs AND the house's, in SSL_CERT_FILE.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
apt-get update -qq
missing=$(apt-get install -s --no-install-recommends curl='7.88.1-*' openssl='3.0.*' skopeo='1.9.3+ds1-1+b10' | awk '/^Inst/ { print $2 }')
# shellcheck disable=SC2086 # a list of words, with all that they need; none where they are installed
[ -z "$missing" ] || apt-get download -qq -o APT::Sandbox::User=root $missing
for deb in *.deb; do [ ! -e "$deb" ] || dpkg -x "$deb" root; done
export PATH="$tmp/root/usr/bin:$PATH" LD_LIBRARY_PATH="$tmp/root/usr/lib/x86_64-linux-gnu"
python3 -m venv py
py/bin/pip install -q httpx==0.28.1
mkdir -p rust/src
printf '[package]\nname = "native"\nedition = "2021"\n[dependencies]\nrustls-native-certs = "=0.8.5"\n' >rust/Cargo.toml
cat >rust/src/main.rs <<'RS'
fn main() {
    let found = rustls_native_certs::load_native_certs().certs;
    let has = |name: &str| found.iter().any(|c| c.windows(name.len()).any(|w| w == name.as_bytes()));
    println!("{}{}", if has("public CA") { "P" } else { "-" }, if has("corporate CA") { "C" } else { "-" });
}
RS
cargo build -q --manifest-path rust/Cargo.toml

mkdir system flat hashed
for ca in public corporate; do
    openssl req -x509 -newkey rsa:2048 -nodes -keyout $ca.key -out $ca.pem -days 9 -subj "/CN=$ca CA"
    openssl req -newkey rsa:2048 -nodes -keyout $ca-host.key -out $ca.csr -subj "/CN=host"
    openssl x509 -req -in $ca.csr -CA $ca.pem -CAkey $ca.key -CAcreateserial -days 9 -out $ca-host.pem \
        -extfile <(echo subjectAltName=IP:127.0.0.1)
done 2>openssl.log
cp public.pem system/ca-certificates.crt
cp public.pem system/public.pem
cp corporate.pem flat/
cp corporate.pem hashed/
openssl rehash system hashed 2>>openssl.log
touch registries.conf

cat >table.py <<'PY'
import http.server, os, ssl, subprocess, threading
class Registry(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "28")
        self.end_headers()
        self.wfile.write(b'{"name": "a", "tags": ["1"]}')
    def log_message(self, *args): pass
ports = {}
for ca in "public", "corporate":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca + "-host.pem", ca + "-host.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ports[ca] = server.server_port
clean = {k: v for k, v in os.environ.items() if not k.startswith(("SSL_", "CURL_", "NODE_", "REQUESTS_"))}
programs = {
    "Python": lambda at: ["python3", "-c", f"import urllib.request as r; r.urlopen('https://{at}')"],
    "curl": lambda at: ["curl", "-sf", f"https://{at}"],
    "Go": lambda at: ["skopeo", "--registries-conf", "registries.conf", "list-tags", f"docker://{at}/a"],
    "httpx": lambda at: ["py/bin/python", "-c", f"import httpx; httpx.get('https://{at}')"],
}
here = os.getcwd()
print("SSL_CERT_FILE SSL_CERT_DIR", *programs, "rustls-native-certs")
for file, folder in [(None, None), ("corporate.pem", None), (None, "flat"), (None, "hashed"),
                     ("corporate.pem", "/etc/ssl/certs"), ("missing.pem", None)]:
    env = dict(clean)
    if file: env["SSL_CERT_FILE"] = os.path.join(here, file)
    if folder: env["SSL_CERT_DIR"] = os.path.join(here, folder)
    row = []
    for command in programs.values():
        run = lambda ca: subprocess.run(command(f"127.0.0.1:{ports[ca]}"), env=env, capture_output=True, timeout=60).returncode
        row.append("".join("-" if run(ca) else ca[0].upper() for ca in ports))
    row.append(subprocess.run(["rust/target/debug/native"], env=env, capture_output=True, text=True).stdout.strip())
    print(file or "unset", folder or "unset", *row, flush=True)
PY
# The system's CAs are replaced for these processes alone.
unshare -m sh -c 'mount --bind system /etc/ssl/certs && python3 table.py' | column -t >seen
cat seen
diff -b - seen <<'SEEN'
SSL_CERT_FILE  SSL_CERT_DIR    Python  curl  Go  httpx  rustls-native-certs
unset          unset           P-      P-    P-  --     P-
corporate.pem  unset           PC      PC    PC  -C     -C
unset          flat            P-      P-    PC  --     -C
unset          hashed          PC      PC    PC  -C     -C
corporate.pem  /etc/ssl/certs  PC      P-    PC  -C     PC
missing.pem    unset           P-      --    P-  --     --
SEEN
