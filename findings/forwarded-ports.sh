#!/usr/bin/env bash
# X-Forwarded-For with a port, as some gateways write it: four of thirteen readers take the proxy for the client.
#
# Versions: Debian 12's nginx 1.22.1 (realip), haproxy 2.6 (hdr_ip), apache2 2.4 (mod_remoteip), lighttpd 1.4.69
#   (mod_extforward); PyPI uvicorn 0.54.0, werkzeug 3.1.9, hypercorn 0.18.0, aiohttp-remotes 1.4.0, python-ipware 4.1.1; npm
#   express 5.3.0, fastify 5.12.8, koa 3.3.0, request-ip 3.3.0. Azure's Application Gateway and IIS write "203.0.113.7:4711"
#   (IPv6 in brackets). Each reader is set to trust 127.0.0.0/8 and, where it can, 10.0.0.0/8.
# Guess: nginx and ipware cut the port off, all others give the text as it is; Apache leaves the header out of account.
# Seen (below: what each takes for the client; 127.0.0.1 is the proxy that spoke to it):
#   - address:port: uvicorn, HAProxy and request-ip cut the port off, too; Apache and lighttpd take the proxy for the client;
#   - [IPv6]:port: only nginx, uvicorn and ipware find the address; HAProxy, request-ip, Apache and lighttpd take the proxy;
#   - [IPv6] alone: nginx takes the proxy for the client, too, though it reads the same with a port;
#   - express, fastify, koa, werkzeug and hypercorn give the text with its port and brackets for an address;
#   - where a second, trusted proxy wrote its port as well, express and fastify no longer know it as trusted and stop there
#     (HAProxy, koa, werkzeug and hypercorn are set to one hop);
#   - aiohttp-remotes answers 400.
# Why it matters: limits by client then count all who come through the gateway as one, and logs name the proxy. Who reads
#   X-Forwarded-For must read "address", "address:port", "[v6]" and "[v6]:port", at each hop.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
apt-get update -qq
# shellcheck disable=SC2046 # what is missing, with all that it needs
apt-get download -qq -o APT::Sandbox::User=root $(apt-get install -s --no-install-recommends nginx='1.22.1-*' \
    apache2='2.4.*' haproxy='2.6.*' lighttpd='1.4.69-*' | awk '/^Inst/ { print $2 }')
for deb in *.deb; do dpkg -x "$deb" root; done
chmod 755 "$tmp"
export PATH="$tmp/root/usr/sbin:$tmp/root/usr/bin:$PATH:/usr/sbin" LD_LIBRARY_PATH="$tmp/root/usr/lib/x86_64-linux-gnu"
python3 -m venv py
py/bin/pip install -q uvicorn==0.54.0 werkzeug==3.1.9 hypercorn==0.18.0 aiohttp==3.14.5 aiohttp-remotes==1.4.0 python-ipware==4.1.1
npm install --silent --no-fund --no-audit express@5.3.0 fastify@5.12.8 koa@3.3.0 request-ip@3.3.0

cat >forwarded.py <<'PY'
import asyncio, http.client, os, socket, subprocess, sys, time
import aiohttp.web, aiohttp_remotes
from aiohttp.test_utils import TestClient, TestServer
from hypercorn.middleware import ProxyFixMiddleware
from python_ipware import IpWare
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
here, port = os.getcwd(), int(sys.argv[1])
headers = ["203.0.113.7", "203.0.113.7:4711", "[2001:db8::1]", "[2001:db8::1]:4711", "203.0.113.7:4711, 10.0.0.2:80"]
def asgi(wrapped):
    def client(header):
        seen = []
        async def app(scope, receive, send): seen.append(scope["client"][0])
        scope = {"type": "http", "scheme": "http", "client": ("127.0.0.1", 1), "headers": [(b"x-forwarded-for", header.encode())]}
        asyncio.run(wrapped(app)(scope, None, None))
        return seen[0]
    return client
