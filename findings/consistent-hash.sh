#!/usr/bin/env bash
# "Consistent" hashing of digests over replicas: who moves only the lost replica's share, and who moves nearly everything.
#
# Versions: Debian 12's haproxy 2.6, nginx 1.22.1, varnish 7.1.1 (director "shard"), caddy 2.6.2; npm consistent-hash 1.2.2,
#   hashring 3.2.0, node-hashring 1.0.2; PyPI uhashring 2.5, clandestined 1.1.0. Eight replicas, 1,000 paths with a digest.
# Guess: all move about an eighth when a replica is taken out, whichever it is; the order in which replicas are written down
#   changes nothing, but for HAProxy; two processes with the same list agree; who says "ketama" agrees with the others.
# Seen (below; "about one": the paths of about one replica move):
#   - HAProxy with "hash-type consistent" counts servers by their place in the file: without the first line nine tenths move
#     and more. Fixed numbers ("server s3 ... id 4") make it consistent;
#   - npm consistent-hash places its points by Math.random: two processes with the same replicas disagree on nearly every
#     path. With distribution "uniform" they agree, but half of all moves with one replica, and all with the order;
#   - nginx, Varnish, Caddy and the other libraries keep what the name promises;
#   - uhashring (hash_fn="ketama") and npm hashring agree on each path.
# Why it matters: replicas that each own a part of the digests, behind a proxy that sends each digest to its owner, fetch
#   nearly everything again after one line is deleted. Give HAProxy's servers ids, and never take an owner from a library
#   without a test that two processes agree.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
apt-get update -qq
# shellcheck disable=SC2046 # what is missing, with all that it needs
apt-get download -qq -o APT::Sandbox::User=root $(apt-get install -s --no-install-recommends varnish='7.1.1-2+deb12u1' \
    nginx='1.22.1-*' haproxy='2.6.*' caddy='2.6.2-*' | awk '/^Inst/ { print $2 }')
for deb in *.deb; do dpkg -x "$deb" root; done
chmod 755 "$tmp"
lib=$tmp/root/usr/lib/x86_64-linux-gnu
export PATH="$tmp/root/usr/sbin:$tmp/root/usr/bin:$PATH:/usr/sbin" LD_LIBRARY_PATH="$lib:$lib/varnish" HOME="$tmp"
python3 -m venv py
py/bin/pip install -q uhashring==2.5 clandestined==1.1.0
npm install --silent --no-fund --no-audit consistent-hash@1.2.2 hashring@3.2.0 node-hashring@1.0.2

cat >spread.py <<'PY'
import hashlib, http.client, http.server, json, os, socket, subprocess, sys, threading, time
import clandestined, uhashring
here, port, backend = os.getcwd(), int(sys.argv[1]), int(sys.argv[2])
replicas = [f"127.0.0.{11 + number}" for number in range(8)]
paths = ["/v2/a/blobs/sha256:" + hashlib.sha256(b"%d" % number).hexdigest() for number in range(1000)]
class Replica(http.server.BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1
    def do_GET(self):
        name = self.server.server_address[0].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(name)))
        self.end_headers()
        self.wfile.write(name)
    def log_message(self, *args): pass
for replica in replicas:
    server = http.server.ThreadingHTTPServer((replica, backend), Replica)
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()

def write(name, text):
    with open(name, "w") as file:
        file.write(text)
    return os.path.abspath(name)
def haproxy(members, ids=False):
    servers = "".join(f" server s{m[-2:]} {m}:{backend}{' id ' + m[-2:] if ids else ''}\n" for m in members)
    return ["haproxy", "-db", "-f", write("haproxy.cfg", "defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 1s\n"
        f"frontend f\n bind 127.0.0.1:{port}\n default_backend b\nbackend b\n balance uri\n hash-type consistent\n{servers}")]
def nginx(members):
    servers = "".join(f"server {m}:{backend}; " for m in members)
    return ["nginx", "-c", write("nginx.conf", f"daemon off; master_process off; pid {here}/nginx.pid; error_log {here}/nginx.log; events {{}}\n"
        f"http {{ access_log off; upstream u {{ hash $uri consistent; {servers}}} server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://u; }} }} }}")]
def varnish(members):
    backends = "".join(f'backend b{m[-2:]} {{ .host = "{m}"; .port = "{backend}"; }}\n' for m in members)
    added = "".join(f"d.add_backend(b{m[-2:]}); " for m in members)
    vmods = f"{here}/root/usr/lib/x86_64-linux-gnu/varnish/vmods:/usr/lib/x86_64-linux-gnu/varnish/vmods"
    return ["varnishd", "-F", "-j", "none", "-p", "vmod_path=" + vmods, "-n", here + "/varnish", "-a", f"127.0.0.1:{port}", "-f",
            write("varnish.vcl", f"vcl 4.1; import directors;\n{backends}sub vcl_init {{ new d = directors.shard(); {added}d.reconfigure(); }}\n"
                  "sub vcl_recv { return (pass); }\nsub vcl_backend_fetch { set bereq.backend = d.backend(by=URL); }")]
