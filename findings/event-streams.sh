#!/usr/bin/env bash
# A page that is fed by server-sent events, behind seven proxies: which ones deliver an event when it happens.
#
# Versions: Debian 12's nginx 1.22.1, haproxy 2.6, apache2 2.4, lighttpd 1.4.69, squid 5.7, varnish 7.1.1, caddy 2.6.2. The
#   source sends an event of 60 bytes every half second, chunked, for three seconds. The client accepts gzip, as browsers do.
# Guess: nginx holds events back until some KiB are together, unless it is told "X-Accel-Buffering: no", as is often written;
#   lighttpd holds them back to the end; all others deliver at once, whether they compress or not.
# Seen (below; the time from when an event is sent to when the client can read the whole of it):
#   - nginx delivers at once, with its buffering on and without that header. It holds all back to the end only where it
#     compresses (gzip_types with text/event-stream, or *), and there X-Accel-Buffering: no mends that too;
#   - HAProxy adds 0.2 s to each event; "option http-no-delay" takes them away. Where it compresses, most events become
#     readable only with the one after them, with that option as well;
#   - Apache and Caddy deliver at once, also where they compress. So do Squid and Varnish;
#   - lighttpd holds all back to the end, unless server.stream-response-body is 1.
# Why it matters: a dashboard that stands still behind a proxy looks broken. A server should send X-Accel-Buffering: no,
#   though it is not nginx's buffering that needs it; the page on proxies must say that HAProxy's and nginx's compression
#   has to keep off text/event-stream, and which option lighttpd needs.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
apt-get update -qq
# shellcheck disable=SC2046 # what is missing, with all that it needs
apt-get download -qq -o APT::Sandbox::User=root $(apt-get install -s --no-install-recommends varnish='7.1.1-2+deb12u1' \
    nginx='1.22.1-*' apache2='2.4.*' squid='5.7-*' haproxy='2.6.*' lighttpd='1.4.69-*' caddy='2.6.2-*' | awk '/^Inst/ { print $2 }')
for deb in *.deb; do dpkg -x "$deb" root; done
chmod 755 "$tmp"
lib=$tmp/root/usr/lib/x86_64-linux-gnu
export PATH="$tmp/root/usr/sbin:$tmp/root/usr/bin:$PATH:/usr/sbin" LD_LIBRARY_PATH="$lib:$lib/varnish" HOME="$tmp"

cat >events.py <<'PY'
import http.server, os, socket, subprocess, sys, threading, time, zlib
here, port = os.getcwd(), int(sys.argv[1])
sent = []
class Source(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        del sent[:]
        self.send_response(200)
        for name, value in {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "Transfer-Encoding": "chunked"}.items():
            self.send_header(name, value)
        if self.path == "/x-accel":
            self.send_header("X-Accel-Buffering", "no")
        self.end_headers()
        try:
            for number in range(6):
                event = b"data: %d%s\n\n" % (number, b"." * 51)
                sent.append(time.monotonic())
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
                time.sleep(0.5)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            pass
        self.close_connection = True
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Source)
server.handle_error = lambda *_: None
threading.Thread(target=server.serve_forever, daemon=True).start()
source = f"127.0.0.1:{server.server_port}"

def write(name, text):
    with open(name, "w") as file:
        file.write(text)
    return os.path.abspath(name)
def usr(probe):
    return (f"{here}/root" if os.path.exists("root" + probe) else "") + "/usr"
def nginx(more=""):
    return ["nginx", "-c", write("nginx.conf", f"daemon off; master_process off; pid {here}/nginx.pid; error_log {here}/nginx.log; events {{}}\n"
        f"http {{ access_log off; {more} server {{ listen 127.0.0.1:{port}; location / {{ proxy_http_version 1.1; proxy_pass http://{source}; }} }} }}")]
def haproxy(more=""):
    return ["haproxy", "-db", "-f", write("haproxy.cfg", f"defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 1s\n{more}"
        f"frontend f\n bind 127.0.0.1:{port}\n default_backend b\nbackend b\n server s {source}\n")]
def apache(modules="", more=""):
    loads = "".join(f"LoadModule {m}_module {usr('/usr/lib/apache2')}/lib/apache2/modules/mod_{m}.so\n"
                    for m in ("mpm_event authz_core proxy proxy_http " + modules).split())
    return ["apache2", "-DFOREGROUND", "-f", write("apache.conf", f"ServerRoot {here}\nServerName x\nListen 127.0.0.1:{port}\nPidFile {here}/apache.pid\n"
        f"ErrorLog {here}/apache.log\nDefaultRuntimeDir {here}\n{loads}{more}ProxyPass / http://{source}/\nUser nobody\nGroup nogroup\n")]
def lighttpd(more=""):
    return ["lighttpd", "-D", "-m", usr("/usr/lib/lighttpd") + "/lib/lighttpd", "-f", write("lighttpd.conf", f'server.modules = ("mod_proxy")\nserver.port = {port}\n'
        f'server.bind = "127.0.0.1"\nserver.document-root = "{here}"\n{more}proxy.server = ("" => (("host" => "127.0.0.1", "port" => {server.server_port})))\n')]
