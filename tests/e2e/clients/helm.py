"""What Helm gets of a chart: its versions, and the digests of the archives it pulls for some wishes.

With "push" it makes the versions and pushes them.
"""

import hashlib
import pathlib
import sys
import tempfile

from helm_python.chart import Chart
from helm_python.registry import RegistryClient

registry, repository, *wishes = sys.argv[1:]
name = repository.rsplit("/", 1)[1]
reference = f"oci://{registry.split('://')[1]}/{repository}"
with tempfile.TemporaryDirectory() as directory:
    directory = pathlib.Path(directory)
    client = RegistryClient(plain_http=True, credentials_file=directory / "credentials")
    if wishes[0] == "push":
        for version in wishes[1:]:
            chart = directory / name
            chart.mkdir(exist_ok=True)
            (chart / "Chart.yaml").write_text(f"apiVersion: v2\nname: {name}\nversion: {version}\n")
            archive = pathlib.Path(Chart.load(chart).save(directory))
            client.push(archive, reference.rsplit("/", 1)[0])
            print(version, hashlib.sha256(archive.read_bytes()).hexdigest())
    else:
        print("versions:", *client.tags(reference.removeprefix("oci://")))
        for wish in wishes:
            target = directory / "pulled"
            target.mkdir()
            client.pull(reference, version=wish, destination=target)
            archive, = target.iterdir()
            print(wish, archive.name, hashlib.sha256(archive.read_bytes()).hexdigest())
            archive.unlink()
            target.rmdir()
