#!/usr/bin/env bash
# What a HEAD costs behind a cache: a GET of everything, or a HEAD each time.
#
# Versions: Debian 12's varnish 7.1.1-2+deb12u1, nginx 1.22.1, apache2 2.4, squid 5.7, haproxy 2.6. Defaults, but that
#   they store; the origin gives ETag and a second or two of max-age, and answers conditional requests.
# Guess: nginx and Varnish ask by GET where a client sends a HEAD for what they do not have; the others pass the HEAD on.
#   What is stored and stale is asked about with If-None-Match by all, so it costs nothing then. HAProxy answers no HEAD.
# Seen (below: what the client sent, and what the origin was asked for it):
#   - nginx and Varnish, for a HEAD of what is not stored: a GET of the whole, as guessed;
#   - nginx does the same again for each HEAD of what is stale: it sends no condition unless told to revalidate;
#   - with proxy_cache_convert_head off nginx stores the answer to HEAD by itself, if the key has the method in it;
#   - Apache and Squid ask by HEAD; Apache stores no answer to it and asks each time, until a GET was stored;
#   - HAProxy answers HEAD from what a GET stored; when that is stale it passes each HEAD on, without a condition.
# Why it matters: at Docker Hub a HEAD of a manifest is free and a GET is a pull. Behind a plain nginx or a Varnish each
#   check of a tag that is no longer fresh costs what a pull costs; and containerd's and docker's HEAD of a layer, to see
#   whether it is there, moves all of the layer. In front of registries and mirrors: proxy_cache_revalidate on, and
#   proxy_cache_convert_head off with $request_method in proxy_cache_key.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
apt-get update -qq
missing=$(apt-get install -s --no-install-recommends varnish='7.1.1-2+deb12u1' nginx='1.22.1-*' apache2='2.4.*' \
    squid='5.7-*' haproxy='2.6.*' | awk '/^Inst/ { print $2 }')
# shellcheck disable=SC2086 # a list of words, with all that they need; none where they are installed
[ -z "$missing" ] || apt-get download -qq -o APT::Sandbox::User=root $missing
for deb in *.deb; do [ ! -e "$deb" ] || dpkg -x "$deb" root; done
chmod 755 "$tmp"
lib=$tmp/root/usr/lib/x86_64-linux-gnu
export PATH="$tmp/root/usr/sbin:$tmp/root/usr/bin:$PATH:/usr/sbin" LD_LIBRARY_PATH="$lib:$lib/varnish" HOME="$tmp"

cat >head.py <<'PY'
import http.client, http.server, os, socket, subprocess, sys, threading, time
here, port = os.getcwd(), int(sys.argv[1])
content = bytes(3_000_000)
asked = []
class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if not self.path.startswith("/v2/"):
            return self.send_error(404)  # Squid asks for something of its own.
        same = "If-None-Match" in self.headers or "If-Modified-Since" in self.headers
        whole = self.command == "GET" and not same
        asked.append(self.command + (" if changed" if same else "") + (", whole" if whole else ""))
        self.send_response(304 if same else 200)
        for name, value in {"Content-Type": "application/octet-stream", "ETag": '"1"', "Cache-Control": "max-age=2"}.items():
            self.send_header(name, value)
        if not same:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if whole:
            self.wfile.write(content)
    do_HEAD = do_GET
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
server.handle_error = lambda *_: None
threading.Thread(target=server.serve_forever, daemon=True).start()
origin = f"127.0.0.1:{server.server_port}"

def write(name, text):
    with open(name, "w") as file:
        file.write(text)
    return os.path.abspath(name)
def varnish():
    vcl = write("varnish.vcl", 'vcl 4.1; backend default { .host = "127.0.0.1"; .port = "%d"; } ' % server.server_port)
    return ["varnishd", "-F", "-j", "none", "-n", here + "/varnish", "-a", f"127.0.0.1:{port}", "-f", vcl,
            "-p", f"vmod_path={here}/root/usr/lib/x86_64-linux-gnu/varnish/vmods:/usr/lib/x86_64-linux-gnu/varnish/vmods"]
def nginx(more=""):
    return ["nginx", "-c", write("nginx.conf", f"""daemon off; master_process off; pid {here}/nginx.pid; error_log {here}/nginx.log; events {{}}
        http {{ access_log off; proxy_cache_path {here}/nginx-cache keys_zone=c:1m;
        server {{ listen 127.0.0.1:{port}; location / {{ proxy_cache c; {more} proxy_pass http://{origin}; }} }} }}""")]
def apache():
    os.makedirs("apache-cache", exist_ok=True)
    os.chmod("apache-cache", 0o777)
    modules = f"{here}/root" if os.path.exists("root/usr/lib/apache2") else ""
    loads = "".join(f"LoadModule {m}_module {modules}/usr/lib/apache2/modules/mod_{m}.so\n"
                    for m in ("mpm_event", "authz_core", "proxy", "proxy_http", "cache", "cache_disk"))
    return ["apache2", "-DFOREGROUND", "-f", write("apache.conf", f"ServerRoot {here}\nServerName x\nListen 127.0.0.1:{port}\nPidFile {here}/apache.pid\n"
        f"ErrorLog {here}/apache.log\nDefaultRuntimeDir {here}\n{loads}CacheEnable disk /\nCacheMaxFileSize 10000000\nCacheRoot {here}/apache-cache\n"
        f"ProxyPass / http://{origin}/\nUser nobody\nGroup nogroup\n")]
