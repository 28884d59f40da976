#!/usr/bin/env bash
# Varnish before a registry: two ranges in one request are 416, and 503 where Varnish is told to keep out of it.
#
# Versions: Debian 12's varnish 7.1.1-2+deb12u1. The registry is a plain Python server that knows several ranges.
# Guess: what Varnish cannot do with a Range it leaves out, as HTTP allows: two ranges are answered by the whole blob
#   (200), or handed to the registry. With return (pass) the registry's answer comes through as it is.
# Seen (below):
#   - with the default rules one range is 206, two are 416 "Range Not Satisfiable" with the blob's right length, though
#     both lie within it. The registry sees one GET without a Range, for the whole blob; a HEAD becomes such a GET too;
#   - with return (pass) the two ranges reach the registry, and its right answer (206, multipart/byteranges, which has
#     no Content-Range of its own) becomes 503 "Backend fetch failed"; one range and HEAD are right;
#   - only return (pipe) lets it through.
# Why it matters: podman's partial pulls (zstd:chunked) ask for many ranges in one request. After a 416 they fetch the
#   whole layer, in silence, and a 503 looks like a mirror that is down. Before a registry or a mirror write
#   "if (req.http.Range ~ ",") { return (pipe); }", and pass HEAD, or each check of a cold blob moves all of it.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
apt-get update -qq
# shellcheck disable=SC2046 # what is missing, with all that it needs
apt-get download -qq -o APT::Sandbox::User=root $(apt-get install -s --no-install-recommends \
    varnish='7.1.1-2+deb12u1' | awk '/^Inst/ { print $2 }')
for deb in *.deb; do dpkg -x "$deb" root; done
lib=$tmp/root/usr/lib/x86_64-linux-gnu
export PATH="$tmp/root/usr/sbin:$PATH" LD_LIBRARY_PATH="$lib:$lib/varnish"

cat >ranges.py <<'PY'
import http.client, http.server, os, socket, subprocess, sys, threading, time
blob = bytes(range(250)) * 4
asked = []
class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        wanted = self.headers["Range"]
        asked.append(f"{self.command} {wanted}")
        body, status, headers = blob, 200, {}
        if wanted:
            ranges = [tuple(map(int, part.split("-"))) for part in wanted[6:].split(",")]
            line = lambda first, last: f"bytes {first}-{last}/{len(blob)}"
            status, body = 206, b"".join(blob[first:last + 1] for first, last in ranges)
            headers = {"Content-Range": line(*ranges[0])}
            if len(ranges) > 1:
                parts = [b"--cut\r\nContent-Range: %s\r\n\r\n%s\r\n" % (line(a, b).encode(), blob[a:b + 1]) for a, b in ranges]
                body, headers = b"".join(parts) + b"--cut--\r\n", {"Content-Type": "multipart/byteranges; boundary=cut"}
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body)), "Accept-Ranges": "bytes"}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
    do_HEAD = do_GET
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
server.handle_error = lambda *_: None
threading.Thread(target=server.serve_forever, daemon=True).start()
port = int(sys.argv[1])
def ask(rule, method, path, ranges=None):
    del asked[:]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Range": ranges} if ranges else {})
    answer = connection.getresponse()
    kind = (answer.getheader("Content-Type") or "no type").split(";")[0]
    print(f"{rule}: {method} {path} {ranges} -> {answer.status} {kind}, {answer.getheader('Content-Range')}; registry: {', '.join(asked)}")
    connection.close()
for rule in "default", "pass", "pipe":
    vcl = os.path.abspath(rule + ".vcl")
    with open(vcl, "w") as file:
        file.write('vcl 4.1; backend default { .host = "127.0.0.1"; .port = "%d"; }' % server.server_port)
        if rule != "default":
            file.write("sub vcl_recv { return (%s); }" % rule)
    varnish = subprocess.Popen(["varnishd", "-F", "-j", "none", "-n", vcl + ".work", "-a", "127.0.0.1:%d" % port, "-f", vcl],
                               stdout=subprocess.DEVNULL, stderr=open("varnish.log", "a"))
    try:
        for _ in range(100):
            time.sleep(0.2)
            if socket.socket().connect_ex(("127.0.0.1", port)) == 0: break
        ask(rule, "HEAD", "/v2/a/blobs/one")
        ask(rule, "GET", "/v2/a/blobs/two", "bytes=2-5")
        ask(rule, "GET", "/v2/a/blobs/three", "bytes=2-5,10-12")
    finally:
        varnish.terminate()
        varnish.wait()
PY
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
python3 ranges.py "$port" >seen || { cat varnish.log; exit 1; }
cat seen
diff - seen <<'SEEN'
default: HEAD /v2/a/blobs/one None -> 200 no type, None; registry: GET None
default: GET /v2/a/blobs/two bytes=2-5 -> 206 no type, bytes 2-5/1000; registry: GET None
default: GET /v2/a/blobs/three bytes=2-5,10-12 -> 416 no type, bytes */1000; registry: GET None
pass: HEAD /v2/a/blobs/one None -> 200 no type, None; registry: HEAD None
pass: GET /v2/a/blobs/two bytes=2-5 -> 206 no type, bytes 2-5/1000; registry: GET bytes=2-5
pass: GET /v2/a/blobs/three bytes=2-5,10-12 -> 503 text/html, None; registry: GET bytes=2-5,10-12
pipe: HEAD /v2/a/blobs/one None -> 200 no type, None; registry: HEAD None
pipe: GET /v2/a/blobs/two bytes=2-5 -> 206 no type, bytes 2-5/1000; registry: GET bytes=2-5
pipe: GET /v2/a/blobs/three bytes=2-5,10-12 -> 206 multipart/byteranges, None; registry: GET bytes=2-5,10-12
SEEN
