#!/usr/bin/env bash
# A range of a blob through a cache: Squid, Apache and HAProxy answer it otherwise once they hold the blob.
#
# Versions: Debian 12's haproxy 2.6, squid 5.7, apache2 2.4 (mod_cache_disk), nginx 1.22.1. The blob of 300 KiB has an ETag, a
#   year of max-age and Accept-Ranges. The registry is a plain Python server that knows several ranges.
# Guess: a range of a blob that is not stored is passed on (nginx fetches the whole). Of a stored blob all give 206, one part
#   for each range as it was asked, except HAProxy, whose cache knows no ranges; what begins behind the end is 416 in all.
# Seen (below; "cold": nothing stored, "stored": after a GET of the whole):
#   - HAProxy: the first range is 206 from the registry, and the same range is 200 with the whole blob after somebody fetched
#     it all; so is a range behind the end;
#   - Squid: a range behind the end of a stored blob is 200 with the whole blob, and so are two ranges that are not in rising
#     order. Cold, both are what the registry says (416, two parts);
#   - Apache joins ranges that touch or overlap into one: a single 206 where two parts were asked, without a multipart;
#     cold, it passes them on and two parts come back. Its 416 for a stored blob does not say where the blob ends;
#   - in all three a range leaves nothing in the cache: each is asked for again. nginx alone does what was guessed, with two
#     ranges cold answered by the whole blob.
# Why it matters: a client that resumes or fetches a blob in parallel sees 206 for one request and 200 for the next (containerd
#   2.1.0 to 2.1.4 then mix up the layer), and who asks where a blob ends by a range behind it is sent all of it. Before a
#   registry or a mirror switch such a cache off for blobs, or take nginx.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
apt-get update -qq
# shellcheck disable=SC2046 # what is missing, with all that it needs
apt-get download -qq -o APT::Sandbox::User=root $(apt-get install -s --no-install-recommends nginx='1.22.1-*' \
    apache2='2.4.*' squid='5.7-*' haproxy='2.6.*' | awk '/^Inst/ { print $2 }')
for deb in *.deb; do dpkg -x "$deb" root; done
chmod 755 "$tmp"
export PATH="$tmp/root/usr/sbin:$tmp/root/usr/bin:$PATH:/usr/sbin" LD_LIBRARY_PATH="$tmp/root/usr/lib/x86_64-linux-gnu"

cat >ranges.py <<'PY'
import http.client, http.server, os, re, socket, subprocess, sys, threading, time
here, port = os.getcwd(), int(sys.argv[1])
blob = bytes(range(256)) * 1200
asked = []
class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1
    def do_GET(self):
        if not self.path.startswith("/v2/"):
            return self.send_error(404)
        asked.append(self.path)
        wanted, end = self.headers["Range"], len(blob)
        if self.headers["If-Range"] not in (None, '"sha256:one"'):
            wanted = None
        status, body, headers = 200, blob, {"Content-Type": "application/octet-stream"}
        if wanted:
            ranges = [(int(first), min(int(last or end), end - 1)) for first, last in re.findall(r"(\d+)-(\d*)", wanted)]
            line = lambda first, last: f"bytes {first}-{last}/{end}"
            if ranges[0][0] >= end:
                status, body, headers = 416, b"", {"Content-Range": f"bytes */{end}"}
            elif len(ranges) == 1:
                status, body, headers["Content-Range"] = 206, blob[ranges[0][0]:ranges[0][1] + 1], line(*ranges[0])
            else:
                parts = [b"--cut\r\nContent-Range: %s\r\n\r\n%s\r\n" % (line(a, b).encode(), blob[a:b + 1]) for a, b in ranges]
                status, body, headers = 206, b"".join(parts) + b"--cut--\r\n", {"Content-Type": "multipart/byteranges; boundary=cut"}
        headers |= {"ETag": '"sha256:one"', "Cache-Control": "max-age=31536000", "Accept-Ranges": "bytes", "Content-Length": str(len(body))}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
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
        f"cache_peer 127.0.0.1 parent {server.server_port} 0 no-query no-digest originserver\nhttp_access allow all\ncache_mem 8 MB\naccess_log none\ncache_log {here}/squid.log\n"
        f"pid_filename {here}/squid.pid\ncoredump_dir {here}\nmime_table {usr}/share/squid/mime.conf\nicon_directory {usr}/share/squid/icons\n"
        f"error_directory {usr}/share/squid-langpack/en\nunlinkd_program {usr}/lib/squid/unlinkd\n"
        f"logfile_daemon {usr}/lib/squid/log_file_daemon\npinger_enable off\nshutdown_lifetime 0 seconds\nvisible_hostname cache\n")]
def haproxy():
    return ["haproxy", "-db", "-f", write("haproxy.cfg", f"defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 1s\n"
        f"cache c\n total-max-size 64\n max-object-size 1000000\n max-age 60\nfrontend f\n bind 127.0.0.1:{port}\n http-request cache-use c\n"
        f" http-response cache-store c\n default_backend b\nbackend b\n server s {origin}\n")]

def ask(path, ranges=None, fits=None):
    del asked[:]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={name: value for name, value in {"Range": ranges, "If-Range": fits}.items() if value})
    answer = connection.getresponse()
    body = answer.read()
    time.sleep(0.1)
    connection.close()
    parts = re.findall(rb"(?i)content-range: bytes (\d+-\d+)", body)
    what = "whole" if len(body) == len(blob) else "parts " + b" ".join(parts).decode() if parts else str(answer.getheader("Content-Range"))
    return f"{answer.status} {what}, {'asked' if asked else '-'}"