def caddy(members):
    return ["caddy", "run", "--adapter", "caddyfile", "--config", write("Caddyfile", "{\n admin off\n auto_https off\n}\n"
        f"http://:{port} {{\n reverse_proxy {' '.join(f'{m}:{backend}' for m in members)} {{\n lb_policy uri_hash\n }}\n}}\n")]
def by_proxy(command):
    def owners(members):
        proxy = subprocess.Popen(command(members), stdout=subprocess.DEVNULL, stderr=open("proxy.log", "a"))
        try:
            for _ in range(100):
                time.sleep(0.2)
                if socket.socket().connect_ex(("127.0.0.1", port)) == 0: break
            connection, found = http.client.HTTPConnection("127.0.0.1", port, timeout=10), []
            for path in paths:
                connection.request("GET", path)
                found.append(connection.getresponse().read().decode())
            return found
        finally:
            proxy.terminate()
            proxy.wait()
            time.sleep(0.3)
    return owners
def by_npm(name):
    return lambda members: json.loads(subprocess.run(["node", "owners.cjs", name], input=json.dumps([members, paths]), capture_output=True, text=True, check=True).stdout)
def by_library(ring):
    def owners(members):
        made = ring(members)
        return [made.get_node(path) if hasattr(made, "get_node") else made.find_node(path) for path in paths]
    return owners
ketama = by_library(lambda members: uhashring.HashRing(nodes=members, hash_fn="ketama"))
all_ways = {"HAProxy": by_proxy(haproxy), "HAProxy, ids": by_proxy(lambda m: haproxy(m, True)), "nginx": by_proxy(nginx), "Varnish": by_proxy(varnish),
            "Caddy": by_proxy(caddy), "npm consistent-hash": by_npm("consistent-hash"), "npm consistent-hash, uniform": by_npm("uniform"),
            "npm hashring": by_npm("hashring"), "npm node-hashring": by_npm("node-hashring"), "uhashring, ketama": ketama,
            "clandestined": by_library(lambda members: clandestined.RendezvousHash(nodes=members))}
for name, owners in all_ways.items():
    first = owners(replicas)
    tenths = lambda members: round(10 * sum(a != b for a, b in zip(first, owners(members))) / len(paths))
    words = lambda moved: "none" if not moved else "about one" if moved <= 2 else "half" if 3 <= moved <= 7 else "nearly all"
    print(f"{name}: the same again: {words(tenths(replicas))}; last one gone: {words(tenths(replicas[:-1]))}; "
          f"first one gone: {words(tenths(replicas[1:]))}; other order: {words(tenths(replicas[::-1]))}", flush=True)
print("npm hashring and uhashring, ketama:", "agree" if by_npm("hashring")(replicas) == ketama(replicas) else "differ")
PY
cat >owners.cjs <<'JS'
const [members, paths] = JSON.parse(require('node:fs').readFileSync(0));
const rings = {
  'consistent-hash': (Ring) => { const ring = new Ring(); members.forEach((m) => ring.add(m)); return (path) => ring.get(path); },
  hashring: (Ring) => { const ring = new Ring(members); return (path) => ring.get(path); },
  'node-hashring': (Ring) => { const ring = new (Ring.default ?? Ring)(members); return (path) => ring.findNode(path); },
};
const uniform = (Ring) => { const ring = new Ring({ distribution: 'uniform' }); members.forEach((m) => ring.add(m)); return (path) => ring.get(path); };
const name = process.argv[2];
const owner = name === 'uniform' ? uniform(require('consistent-hash')) : rings[name](require(name));
console.log(JSON.stringify(paths.map(owner)));
JS
# A port that no outgoing connection is given.
port=$(python3 -c 'import random, socket
while socket.socket().connect_ex(("127.0.0.1", port := random.randint(20000, 30000))) == 0: pass
print(port)')
py/bin/python spread.py "$port" $((port + 1)) >seen || { tail proxy.log; exit 1; }
cat seen
diff - seen <<'SEEN'
HAProxy: the same again: none; last one gone: about one; first one gone: nearly all; other order: nearly all
HAProxy, ids: the same again: none; last one gone: about one; first one gone: about one; other order: none
nginx: the same again: none; last one gone: about one; first one gone: about one; other order: none
Varnish: the same again: none; last one gone: about one; first one gone: about one; other order: none
Caddy: the same again: none; last one gone: about one; first one gone: about one; other order: none
npm consistent-hash: the same again: nearly all; last one gone: nearly all; first one gone: nearly all; other order: nearly all
npm consistent-hash, uniform: the same again: none; last one gone: half; first one gone: half; other order: nearly all
npm hashring: the same again: none; last one gone: about one; first one gone: about one; other order: none
npm node-hashring: the same again: none; last one gone: about one; first one gone: about one; other order: none
uhashring, ketama: the same again: none; last one gone: about one; first one gone: about one; other order: none
clandestined: the same again: none; last one gone: about one; first one gone: about one; other order: none
npm hashring and uhashring, ketama: agree
SEEN
