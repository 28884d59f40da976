#!/usr/bin/env bash
# hishel 2 caches against the headers unless it is told to keep to the standard: a tag that moved is not seen.
#
# Versions: PyPI hishel 2.0.0 with httpx 0.28.1; beside it requests-cache 1.3.3 and CacheControl 0.14.4 with requests 2.34.2.
# Guess: hishel, known as the implementation of the HTTP caching standard (RFC 9111) for httpx, asks again for what says
#   no-cache, stores nothing that says no-store, and keeps an index and a manifest of one tag apart by Vary: Accept.
# Seen (below; the number counts the questions that reached the registry): since version 2 the standard is an option.
#   Without it the second question is answered from the cache with no-cache, with no-store and with neither, and
#   who asks for an index gets the manifest that somebody asked for before. rfc=True brings all rules back.
#   requests-cache keeps the rules of Vary always, no-cache and no-store with cache_control=True; CacheControl keeps all.
# Why it matters: these are put before registry clients in Python to spare the pull quota. A program that was right
#   with the version before stops seeing new images and gets the wrong kind of manifest, without an error, whatever
#   the registry or the mirror writes into its headers.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv py
py/bin/pip install -q hishel==2.0.0 httpx==0.28.1 requests==2.34.2 requests-cache==1.3.3 CacheControl==0.14.4

cat >tags.py <<'PY'
import http.server, threading
import cachecontrol, hishel.httpx, requests, requests_cache
asked = []
class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        asked.append(self.path)
        kind = "index" if "index" in self.headers["Accept"] else "manifest"
        body = kind.encode() + b" %d" % asked.count(self.path)
        self.send_response(200)
        rule = self.path.split("/")[1]
        if rule == "vary":
            self.send_header("Vary", "Accept")
        self.send_header("Cache-Control", {"vary": "max-age=60", "nothing": "public"}.get(rule, rule))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
threading.Thread(target=server.serve_forever, daemon=True).start()
clients = {
    "hishel": hishel.httpx.CacheClient(),
    "hishel rfc=True": hishel.httpx.CacheClient(rfc=True),
    "requests-cache": requests_cache.CachedSession("one", backend="memory"),
    "requests-cache cache_control=True": requests_cache.CachedSession("two", backend="memory", cache_control=True),
    "CacheControl": cachecontrol.CacheControl(requests.Session()),
}
for number, (name, client) in enumerate(clients.items()):
    for rule in "no-cache", "no-store", "nothing", "vary":
        url = f"http://127.0.0.1:{server.server_port}/{rule}/{number}"
        accept = ["manifest", "index" if rule == "vary" else "manifest"]
        print(f"{name}, {rule}:", *(client.get(url, headers={"Accept": f"application/x.{kind}"}).text + ";" for kind in accept))
PY
py/bin/python tags.py >seen
cat seen
diff - seen <<'SEEN'
hishel, no-cache: manifest 1; manifest 1;
hishel, no-store: manifest 1; manifest 1;
hishel, nothing: manifest 1; manifest 1;
hishel, vary: manifest 1; manifest 1;
hishel rfc=True, no-cache: manifest 1; manifest 2;
hishel rfc=True, no-store: manifest 1; manifest 2;
hishel rfc=True, nothing: manifest 1; manifest 2;
hishel rfc=True, vary: manifest 1; index 2;
requests-cache, no-cache: manifest 1; manifest 1;
requests-cache, no-store: manifest 1; manifest 1;
requests-cache, nothing: manifest 1; manifest 1;
requests-cache, vary: manifest 1; index 2;
requests-cache cache_control=True, no-cache: manifest 1; manifest 2;
requests-cache cache_control=True, no-store: manifest 1; manifest 2;
requests-cache cache_control=True, nothing: manifest 1; manifest 1;
requests-cache cache_control=True, vary: manifest 1; index 2;
CacheControl, no-cache: manifest 1; manifest 2;
CacheControl, no-store: manifest 1; manifest 2;
CacheControl, nothing: manifest 1; manifest 2;
CacheControl, vary: manifest 1; index 2;
SEEN
