#!/usr/bin/env bash
# A registry that offers Basic and Bearer: one client needs Bearer last, another needs it first.
#
# Versions: Debian 12's skopeo 1.9.3+ds1-1+b10 (stands for Go's containers/image); PyPI oras 0.2.43, crpy 0.4.0.
# Guess: each client looks through the challenges for one that it knows, so both may be offered, in any order, in one
#   header line or two; with a user name and a password at hand, Basic alone works with all.
# Seen (below; what the registry was shown, in order):
#   - oras takes the realm that stands LAST in the answer, whatever scheme it belongs to: with Basic behind Bearer
#     it asks nobody for a token and repeats the bare question four times, for more than 20 s;
#   - crpy looks at the FIRST challenge alone and gives up at Basic before Bearer;
#   - skopeo uses the first it meets, Basic or Bearer;
#   - Basic alone: oras repeats the bare question here too (it wants auth_backend="basic" in the caller's code, which
#     then asks for no token ever), and crpy knows no Basic at all;
#   - one line or two makes no difference to any of them.
# Why it matters: there is no order that serves all. A registry or a mirror that wants logins should send exactly one
#   challenge, and Bearer is the one that all three understand.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
apt-get update -qq
missing=$(apt-get install -s --no-install-recommends skopeo='1.9.3+ds1-1+b10' | awk '/^Inst/ { print $2 }')
# shellcheck disable=SC2086 # a list of words, with all that they need; none where they are installed
[ -z "$missing" ] || apt-get download -qq -o APT::Sandbox::User=root $missing
for deb in *.deb; do [ ! -e "$deb" ] || dpkg -x "$deb" root; done
export PATH="$tmp/root/usr/bin:$PATH" LD_LIBRARY_PATH="$tmp/root/usr/lib/x86_64-linux-gnu"
export HOME="$tmp" DOCKER_CONFIG="$tmp/none"
python3 -m venv py
py/bin/pip install -q oras==0.2.43 crpy==0.4.0
touch registries.conf

cat >challenges.py <<'PY'
import base64, http.server, json, subprocess, threading
shown, challenges = [], []
class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        login = self.headers["Authorization"] or "nothing"
        login = "Basic u:p" if login == "Basic dTpw" else login
        token = self.path.startswith("/token")
        shown.append(("token: " if token else "") + login)
        self.send_response(200 if token or login in ("Basic u:p", "Bearer T") else 401)
        for challenge in challenges:
            self.send_header("WWW-Authenticate", challenge.replace("HOST", HOST))
        body = json.dumps({"token": "T", "access_token": "T", "name": "a/b", "tags": ["1"]}).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
HOST = "127.0.0.1:%d" % server.server_port
threading.Thread(target=server.serve_forever, daemon=True).start()
json.dump({"auths": {HOST: {"auth": base64.b64encode(b"u:p").decode()}}}, open("auth.json", "w"))
oras = """import oras.client
client = oras.client.OrasClient(insecure=True)
client.auth.set_basic_auth("u", "p")
client.get_tags("%s/a/b")"""
crpy = """import asyncio
from crpy.registry import RegistryInfo
asyncio.run(RegistryInfo.from_url("http://%s/a/b").list_tags())"""
clients = {
    "skopeo": ["skopeo", "--registries-conf", "registries.conf", "list-tags", "--tls-verify=false", "--authfile", "auth.json", f"docker://{HOST}/a/b"],
    "crpy": ["py/bin/python", "-c", crpy % HOST],
    "oras": ["py/bin/python", "-c", oras % HOST],
}
basic, bearer = 'Basic realm="registry"', 'Bearer realm="http://HOST/token",service="s",scope="repository:a/b:pull"'
offers = {"Basic": [basic], "Bearer": [bearer], "Basic, Bearer": [f"{basic}, {bearer}"], "Bearer, Basic": [f"{bearer}, {basic}"],
          "Basic; Bearer": [basic, bearer], "Bearer; Basic": [bearer, basic]}
for name, command in clients.items():
    for offer, challenges in offers.items():
        shown.clear()
        try:
            subprocess.run(command, capture_output=True, timeout=20)
        except subprocess.TimeoutExpired:
            pass
        print(f"{name}, offered {offer}:", "in," if shown[-1] in ("Basic u:p", "Bearer T") else "NOT in,", " > ".join(dict.fromkeys(shown)), flush=True)
PY
python3 challenges.py >seen
cat seen
diff - seen <<'SEEN'
skopeo, offered Basic: in, nothing > Basic u:p
skopeo, offered Bearer: in, nothing > token: Basic u:p > Bearer T
skopeo, offered Basic, Bearer: in, nothing > Basic u:p
skopeo, offered Bearer, Basic: in, nothing > token: Basic u:p > Bearer T
skopeo, offered Basic; Bearer: in, nothing > Basic u:p
skopeo, offered Bearer; Basic: in, nothing > token: Basic u:p > Bearer T
crpy, offered Basic: NOT in, nothing
crpy, offered Bearer: in, nothing > token: nothing > Bearer T
crpy, offered Basic, Bearer: NOT in, nothing
crpy, offered Bearer, Basic: in, nothing > token: nothing > Bearer T
crpy, offered Basic; Bearer: NOT in, nothing
crpy, offered Bearer; Basic: in, nothing > token: nothing > Bearer T
oras, offered Basic: NOT in, nothing
oras, offered Bearer: in, nothing > token: Basic u:p > Bearer T
oras, offered Basic, Bearer: in, nothing > token: Basic u:p > Bearer T
oras, offered Bearer, Basic: NOT in, nothing
oras, offered Basic; Bearer: in, nothing > token: Basic u:p > Bearer T
oras, offered Bearer; Basic: NOT in, nothing
SEEN
