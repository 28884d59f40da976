#!/usr/bin/env bash
# Retry-After: four of fourteen do not look at it, and one gives up where it says 0 or a date that has passed.
#
# Versions: Debian 12's skopeo 1.9.3+ds1-1+b10; PyPI urllib3 2.8.0 (requests 2.34.2), httpx-retries
#   0.6.0, azure-core 1.41.0, aiohttp-retry 2.9.1; npm ky 1.14.3, got 14.6.6, axios-retry 4.5.0, retry-axios 4.0.3,
#   undici 7.30.2, fetch-retry 6.0.0, make-fetch-happen 15.0.6, ofetch 1.5.1, @azure/core-rest-pipeline 1.24.0 (Node 20).
# Guess: what retries a 429 by itself waits for as long as Retry-After says, in seconds or as a date (RFC 9110 10.2.3);
#   with 0, and with a date in the past, it asks again at once.
# Seen (below; one 429, and 200 to whatever comes after it):
#   - aiohttp-retry, fetch-retry, make-fetch-happen (npm's own) and ofetch wait for a time of their own, a second at most,
#     whatever the header says;
#   - retry-axios gives up with 0, and with a date one minute ago, which a server sends whose clock is behind the
#     client's; without the header, or with a date to come, it asks again;
#   - the others do as guessed, in both forms.
# Why it matters: a registry or mirror that limits should send seconds, never a date, and at least 1. It cannot count on
#   being left alone: what comes back too early must cost little.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
export PATH="$tmp/root/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin"
apt-get update -qq
missing=$(apt-get install -s --no-install-recommends skopeo='1.9.3+ds1-1+b10' | awk '/^Inst/ { print $2 }')
# shellcheck disable=SC2086 # a list of words, with all that they need; none where they are installed
[ -z "$missing" ] || apt-get download -qq -o APT::Sandbox::User=root $missing
for deb in *.deb; do [ ! -e "$deb" ] || dpkg -x "$deb" root; done
export LD_LIBRARY_PATH="$tmp/root/usr/lib/x86_64-linux-gnu" HOME="$tmp"
unset HTTP_PROXY HTTPS_PROXY http_proxy https_proxy
python3 -m venv py
py/bin/pip install -q urllib3==2.8.0 requests==2.34.2 httpx==0.28.1 httpx-retries==0.6.0 azure-core==1.41.0 aiohttp-retry==2.9.1
npm install --silent --no-fund --no-audit ky@1.14.3 got@14.6.6 axios@1.21.1 axios-retry@4.5.0 retry-axios@4.0.3 undici@7.30.2 \
    fetch-retry@6.0.0 make-fetch-happen@15.0.6 ofetch@1.5.1 @azure/core-rest-pipeline@1.24.0

cat >ask.py <<'PY'
import asyncio, sys
name, url = sys.argv[1:]
if name == "requests":
    import requests, requests.adapters, urllib3
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(max_retries=urllib3.Retry(3, status_forcelist=[429])))
    session.get(url)
elif name == "httpx-retries":
    import httpx, httpx_retries
    httpx.Client(transport=httpx_retries.RetryTransport()).get(url)
elif name == "azure-core":
    from azure.core import PipelineClient
    from azure.core.pipeline.policies import RetryPolicy
    from azure.core.rest import HttpRequest
    PipelineClient(url, policies=[RetryPolicy()]).send_request(HttpRequest("GET", url))
elif name == "aiohttp-retry":
    from aiohttp_retry import ExponentialRetry, RetryClient
    async def main():
        async with RetryClient(retry_options=ExponentialRetry(statuses={429})) as client, client.get(url):
            pass
    asyncio.run(main())