def squid():
    usr = (f"{here}/root" if os.path.exists("root/usr/lib/squid") else "") + "/usr"
    return ["squid", "-N", "-d", "0", "-n", "vary%d" % os.getpid(), "-f", write("squid.conf", f"http_port 127.0.0.1:{port} accel defaultsite=registry.example\n"
        f"cache_peer 127.0.0.1 parent {server.server_port} 0 no-query originserver\nhttp_access allow all\ncache_mem 64 MB\nmaximum_object_size_in_memory 8 MB\naccess_log none\ncache_log {here}/squid.log\n"
        f"pid_filename {here}/squid.pid\ncoredump_dir {here}\nmime_table {usr}/share/squid/mime.conf\nicon_directory {usr}/share/squid/icons\n"
        f"error_directory {usr}/share/squid-langpack/en\nunlinkd_program {usr}/lib/squid/unlinkd\n"
        f"logfile_daemon {usr}/lib/squid/log_file_daemon\npinger_enable off\nshutdown_lifetime 0 seconds\nvisible_hostname cache\n")]
def haproxy():
    return ["haproxy", "-db", "-f", write("haproxy.cfg", f"defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 1s\n"
        f"cache c\n total-max-size 16\n max-age 60\n max-object-size 4000000\nfrontend f\n bind 127.0.0.1:{port}\n http-request cache-use c\n"
        f" http-response cache-store c\n default_backend b\nbackend b\n server s {origin}\n")]
caches = {"nginx": nginx, "nginx, revalidate": lambda: nginx("proxy_cache_revalidate on;"),
          "nginx, convert_head off": lambda: nginx("proxy_cache_convert_head off; proxy_cache_key $request_method$uri; proxy_cache_revalidate on;"),
          "Varnish": varnish, "Apache": apache, "Squid": squid, "HAProxy": haproxy}

def ask(method):
    del asked[:]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, "/v2/a/manifests/1")
    answer = connection.getresponse()
    assert answer.status == 200 and len(answer.read()) == (0 if method == "HEAD" else len(content))
    time.sleep(0.3)  # A cache may ask after it has answered.
    return " + ".join(asked) or "nothing"
for name, command in caches.items():
    cache = subprocess.Popen(command(), stdout=subprocess.DEVNULL, stderr=open("cache.log", "a"))
    try:
        for _ in range(100):
            time.sleep(0.2)
            if socket.socket().connect_ex(("127.0.0.1", port)) == 0: break
        print(f"{name}: HEAD: {ask('HEAD')}; HEAD again: {ask('HEAD')}; GET: {ask('GET')}; HEAD after it: {ask('HEAD')}")
        time.sleep(3)
        print(f"{name}, stale: HEAD: {ask('HEAD')}; HEAD again: {ask('HEAD')}", flush=True)
    finally:
        cache.terminate()
        cache.wait()
        time.sleep(0.3)
    for directory in ("nginx-cache", "apache-cache"):
        subprocess.run(["rm", "-rf", directory])
PY
# A port that no outgoing connection is given.
port=$(python3 -c 'import random, socket
while socket.socket().connect_ex(("127.0.0.1", port := random.randint(20000, 30000))) == 0: pass
print(port)')
python3 head.py "$port" >seen || { cat cache.log; exit 1; }
cat seen
diff - seen <<'SEEN'
nginx: HEAD: GET, whole; HEAD again: nothing; GET: nothing; HEAD after it: nothing
nginx, stale: HEAD: GET, whole; HEAD again: nothing
nginx, revalidate: HEAD: GET, whole; HEAD again: nothing; GET: nothing; HEAD after it: nothing
nginx, revalidate, stale: HEAD: GET if changed; HEAD again: nothing
nginx, convert_head off: HEAD: HEAD; HEAD again: nothing; GET: GET, whole; HEAD after it: nothing
nginx, convert_head off, stale: HEAD: HEAD if changed; HEAD again: nothing
Varnish: HEAD: GET, whole; HEAD again: nothing; GET: nothing; HEAD after it: nothing
Varnish, stale: HEAD: GET if changed; HEAD again: nothing
Apache: HEAD: HEAD; HEAD again: HEAD; GET: GET, whole; HEAD after it: nothing
Apache, stale: HEAD: HEAD if changed; HEAD again: nothing
Squid: HEAD: HEAD; HEAD again: nothing; GET: GET, whole; HEAD after it: nothing
Squid, stale: HEAD: HEAD if changed; HEAD again: nothing
HAProxy: HEAD: HEAD; HEAD again: HEAD; GET: GET, whole; HEAD after it: nothing
HAProxy, stale: HEAD: HEAD; HEAD again: HEAD
SEEN
