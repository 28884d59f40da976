#!/usr/bin/env bash
# "Vary: Accept" behind Varnish: of an Accept that comes in several lines only the first counts.
#
# Versions: Debian 12's varnish 7.1.1-2+deb12u1, nginx 1.22.1, apache2 2.4, squid 5.7, haproxy 2.6, skopeo 1.9.3. The
#   registry is a plain Python server: to who accepts an index it gives the index, to others one platform's manifest, and it
#   says "Vary: Accept" and "max-age=60", as HTTP wants it (RFC 9110 12.5.5).
# Guess: all caches keep the two apart. Several Accept lines are one list (RFC 9110 5.3), so four lines and the same four in
#   one line are one variant; another order is another variant.
# Seen (below; "asked": the registry was asked, "-": the cache answered):
#   - Varnish compares the FIRST line only. skopeo sends six lines whose first is the OCI manifest: once a client that
#     accepts nothing else has asked, skopeo is given that single manifest from the cache, though its fifth line names
#     the index. std.collect(req.http.Accept) in vcl_recv mends it;
#   - nginx is right, but takes four lines and one line for two variants;
#   - Apache and Squid are right, and join the lines;
#   - HAProxy stores nothing that varies by Accept, with "process-vary on" as well;
#   - Squid asks an origin, too, for a thing that only Squids have (/squid-internal-periodic/store_digest).
# Why it matters: dockerd, podman and skopeo all send Accept in several lines, dockerd in random order. A registry or a
#   mirror that chooses by Accept gives a podman on arm64 the manifest of amd64, if such a cache stands before it.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
apt-get update -qq
# shellcheck disable=SC2046 # what is missing, with all that it needs
apt-get download -qq -o APT::Sandbox::User=root $(apt-get install -s --no-install-recommends \
    varnish='7.1.1-2+deb12u1' nginx='1.22.1-*' apache2='2.4.*' squid='5.7-*' haproxy='2.6.*' skopeo='1.9.3+ds1-1+b10' |
    awk '/^Inst/ { print $2 }')
for deb in *.deb; do dpkg -x "$deb" root; done
chmod 755 "$tmp"
lib=$tmp/root/usr/lib/x86_64-linux-gnu
export PATH="$tmp/root/usr/sbin:$tmp/root/usr/bin:$PATH:/usr/sbin" LD_LIBRARY_PATH="$lib:$lib/varnish" HOME="$tmp"

cat >vary.py <<'PY'
import http.client, http.server, os, socket, subprocess, sys, threading, time
here, port = os.getcwd(), int(sys.argv[1])
manifest, index = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"
docker, docker_list = "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json"
asked, strange = [], set()
class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        tag = self.path.startswith("/v2/a/manifests/")
        if tag:
            asked.append(self.path)
        elif self.path != "/v2/":
            strange.add(self.path)
        kind = index if index in ",".join(self.headers.get_all("Accept") or []) else manifest
        body = b'{"schemaVersion":2,"mediaType":"%s"}' % kind.encode()
        self.send_response(200)
        for name, value in {"Content-Type": kind, "Content-Length": len(body), "Vary": "Accept", "Cache-Control": "max-age=60"}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
server.handle_error = lambda *_: None
threading.Thread(target=server.serve_forever, daemon=True).start()
origin = f"127.0.0.1:{server.server_port}"

def write(name, text):
    with open(name, "w") as file:
        file.write(text)
    return os.path.abspath(name)
def varnish(rule=""):
    vcl = write("varnish.vcl", 'vcl 4.1; import std; backend default { .host = "127.0.0.1"; .port = "%d"; } sub vcl_recv { %s }' % (server.server_port, rule))
    return ["varnishd", "-F", "-j", "none", "-n", here + "/varnish", "-a", f"127.0.0.1:{port}", "-f", vcl,
            "-p", f"vmod_path={here}/root/usr/lib/x86_64-linux-gnu/varnish/vmods:/usr/lib/x86_64-linux-gnu/varnish/vmods"]
def nginx():
    return ["nginx", "-c", write("nginx.conf", f"""daemon off; master_process off; pid {here}/nginx.pid; error_log {here}/nginx.log; events {{}}
        http {{ access_log off; proxy_cache_path {here}/nginx-cache keys_zone=c:1m;
        server {{ listen 127.0.0.1:{port}; location / {{ proxy_cache c; proxy_pass http://{origin}; }} }} }}""")]
def apache():
    os.makedirs("apache-cache", exist_ok=True)
    os.chmod("apache-cache", 0o777)
    modules = f"{here}/root" if os.path.exists("root/usr/lib/apache2") else ""
    loads = "".join(f"LoadModule {m}_module {modules}/usr/lib/apache2/modules/mod_{m}.so\n"
                    for m in ("mpm_event", "authz_core", "proxy", "proxy_http", "cache", "cache_disk"))
    return ["apache2", "-DFOREGROUND", "-f", write("apache.conf", f"ServerRoot {here}\nServerName x\nListen 127.0.0.1:{port}\nPidFile {here}/apache.pid\n"
        f"ErrorLog {here}/apache.log\nDefaultRuntimeDir {here}\n{loads}CacheEnable disk /\nCacheRoot {here}/apache-cache\n"
        f"ProxyPass / http://{origin}/\nUser nobody\nGroup nogroup\n")]
