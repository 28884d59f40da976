#!/usr/bin/env bash
# "The same registrable domain" is a weak fence around registries, and libraries do not agree on it.
#
# Versions: PyPI publicsuffixlist 1.1.2.20261023, tldextract 5.4.0 (the list inside it), publicsuffix2 2.20191221;
#   npm psl 1.15.0, tldts 7.6.0. All work offline.
# Guess: the public suffix list keeps the tenants of registry and storage services apart, as it does for github.io;
#   and all libraries say the same about names that are in nobody's list.
# Seen (below):
#   - azurecr.io, pkg.dev, on.aws and amazonaws.com are ONE domain for all their tenants: the registries of two
#     strangers at Azure are "the same site", and so are an Amazon registry and any host below amazonaws.com;
#   - every service of a Kubernetes cluster (x.svc.cluster.local) is in the one domain cluster.local. npm psl says
#     there is none, tldextract says none, publicsuffix2 says "local";
#   - registry.corp and auth.corp are two domains for most, one ("corp") for publicsuffix2;
#   - an IPv4 address gets a domain from three of five: 0.1 for 10.0.0.1 as for 192.168.0.1.
# Why it matters: programs show credentials to a token realm on "the same registrable domain" as the registry,
#   so that auth.example.com may speak for registry.example.com. Test for addresses first, treat unknown top-level names
#   by themselves, and want the exact host (or a name that is written in the configuration) at the clouds.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv py
py/bin/pip install -q publicsuffixlist==1.1.2.20261023 tldextract==5.4.0 publicsuffix2==2.20191221
npm install --silent --no-fund --no-audit psl@1.15.0 tldts@7.6.0

hosts=(one.azurecr.io eu-docker.pkg.dev 1.dkr-ecr.eu-west-1.on.aws 1.dkr.ecr.eu-west-1.amazonaws.com team.github.io
    registry.a.svc.cluster.local registry.corp 10.0.0.1 192.168.0.1)
cat >domains.py <<'PY'
import sys
import publicsuffix2, tldextract
from publicsuffixlist import PublicSuffixList
lists = PublicSuffixList()
extract = tldextract.TLDExtract(suffix_list_urls=(), include_psl_private_domains=True)
for host in sys.argv[1:]:
    print(host, lists.privatesuffix(host), extract(host).top_domain_under_public_suffix or None, publicsuffix2.get_sld(host))
PY
cat >domains.js <<'JS'
const psl = require('psl'), tldts = require('tldts');
for (const host of process.argv.slice(2)) console.log(psl.get(host) ?? 'None', tldts.getDomain(host, { allowPrivateDomains: true }) ?? 'None');
JS
{
    echo 'host publicsuffixlist tldextract publicsuffix2 psl tldts'
    paste -d ' ' <(py/bin/python domains.py "${hosts[@]}") <(node domains.js "${hosts[@]}")
} | column -t >seen
cat seen
diff -b - seen <<'SEEN'
host                               publicsuffixlist  tldextract      publicsuffix2                psl             tldts
one.azurecr.io                     azurecr.io        azurecr.io      azurecr.io                   azurecr.io      azurecr.io
eu-docker.pkg.dev                  pkg.dev           pkg.dev         pkg.dev                      pkg.dev         pkg.dev
1.dkr-ecr.eu-west-1.on.aws         on.aws            on.aws          on.aws                       on.aws          on.aws
1.dkr.ecr.eu-west-1.amazonaws.com  amazonaws.com     amazonaws.com   ecr.eu-west-1.amazonaws.com  amazonaws.com   amazonaws.com
team.github.io                     team.github.io    team.github.io  team.github.io               team.github.io  team.github.io
registry.a.svc.cluster.local       cluster.local     None            local                        None            cluster.local
registry.corp                      registry.corp     None            corp                         registry.corp   registry.corp
10.0.0.1                           0.1               None            1                            0.1             None
192.168.0.1                        0.1               None            1                            0.1             None
SEEN