questions = {"one": ("bytes=100-109",), "behind the end": ("bytes=307200-",), "two": ("bytes=2-3,500-509",), "two, falling": ("bytes=500-509,2-3",),
             "two that touch": ("bytes=2-9,10-12",), "If-Range fits": ("bytes=100-109", '"sha256:one"'), "If-Range does not fit": ("bytes=100-109", '"sha256:two"')}
for name, command in {"HAProxy": haproxy, "Squid": squid, "Apache": apache, "nginx": nginx}.items():
    cache = subprocess.Popen(command(), stdout=subprocess.DEVNULL, stderr=open("cache.log", "a"))
    try:
        for _ in range(100):
            time.sleep(0.2)
            if socket.socket().connect_ex(("127.0.0.1", port)) == 0: break
        ask("/v2/a/blobs/warm-up")
        for number, (question, headers) in enumerate(questions.items()):
            cold = ask(f"/v2/a/blobs/cold{number}", *headers)
            time.sleep(0.5)
            again = ask(f"/v2/a/blobs/cold{number}", *headers)
            ask(f"/v2/a/blobs/stored{number}")
            time.sleep(0.5)
            stored = ask(f"/v2/a/blobs/stored{number}", *headers)
            print(f"{name}: {question}: cold {cold}; again {'the same' if again == cold else again}; stored {stored}", flush=True)
    finally:
        cache.terminate()
        cache.wait()
        time.sleep(0.3)
PY
# A port that no outgoing connection is given.
port=$(python3 -c 'import random, socket
while socket.socket().connect_ex(("127.0.0.1", port := random.randint(20000, 30000))) == 0: pass
print(port)')
python3 ranges.py "$port" >seen || { tail cache.log; exit 1; }
cat seen
diff - seen <<'SEEN'
HAProxy: one: cold 206 bytes 100-109/307200, asked; again the same; stored 200 whole, -
HAProxy: behind the end: cold 416 bytes */307200, asked; again the same; stored 200 whole, -
HAProxy: two: cold 206 parts 2-3 500-509, asked; again the same; stored 200 whole, -
HAProxy: two, falling: cold 206 parts 500-509 2-3, asked; again the same; stored 200 whole, -
HAProxy: two that touch: cold 206 parts 2-9 10-12, asked; again the same; stored 200 whole, -
HAProxy: If-Range fits: cold 206 bytes 100-109/307200, asked; again the same; stored 200 whole, -
HAProxy: If-Range does not fit: cold 200 whole, asked; again 200 whole, -; stored 200 whole, -
Squid: one: cold 206 bytes 100-109/307200, asked; again the same; stored 206 bytes 100-109/307200, -
Squid: behind the end: cold 416 bytes */307200, asked; again the same; stored 200 whole, -
Squid: two: cold 206 parts 2-3 500-509, asked; again the same; stored 206 parts 2-3 500-509, -
Squid: two, falling: cold 206 parts 500-509 2-3, asked; again the same; stored 200 whole, -
Squid: two that touch: cold 206 parts 2-9 10-12, asked; again the same; stored 206 parts 2-9 10-12, -
Squid: If-Range fits: cold 206 bytes 100-109/307200, asked; again the same; stored 206 bytes 100-109/307200, -
Squid: If-Range does not fit: cold 200 whole, asked; again 200 whole, -; stored 200 whole, -
Apache: one: cold 206 bytes 100-109/307200, asked; again the same; stored 206 bytes 100-109/307200, -
Apache: behind the end: cold 416 bytes */307200, asked; again the same; stored 416 None, -
Apache: two: cold 206 parts 2-3 500-509, asked; again the same; stored 206 parts 2-3 500-509, -
Apache: two, falling: cold 206 parts 500-509 2-3, asked; again the same; stored 206 parts 500-509 2-3, -
Apache: two that touch: cold 206 parts 2-9 10-12, asked; again the same; stored 206 bytes 2-12/307200, -
Apache: If-Range fits: cold 206 bytes 100-109/307200, asked; again the same; stored 206 bytes 100-109/307200, -
Apache: If-Range does not fit: cold 200 whole, asked; again the same; stored 200 whole, asked
nginx: one: cold 206 bytes 100-109/307200, asked; again 206 bytes 100-109/307200, -; stored 206 bytes 100-109/307200, -
nginx: behind the end: cold 416 bytes */307200, asked; again the same; stored 416 bytes */307200, -
nginx: two: cold 200 whole, asked; again 206 parts 2-3 500-509, -; stored 206 parts 2-3 500-509, -
nginx: two, falling: cold 200 whole, asked; again 206 parts 500-509 2-3, -; stored 206 parts 500-509 2-3, -
nginx: two that touch: cold 200 whole, asked; again 206 parts 2-9 10-12, -; stored 206 parts 2-9 10-12, -
nginx: If-Range fits: cold 206 bytes 100-109/307200, asked; again 206 bytes 100-109/307200, -; stored 206 bytes 100-109/307200, -
nginx: If-Range does not fit: cold 200 whole, asked; again 200 whole, -; stored 200 whole, -
SEEN