def squid():
    usr = (f"{here}/root" if os.path.exists("root/usr/lib/squid") else "") + "/usr"
    return ["squid", "-N", "-d", "0", "-n", "vary%d" % os.getpid(), "-f", write("squid.conf", f"http_port 127.0.0.1:{port} accel defaultsite=registry.example\n"
        f"cache_peer 127.0.0.1 parent {server.server_port} 0 no-query originserver\nhttp_access allow all\ncache_mem 8 MB\naccess_log none\ncache_log {here}/squid.log\n"
        f"pid_filename {here}/squid.pid\ncoredump_dir {here}\nmime_table {usr}/share/squid/mime.conf\nicon_directory {usr}/share/squid/icons\n"
        f"error_directory {usr}/share/squid-langpack/en\nunlinkd_program {usr}/lib/squid/unlinkd\n"
        f"logfile_daemon {usr}/lib/squid/log_file_daemon\npinger_enable off\nshutdown_lifetime 0 seconds\nvisible_hostname cache\n")]
def haproxy():
    return ["haproxy", "-db", "-f", write("haproxy.cfg", f"defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 1s\n"
        f"cache c\n total-max-size 4\n max-age 60\n process-vary on\nfrontend f\n bind 127.0.0.1:{port}\n http-request cache-use c\n"
        f" http-response cache-store c\n default_backend b\nbackend b\n server s {origin}\n")]
caches = {"Varnish": varnish(), "Varnish, collect": "std.collect(req.http.Accept);", "nginx": nginx(), "Apache": apache(), "Squid": squid(), "HAProxy": haproxy()}

def by_hand(*lines):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("GET", "/v2/a/manifests/1", skip_accept_encoding=True)
    for line in lines:
        connection.putheader("Accept", line)
    connection.endheaders()
    return connection.getresponse().read().decode()
def skopeo():
    return subprocess.run(["skopeo", "--registries-conf", write("registries.conf", ""), "inspect", "--raw", "--tls-verify=false", f"docker://127.0.0.1:{port}/a:1"],
                          capture_output=True, text=True).stdout
lines = [manifest, docker, docker_list, index]
clients = {"manifest alone": lambda: by_hand(manifest), "skopeo": skopeo, "four lines": lambda: by_hand(*lines), "four lines, reversed": lambda: by_hand(*lines[::-1]),
           "one line": lambda: by_hand(", ".join(lines)), "four lines again": lambda: by_hand(*lines)}
for name, command in caches.items():
    if isinstance(command, str):
        command = varnish(command)
    elif name == "Varnish":
        command = varnish()
    cache = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=open("cache.log", "a"))
    try:
        for _ in range(100):
            time.sleep(0.2)
            if socket.socket().connect_ex(("127.0.0.1", port)) == 0: break
        strange.clear()
        for client, ask in clients.items():
            del asked[:]
            got = "index" if index in ask() else "manifest"
            print(f"{name}: {client}: {got}{'' if got == ('manifest' if client == 'manifest alone' else 'index') else ' (WRONG)'}, {'asked' if asked else '-'}", flush=True)
        if strange:
            print(f"{name}: asked besides:", *sorted(strange))
    finally:
        cache.terminate()
        cache.wait()
        time.sleep(0.3)
PY
# A port that no outgoing connection is given.
port=$(python3 -c 'import random, socket
while socket.socket().connect_ex(("127.0.0.1", port := random.randint(20000, 30000))) == 0: pass
print(port)')
python3 vary.py "$port" >seen || { cat cache.log; exit 1; }
cat seen
diff - seen <<'SEEN'
Varnish: manifest alone: manifest, asked
Varnish: skopeo: manifest (WRONG), -
Varnish: four lines: manifest (WRONG), -
Varnish: four lines, reversed: index, asked
Varnish: one line: index, asked
Varnish: four lines again: manifest (WRONG), -
Varnish, collect: manifest alone: manifest, asked
Varnish, collect: skopeo: index, asked
Varnish, collect: four lines: index, asked
Varnish, collect: four lines, reversed: index, asked
Varnish, collect: one line: index, -
Varnish, collect: four lines again: index, -
nginx: manifest alone: manifest, asked
nginx: skopeo: index, asked
nginx: four lines: index, asked
nginx: four lines, reversed: index, asked
nginx: one line: index, asked
nginx: four lines again: index, -
Apache: manifest alone: manifest, asked
Apache: skopeo: index, asked
Apache: four lines: index, asked
Apache: four lines, reversed: index, asked
Apache: one line: index, -
Apache: four lines again: index, -
Squid: manifest alone: manifest, asked
Squid: skopeo: index, asked
Squid: four lines: index, asked
Squid: four lines, reversed: index, asked
Squid: one line: index, -
Squid: four lines again: index, -
Squid: asked besides: /squid-internal-periodic/store_digest
HAProxy: manifest alone: manifest, asked
HAProxy: skopeo: index, asked
HAProxy: four lines: index, asked
HAProxy: four lines, reversed: index, asked
HAProxy: one line: index, asked
HAProxy: four lines again: index, asked
SEEN