def squid():
    at = usr("/usr/lib/squid")
    return ["squid", "-N", "-d", "0", "-n", "events%d" % os.getpid(), "-f", write("squid.conf", f"http_port 127.0.0.1:{port} accel defaultsite=registry.example\n"
        f"cache_peer 127.0.0.1 parent {server.server_port} 0 no-query no-digest originserver\nhttp_access allow all\naccess_log none\ncache_log {here}/squid.log\n"
        f"pid_filename {here}/squid.pid\ncoredump_dir {here}\nmime_table {at}/share/squid/mime.conf\nicon_directory {at}/share/squid/icons\n"
        f"error_directory {at}/share/squid-langpack/en\nunlinkd_program {at}/lib/squid/unlinkd\nlogfile_daemon {at}/lib/squid/log_file_daemon\n"
        "pinger_enable off\nshutdown_lifetime 0 seconds\nvisible_hostname cache\n")]
def varnish():
    return ["varnishd", "-F", "-j", "none", "-n", here + "/varnish", "-a", f"127.0.0.1:{port}", "-f",
            write("varnish.vcl", f'vcl 4.1; backend default {{ .host = "127.0.0.1"; .port = "{server.server_port}"; }}')]
def caddy(more=""):
    return ["caddy", "run", "--adapter", "caddyfile", "--config", write("Caddyfile", "{\n admin off\n auto_https off\n}\n"
        f"http://:{port} {{\n{more} reverse_proxy {source}\n}}\n")]
zip_all = "gzip on; gzip_types *; gzip_min_length 1;"
squeeze = " compression algo gzip\n compression type text/event-stream\n"
proxies = [("nginx", nginx, "", "/"), ("nginx, gzip", nginx, zip_all, "/"), ("nginx, gzip, X-Accel-Buffering: no", nginx, zip_all, "/x-accel"),
           ("HAProxy", haproxy, "", "/"), ("HAProxy, http-no-delay", haproxy, " option http-no-delay\n", "/"), ("HAProxy, compression", haproxy, squeeze, "/"),
           ("HAProxy, compression, http-no-delay", haproxy, squeeze + " option http-no-delay\n", "/"),
           ("Apache", apache, "", "/"), ("Apache, deflate", lambda _: apache("filter deflate", "SetOutputFilter DEFLATE\n"), "", "/"),
           ("lighttpd", lighttpd, "", "/"), ("lighttpd, stream", lighttpd, "server.stream-response-body = 1\n", "/"),
           ("Squid", lambda _: squid(), "", "/"), ("Varnish", lambda _: varnish(), "", "/"), ("Caddy", caddy, "", "/"), ("Caddy, encode", caddy, " encode gzip\n", "/")]

def whole_events(raw):
    head, _, rest = raw.partition(b"\r\n\r\n")
    body = b"" if b"chunked" in head.lower() else rest
    while not body and rest or b"chunked" in head.lower():
        size, _, rest = rest.partition(b"\r\n")
        if not size or int(size, 16) == 0: break
        body += rest[:int(size, 16)]
        rest = rest[int(size, 16) + 2:]
    return (zlib.decompressobj(31).decompress(body) if b"gzip" in head.lower() else body).count(b"\n\n")
for name, proxy, more, path in proxies:
    process = subprocess.Popen(proxy(more), stdout=subprocess.DEVNULL, stderr=open("proxy.log", "a"))
    try:
        for _ in range(100):
            time.sleep(0.2)
            if socket.socket().connect_ex(("127.0.0.1", port)) == 0: break
        client = socket.create_connection(("127.0.0.1", port), timeout=8)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: registry.example\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n".encode())
        raw, seen = b"", []
        while piece := client.recv(65536):
            raw += piece
            seen += [time.monotonic()] * (whole_events(raw) - len(seen))
        waits = [got - put for got, put in zip(seen, sent)]
        words = ("each at once" if max(waits) < 0.1 else "each 0.2 s later" if 0.15 < min(waits) <= max(waits) < 0.35 else
                 "most with the next one" if sorted(waits)[1] > 0.45 and max(waits) < 0.9 else
                 "all at the end" if min(seen) > sent[-1] + 0.4 else f"{waits}")
        print(f"{name}: {len(seen)} events, {words}", flush=True)
    finally:
        process.terminate()
        process.wait()
        time.sleep(0.3)
PY
# A port that no outgoing connection is given.
port=$(python3 -c 'import random, socket
while socket.socket().connect_ex(("127.0.0.1", port := random.randint(20000, 30000))) == 0: pass
print(port)')
python3 events.py "$port" >seen || { tail proxy.log; exit 1; }
cat seen
diff - seen <<'SEEN'
nginx: 6 events, each at once
nginx, gzip: 6 events, all at the end
nginx, gzip, X-Accel-Buffering: no: 6 events, each at once
HAProxy: 6 events, each 0.2 s later
HAProxy, http-no-delay: 6 events, each at once
HAProxy, compression: 6 events, most with the next one
HAProxy, compression, http-no-delay: 6 events, most with the next one
Apache: 6 events, each at once
Apache, deflate: 6 events, each at once
lighttpd: 6 events, all at the end
lighttpd, stream: 6 events, each at once
Squid: 6 events, each at once
Varnish: 6 events, each at once
Caddy: 6 events, each at once
Caddy, encode: 6 events, each at once
SEEN
