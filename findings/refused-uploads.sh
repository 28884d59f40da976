#!/usr/bin/env bash
# An upload that is refused before its body was read: behind three proxies the client sees 502 or 503 and not the refusal.
#
# Versions: Debian 12's nginx 1.22.1, haproxy 2.6, apache2 2.4, lighttpd 1.4.69, squid 5.7, varnish 7.1.1, caddy 2.6.2. A PATCH
#   of 8 MiB, its length stated or chunked, is answered 403 with a JSON body and "Connection: close" from its header alone. The
#   server then closes at once ("closes"), or ends its side and reads on to the end ("reads on"). The client reads while it
#   writes, as Go's does.
# Guess: the answer is there, so all proxies hand it on: those that take in the whole body first do so after it, the others
#   at once. Varnish alone makes 503 of a body that it could not send.
# Seen (below; the most frequent of 9 tries, for nginx all that came):
#   - server closes: Apache takes all of the body in and says 502; nginx likewise says 403 in some tries and 502 in others;
#     Varnish says 503 early;
#   - with "proxy_request_buffering off" nginx hands the 403 on, at once. HAProxy, Squid and Caddy do so by themselves,
#     lighttpd after the whole body;
#   - server reads on: 403 through all of them, but nginx, Apache, Varnish and lighttpd let the client send everything first;
#   - a client that waits for "100 Continue" is told 403 at once by Apache, HAProxy and Squid; nginx, Varnish and lighttpd say
#     "100 Continue" themselves and let it send (Caddy does now the one, now the other: not asked below).
# Why it matters: dockerd tries an upload again after a 5xx, five times, each time with the whole layer, and shows "502"
#   where the server had said "denied". Who refuses an upload (401, 403, 404, 413, 429) must read on for a while before it closes.
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

cat >refused.py <<'PY'
import collections, os, select, socket, subprocess, sys, threading, time
here, port = os.getcwd(), int(sys.argv[1])
body = b'{"errors":[{"code":"DENIED"}]}'
refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)
def serve(connection):
    head = b""
    with connection:
        try:
            while b"\r\n\r\n" not in head:
                piece = connection.recv(65536)
                if not piece: return
                head += piece
            connection.sendall(refusal)
            if b" /reads-on " in head:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536): pass
        except OSError:
            pass
listener = socket.create_server(("127.0.0.1", 0), backlog=64)
server = listener.getsockname()[1]
def accept():
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()

def write(name, text):
    with open(name, "w") as file:
        file.write(text)
    return os.path.abspath(name)
def usr(probe):
    return (f"{here}/root" if os.path.exists("root" + probe) else "") + "/usr"
def nginx(more=""):
    return ["nginx", "-c", write("nginx.conf", f"daemon off; master_process off; pid {here}/nginx.pid; error_log {here}/nginx.log; events {{}}\n"
        f"http {{ access_log off; client_max_body_size 0; proxy_http_version 1.1; {more}\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{server}; }} }} }}")]
def haproxy():
    return ["haproxy", "-db", "-f", write("haproxy.cfg", "defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 1s\n"
        f"frontend f\n bind 127.0.0.1:{port}\n default_backend b\nbackend b\n server s 127.0.0.1:{server}\n")]
def apache():
    loads = "".join(f"LoadModule {m}_module {usr('/usr/lib/apache2')}/lib/apache2/modules/mod_{m}.so\n" for m in ("mpm_event", "authz_core", "proxy", "proxy_http"))
    return ["apache2", "-DFOREGROUND", "-f", write("apache.conf", f"ServerRoot {here}\nServerName x\nListen 127.0.0.1:{port}\nPidFile {here}/apache.pid\n"
        f"ErrorLog {here}/apache.log\nDefaultRuntimeDir {here}\n{loads}ProxyPass / http://127.0.0.1:{server}/\nUser nobody\nGroup nogroup\n")]
def lighttpd():
    return ["lighttpd", "-D", "-m", usr("/usr/lib/lighttpd") + "/lib/lighttpd", "-f", write("lighttpd.conf", f'server.modules = ("mod_proxy")\nserver.port = {port}\n'
        f'server.bind = "127.0.0.1"\nserver.document-root = "{here}"\nserver.upload-dirs = ("{here}")\n'
        f'proxy.server = ("" => (("host" => "127.0.0.1", "port" => {server})))\n')]
def squid():
    at = usr("/usr/lib/squid")
    return ["squid", "-N", "-d", "0", "-n", "refused%d" % os.getpid(), "-f", write("squid.conf", f"http_port 127.0.0.1:{port} accel defaultsite=registry.example\n"
        f"cache_peer 127.0.0.1 parent {server} 0 no-query no-digest originserver\nhttp_access allow all\naccess_log none\ncache_log {here}/squid.log\n"
        f"pid_filename {here}/squid.pid\ncoredump_dir {here}\nmime_table {at}/share/squid/mime.conf\nicon_directory {at}/share/squid/icons\n"
        f"error_directory {at}/share/squid-langpack/en\nunlinkd_program {at}/lib/squid/unlinkd\nlogfile_daemon {at}/lib/squid/log_file_daemon\n"
        "pinger_enable off\nshutdown_lifetime 0 seconds\nvisible_hostname cache\n")]
def varnish():
    return ["varnishd", "-F", "-j", "none", "-n", here + "/varnish", "-a", f"127.0.0.1:{port}", "-f",
            write("varnish.vcl", f'vcl 4.1; backend default {{ .host = "127.0.0.1"; .port = "{server}"; }}')]