PY
cat >ask.mjs <<'JS'
const [name, url] = process.argv.slice(2);
const limited = error => error.response?.status === 429;
const ask = {
  ky: async ({ default: ky }) => ky(url),
  got: async ({ default: got }) => got(url),
  'axios-retry': async ({ default: retry }) => {
    const client = (await import('axios')).default.create();
    retry(client, { retryCondition: limited });
    return client.get(url);
  },
  'retry-axios': async ({ attach }) => {
    const client = (await import('axios')).default.create();
    client.defaults.raxConfig = { instance: client };
    attach(client);
    return client.get(url);
  },
  undici: async ({ Agent, RetryAgent, request }) => (await request(url, { dispatcher: new RetryAgent(new Agent()) })).body.text(),
  'fetch-retry': async ({ default: retry }) => retry(fetch, { retryOn: [429] })(url),
  'make-fetch-happen': async ({ default: fetch }) => fetch(url, { retry: { retries: 2 } }),
  ofetch: async ({ ofetch }) => ofetch(url),
  '@azure/core-rest-pipeline': async ({ createPipelineFromOptions, createDefaultHttpClient, createPipelineRequest }) =>
    createPipelineFromOptions({}).sendRequest(createDefaultHttpClient(), createPipelineRequest({ url, allowInsecureConnection: true })),
};
await ask[name](await import(name));
process.exit(0);
JS
cat >retry.py <<'PY'
import concurrent.futures, email.utils, http.server, subprocess, threading, time
times = {}
class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        seen = times.setdefault(self.path, [])
        first = not seen and self.path != "/v2/"
        seen.append(time.monotonic())
        form = self.path.split("/")[2]
        body = b'{"name":"a","tags":["1"]}'
        self.send_response(429 if first else 200)
        if first:
            self.send_header("Retry-After", {"4": "4", "0": "0", "date": email.utils.formatdate(time.time() + 5, usegmt=True),
                                             "past": email.utils.formatdate(time.time() - 60, usegmt=True)}[form])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
server.handle_error = lambda *_: None
threading.Thread(target=server.serve_forever, daemon=True).start()
host = "127.0.0.1:%d" % server.server_port
python = ["requests", "httpx-retries", "azure-core", "aiohttp-retry"]
node = ["ky", "got", "axios-retry", "retry-axios", "undici", "fetch-retry", "make-fetch-happen", "ofetch", "@azure/core-rest-pipeline"]
commands = {"skopeo": ["skopeo", "list-tags", "--tls-verify=false", "docker://NAME"]}
commands |= {name: ["py/bin/python", "ask.py", name, "URL"] for name in python} | {name: ["node", "ask.mjs", name, "URL"] for name in node}
def ask(name, command, form):
    image = f"{form}/{name.replace('@', '')}"
    path = f"/v2/{image}/tags/list"
    subprocess.run([word.replace("URL", f"http://{host}{path}").replace("NAME", f"{host}/{image}") for word in command], capture_output=True, timeout=100)
    first, *more = times[path]
    told = {"4": 4, "date": 4, "0": 0, "past": 0}[form]
    return f"{form}: " + ("gives up" if not more else "too early" if more[0] - first < told - 0.2 else "waits" if told else "asks again")
for name, command in commands.items():
    with concurrent.futures.ThreadPoolExecutor() as threads:
        print(f"{name}:", ", ".join(threads.map(lambda form: ask(name, command, form), ["4", "date", "0", "past"])), flush=True)
PY
python3 retry.py >seen
cat seen
diff - seen <<'SEEN'
skopeo: 4: waits, date: waits, 0: asks again, past: asks again
requests: 4: waits, date: waits, 0: asks again, past: asks again
httpx-retries: 4: waits, date: waits, 0: asks again, past: asks again
azure-core: 4: waits, date: waits, 0: asks again, past: asks again
aiohttp-retry: 4: too early, date: too early, 0: asks again, past: asks again
ky: 4: waits, date: waits, 0: asks again, past: asks again
got: 4: waits, date: waits, 0: asks again, past: asks again
axios-retry: 4: waits, date: waits, 0: asks again, past: asks again
retry-axios: 4: waits, date: waits, 0: gives up, past: gives up
undici: 4: waits, date: waits, 0: asks again, past: asks again
fetch-retry: 4: too early, date: too early, 0: asks again, past: asks again
make-fetch-happen: 4: too early, date: too early, 0: asks again, past: asks again
ofetch: 4: too early, date: too early, 0: asks again, past: asks again
@azure/core-rest-pipeline: 4: waits, date: waits, 0: asks again, past: asks again
SEEN
