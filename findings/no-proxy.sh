#!/usr/bin/env bash
# NO_PROXY for a registry with a port: half of the programs never match it, and only one spelling works in all.
#
# Versions: Debian 12's curl 7.88.1, wget 1.21.3, skopeo 1.9.3 (stands for Go); PyPI requests 2.34.2, httpx 0.28.1,
#   aiohttp 3.14.5; npm axios 1.21.1, undici 7.30.2, make-fetch-happen 15.0.6 (npm's own).
# Guess: host:port works in all but wget and curl; a leading dot means "the domain and all below it" everywhere;
#   a network (CIDR) works in curl, Go and requests alone; a star means everything.
# Seen (table below; "-" goes direct, "proxy" goes to the proxy):
#   - host:port, the very name by which images are pulled, is unknown to curl, wget, aiohttp and npm's client;
#   - a leading dot leaves the bare domain to the proxy in wget, Go, httpx and axios, and not in the six others;
#   - axios knows networks, but not names below a plain name; aiohttp and httpx know no networks, undici neither;
#   - "*.domain" works in Go, axios and undici alone, and a star that is not alone in Go, httpx and axios alone;
#   - one spelling works in all: the plain name of the host itself, or one address, without port, dot or star.
# Why it matters: on one machine some programs reach a mirror in the house and others send its pulls to the proxy,
#   which answers 403 or 502. Write the plain name of each host (or its address), never host:port alone.
#   hyper-util (Rust, read and not run) takes networks and leading dots as curl does, and no ports.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
apt-get update -qq
missing=$(apt-get install -s --no-install-recommends curl='7.88.1-*' wget='1.21.3-*' skopeo='1.9.3+ds1-1+b10' iproute2 | awk '/^Inst/ { print $2 }')
# shellcheck disable=SC2086 # a list of words, with all that they need; none where they are installed
[ -z "$missing" ] || apt-get download -qq -o APT::Sandbox::User=root $missing
for deb in *.deb; do [ ! -e "$deb" ] || dpkg -x "$deb" root; done
export PATH="$tmp/root/usr/bin:$tmp/root/usr/sbin:$tmp/root/sbin:$PATH" LD_LIBRARY_PATH="$tmp/root/usr/lib/x86_64-linux-gnu"
python3 -m venv py
py/bin/pip install -q requests==2.34.2 httpx==0.28.1 aiohttp==3.14.5
npm install --silent --no-fund --no-audit axios@1.21.1 undici@7.30.2 make-fetch-happen@15.0.6
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >policy.json
touch registries.conf

cat >table.py <<'PY'
import http.server, os, subprocess, threading
asked = []
class Proxy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked.append(self.path)
        self.send_error(502)
    do_HEAD = do_CONNECT = do_GET
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
threading.Thread(target=server.serve_forever, daemon=True).start()
python = lambda code: lambda url: ["py/bin/python", "-c", code % url]
node = lambda code: lambda url: ["node", "-e", "(async () => { %s })().catch(() => 0)" % (code % url)]
programs = {
    "curl": lambda url: ["curl", "-sm5", url],
    "wget": lambda url: ["wget", "-qO-", "-T3", "-t1", url],
    "Go": lambda url: ["skopeo", "--policy", "policy.json", "--registries-conf", "registries.conf", "list-tags",
                       "--tls-verify=false", "docker://%sa" % url[7:]],
    "requests": python("import requests; requests.get('%s', timeout=3)"),
    "httpx": python("import httpx; httpx.get('%s', timeout=3)"),
    "urllib": python("import urllib.request as r; r.urlopen('%s', timeout=3)"),
    "aiohttp": python("import aiohttp, asyncio\nasync def f():\n async with aiohttp.ClientSession(trust_env=True) as s:\n"
                      "  await s.get('%s', timeout=aiohttp.ClientTimeout(3))\nasyncio.run(f())"),
    "axios": node("await require('axios').get('%s', { timeout: 3000 })"),
    "undici": node("const u = require('undici'); await u.request('%s', { dispatcher: new u.EnvHttpProxyAgent() })"),
    "npm's": node("await require('make-fetch-happen')('%s', { retry: { retries: 0 } })"),
}
print("NO_PROXY asked-for", *programs)
for no_proxy, url in [("reg.test", "http://reg.test:5000/"), ("reg.test:5000", "http://reg.test:5000/"),
                      (".reg.test", "http://reg.test/"), ("reg.test", "http://sub.reg.test/"),
                      ("*.reg.test", "http://sub.reg.test/"), ("x,*", "http://reg.test/"),
                      ("198.51.100.7", "http://198.51.100.7/"), ("198.51.100.0/24", "http://198.51.100.7/")]:
    env = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    env |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:%d" % server.server_port)
    env |= {"no_proxy": no_proxy, "NO_PROXY": no_proxy}
    row = []
    for command in programs.values():
        asked.clear()
        subprocess.run(command(url), env=env, capture_output=True, timeout=60)
        row.append("proxy" if asked else "-")
    print(no_proxy, url[7:], *row)
PY
# In a network of its own, so that nothing leaves the machine.
unshare -n sh -c 'ip link set lo up && python3 table.py' | column -t >seen
cat seen
diff -b - seen <<'SEEN'
NO_PROXY         asked-for       curl   wget   Go     requests  httpx  urllib  aiohttp  axios  undici  npm's
reg.test         reg.test:5000/  -      -      -      -         -      -       -        -      -       -
reg.test:5000    reg.test:5000/  proxy  proxy  -      -         -      -       proxy    -      -       proxy
.reg.test        reg.test/       -      proxy  proxy  -         proxy  -       -        proxy  -       -
reg.test         sub.reg.test/   -      -      -      -         -      -       -        proxy  -       -
*.reg.test       sub.reg.test/   proxy  proxy  -      proxy     proxy  proxy   proxy    -      -       proxy
x,*              reg.test/       proxy  proxy  -      proxy     -      proxy   proxy    -      proxy   proxy
198.51.100.7     198.51.100.7/   -      -      -      -         -      -       -        -      -       -
198.51.100.0/24  198.51.100.7/   -      proxy  -      -         proxy  proxy   proxy    -      proxy   proxy
SEEN