def caddy():
    return ["caddy", "run", "--adapter", "caddyfile", "--config", write("Caddyfile", "{\n admin off\n auto_https off\n}\n"
        f"http://:{port} {{\n reverse_proxy 127.0.0.1:{server}\n}}\n")]
proxies = {"nginx": nginx(), "nginx, no buffering": "proxy_request_buffering off;", "HAProxy": haproxy(), "Squid": squid(), "Varnish": varnish(),
           "Apache": apache(), "lighttpd": lighttpd(), "Caddy": caddy()}

block, blocks = b"x" * 32768, 256
def upload(path, chunked, waits=False):
    sent, got, continued = 0, b"", False
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(block) * blocks}"
        expect = "Expect: 100-continue\r\n" if waits else ""
        client.sendall(f"PATCH {path} HTTP/1.1\r\nHost: registry.example\r\nContent-Type: application/octet-stream\r\n{length}\r\n{expect}\r\n".encode())
        try:
            if waits:
                while b"\r\n\r\n" not in got:
                    got += client.recv(65536)
                if continued := got.startswith(b"HTTP/1.1 100"):
                    got = got.partition(b"\r\n\r\n")[2]
            while sent < blocks and not got and not select.select([client], [], [], 0)[0]:
                client.sendall(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
                sent += 1
                if sent % 4 == 0: time.sleep(0.001)
            if sent == blocks and chunked:
                client.sendall(b"0\r\n\r\n")
        except OSError:
            pass
        try:
            while piece := client.recv(65536):
                got += piece
                client.settimeout(0.1)
        except OSError:
            pass
    status = got[9:12].decode() or "nothing"
    if waits:
        return "says 100 Continue" if continued else f"says {status}"
    return f"{status}{', after the whole body' if sent == blocks else ', at once'}"
for name, command in proxies.items():
    proxy = subprocess.Popen(nginx(command) if isinstance(command, str) else nginx() if name == "nginx" else command, stdout=subprocess.DEVNULL, stderr=open("proxy.log", "a"))
    try:
        for _ in range(100):
            time.sleep(0.2)
            if socket.socket().connect_ex(("127.0.0.1", port)) == 0: break
        for path in "/closes", "/reads-on":
            for chunked in False, True:
                tries = collections.Counter(upload(path, chunked) for _ in range(9))
                while name == "nginx" and path == "/closes" and len(tries) == 1 and tries.total() < 99:
                    tries[upload(path, chunked)] += 1
                most = " or ".join(sorted(tries)) if name == "nginx" else tries.most_common(1)[0][0]
                print(f"{name}: server {path[1:].replace('-', ' ')}, {'chunked' if chunked else 'length'}: {most}", flush=True)
        if name == "Caddy": continue
        print(f"{name}: asked to expect:", collections.Counter(upload("/reads-on", False, True) for _ in range(3)).most_common(1)[0][0], flush=True)
    finally:
        proxy.terminate()
        proxy.wait()
        time.sleep(0.3)
PY
# A port that no outgoing connection is given.
port=$(python3 -c 'import random, socket
while socket.socket().connect_ex(("127.0.0.1", port := random.randint(20000, 30000))) == 0: pass
print(port)')
python3 refused.py "$port" >seen || { tail proxy.log; exit 1; }
cat seen
diff - seen <<'SEEN'
nginx: server closes, length: 403, after the whole body or 502, after the whole body
nginx: server closes, chunked: 403, after the whole body or 502, after the whole body
nginx: server reads on, length: 403, after the whole body
nginx: server reads on, chunked: 403, after the whole body
nginx: asked to expect: says 100 Continue
nginx, no buffering: server closes, length: 403, at once
nginx, no buffering: server closes, chunked: 403, at once
nginx, no buffering: server reads on, length: 403, at once
nginx, no buffering: server reads on, chunked: 403, at once
nginx, no buffering: asked to expect: says 100 Continue
HAProxy: server closes, length: 403, at once
HAProxy: server closes, chunked: 403, at once
HAProxy: server reads on, length: 403, at once
HAProxy: server reads on, chunked: 403, at once
HAProxy: asked to expect: says 403
Squid: server closes, length: 403, at once
Squid: server closes, chunked: 403, at once
Squid: server reads on, length: 403, at once
Squid: server reads on, chunked: 403, at once
Squid: asked to expect: says 403
Varnish: server closes, length: 503, at once
Varnish: server closes, chunked: 503, at once
Varnish: server reads on, length: 403, after the whole body
Varnish: server reads on, chunked: 403, after the whole body
Varnish: asked to expect: says 100 Continue
Apache: server closes, length: 502, after the whole body
Apache: server closes, chunked: 502, after the whole body
Apache: server reads on, length: 403, after the whole body
Apache: server reads on, chunked: 403, after the whole body
Apache: asked to expect: says 403
lighttpd: server closes, length: 403, after the whole body
lighttpd: server closes, chunked: 403, after the whole body
lighttpd: server reads on, length: 403, after the whole body
lighttpd: server reads on, chunked: 403, after the whole body
lighttpd: asked to expect: says 100 Continue
Caddy: server closes, length: 403, at once
Caddy: server closes, chunked: 403, at once
Caddy: server reads on, length: 403, at once
Caddy: server reads on, chunked: 403, at once
SEEN