def werkzeug(header):
    seen = []
    app = ProxyFix(lambda environ, start: seen.append(environ["REMOTE_ADDR"]) or [], x_for=1)
    app({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": header}, None)
    return seen[0]
def remotes(header):
    async def ask():
        app = aiohttp.web.Application()
        await aiohttp_remotes.setup(app, aiohttp_remotes.XForwardedRelaxed(header.count(",") + 1))
        async def show(request): return aiohttp.web.Response(text=request.remote)
        app.router.add_get("/", show)
        async with TestClient(TestServer(app)) as client:
            answer = await client.get("/", headers={"X-Forwarded-For": header})
            return await answer.text() if answer.status == 200 else str(answer.status)
    return asyncio.run(ask())
def write(name, text):
    with open(name, "w") as file:
        file.write(text)
    return os.path.abspath(name)
def usr(probe):
    return (f"{here}/root" if os.path.exists("root" + probe) else "") + "/usr"
modules = "".join(f"LoadModule {m}_module {usr('/usr/lib/apache2')}/lib/apache2/modules/mod_{m}.so\n" for m in ("mpm_event", "authz_core", "remoteip", "headers"))
shown = "".join(f'$HTTP["remoteip"] == "{ip}" {{ setenv.add-response-header = ("X-Client" => "{ip}") }}\n'
                for ip in ("127.0.0.1", "203.0.113.7", "2001:db8::1", "10.0.0.2"))
servers = {
    "nginx": ["nginx", "-c", write("nginx.conf", f"daemon off; master_process off; pid {here}/nginx.pid; error_log {here}/nginx.log; events {{}}\n"
        "http { access_log off; set_real_ip_from 127.0.0.0/8; set_real_ip_from 10.0.0.0/8; real_ip_header X-Forwarded-For; real_ip_recursive on;\n"
        f"server {{ listen 127.0.0.1:{port}; add_header X-Client $remote_addr; return 204; }} }}")],
    "HAProxy": ["haproxy", "-db", "-f", write("haproxy.cfg", "defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 1s\n"
        f"frontend f\n bind 127.0.0.1:{port}\n http-request set-src hdr_ip(x-forwarded-for,-1)\n http-request return status 200 hdr X-Client %[src]\n")],
    "Apache": ["apache2", "-DFOREGROUND", "-f", write("apache.conf", f"ServerRoot {here}\nServerName x\nListen 127.0.0.1:{port}\nPidFile {here}/apache.pid\n"
        f"ErrorLog {here}/apache.log\nDefaultRuntimeDir {here}\n{modules}RemoteIPHeader X-Forwarded-For\nRemoteIPInternalProxy 127.0.0.0/8 10.0.0.0/8\n"
        'Header always set X-Client "expr=%{REMOTE_ADDR}"\nUser nobody\nGroup nogroup\n')],
    "lighttpd": ["lighttpd", "-D", "-m", usr("/usr/lib/lighttpd") + "/lib/lighttpd", "-f", write("lighttpd.conf",
        f'server.modules = ("mod_extforward", "mod_setenv")\nserver.port = {port}\nserver.bind = "127.0.0.1"\nserver.document-root = "{here}"\n'
        f'extforward.forwarder = ("127.0.0.0/8" => "trust", "10.0.0.0/8" => "trust")\nextforward.headers = ("X-Forwarded-For")\n{shown}')],
    "npm": ["node", "forwarded.mjs", str(port)],
}
def ask(header, path="/"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path, headers={"X-Forwarded-For": header})
    return connection.getresponse().getheader("X-Client")
libraries = {"uvicorn": asgi(lambda app: ProxyHeadersMiddleware(app, "127.0.0.1,10.0.0.0/8")), "hypercorn": asgi(lambda app: ProxyFixMiddleware(app, trusted_hops=1)),
             "werkzeug": werkzeug, "ipware": lambda header: str(IpWare().get_client_ip({"HTTP_X_FORWARDED_FOR": header})[0]), "aiohttp-remotes": remotes}
found = {(header, name): read(header) for name, read in libraries.items() for header in headers}
for name, command in servers.items():
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=open("server.log", "a"))
    try:
        for _ in range(100):
            time.sleep(0.2)
            if socket.socket().connect_ex(("127.0.0.1", port)) == 0: break
        for reader in ("express", "fastify", "koa", "request-ip") if name == "npm" else (name,):
            found.update({(header, reader): ask(header, "/" + reader) for header in headers})
    finally:
        server.terminate()
        server.wait()
for header in headers:
    clients = {}
    for (text, name), client in found.items():
        if text == header:
            clients.setdefault(client, []).append(name)
    for client in sorted(clients):
        print(f"{header} -> {client}:", *sorted(clients[client], key=str.lower))
PY
cat >forwarded.mjs <<'JS'
import http from 'node:http';
import express from 'express';
import Fastify from 'fastify';
import Koa from 'koa';
import requestIp from 'request-ip';
const trusted = ['127.0.0.0/8', '10.0.0.0/8'];
const withExpress = express().set('trust proxy', trusted).use((request, answer) => answer.set('X-Client', request.ip).end());
const fastify = Fastify({ trustProxy: trusted });
fastify.get('/*', (request, answer) => answer.header('X-Client', request.ip).send());
await fastify.ready();
const koa = new Koa({ proxy: true, maxIpsCount: 1 }).use((context) => { context.set('X-Client', context.ip); context.body = ''; }).callback();
const readers = {
  '/express': withExpress,
  '/fastify': (request, answer) => fastify.routing(request, answer),
  '/koa': koa,
  '/request-ip': (request, answer) => answer.setHeader('X-Client', requestIp.getClientIp(request)).end(),
};
http.createServer((request, answer) => (readers[request.url] ?? ((_, unknown) => unknown.end()))(request, answer)).listen(Number(process.argv[2]), '127.0.0.1');
JS
# A port that no outgoing connection is given.
port=$(python3 -c 'import random, socket
while socket.socket().connect_ex(("127.0.0.1", port := random.randint(20000, 30000))) == 0: pass
print(port)')
py/bin/python forwarded.py "$port" >seen || { tail server.log; exit 1; }
cat seen
diff - seen <<'SEEN'
203.0.113.7 -> 203.0.113.7: aiohttp-remotes Apache express fastify HAProxy hypercorn ipware koa lighttpd nginx request-ip uvicorn werkzeug
203.0.113.7:4711 -> 127.0.0.1: Apache lighttpd
203.0.113.7:4711 -> 203.0.113.7: HAProxy ipware nginx request-ip uvicorn
203.0.113.7:4711 -> 203.0.113.7:4711: express fastify hypercorn koa werkzeug
203.0.113.7:4711 -> 400: aiohttp-remotes
[2001:db8::1] -> 127.0.0.1: Apache HAProxy nginx request-ip
[2001:db8::1] -> 2001:db8::1: ipware lighttpd uvicorn
[2001:db8::1] -> 400: aiohttp-remotes
[2001:db8::1] -> [2001:db8::1]: express fastify hypercorn koa werkzeug
[2001:db8::1]:4711 -> 127.0.0.1: Apache HAProxy lighttpd request-ip
[2001:db8::1]:4711 -> 2001:db8::1: ipware nginx uvicorn
[2001:db8::1]:4711 -> 400: aiohttp-remotes
[2001:db8::1]:4711 -> [2001:db8::1]:4711: express fastify hypercorn koa werkzeug
203.0.113.7:4711, 10.0.0.2:80 -> 10.0.0.2: HAProxy
203.0.113.7:4711, 10.0.0.2:80 -> 10.0.0.2:80: express fastify hypercorn koa werkzeug
203.0.113.7:4711, 10.0.0.2:80 -> 127.0.0.1: Apache lighttpd
203.0.113.7:4711, 10.0.0.2:80 -> 203.0.113.7: ipware nginx request-ip uvicorn
203.0.113.7:4711, 10.0.0.2:80 -> 400: aiohttp-remotes
SEEN
